"""High-grade to low-grade glioma, four modalities and four classes: OSUDA Table 1."""

from sfdabench.core.head import SOFTMAX
from sfdabench.core.task import Centre, Domain, Task
from sfdabench.tasks._brats import OSUDA, PAPER, PHANTOM

TASK = Task(
    title="Brain tumour, BraTS 2018 HGG → LGG",
    paper=OSUDA,
    source=(Domain("brats2018", train="hgg-*-train", test="hgg-*-test"),),
    target=Domain("brats2018", train="lgg-*-train", test="lgg-*-test"),
    classes={"necrosis": (1,), "oedema": (2,), "enhancing": (4,)},
    regions={
        "whole": ("necrosis", "oedema", "enhancing"),
        "enhancing": ("enhancing",),
        "core_osuda": ("necrosis",),  # the paper's CoreT: necrotic and non-enhancing alone
        "core_brats": ("necrosis", "enhancing"),  # BraTS's tumour core
    },
    channels=4,
    head=SOFTMAX,
    crop=Centre(192, "mm"),  # ours: a crop of 128 cuts the brain
    intensity="zscore_nonzero",  # ours: over the brain, background 0
    source_planes="labelled",  # ours
    target_planes="nonzero",  # ours: no label may choose them
    augmentation="anatomy",
    profiles={"paper": PAPER, "phantom": PHANTOM},
    protocols=("strict", "osuda"),
)
