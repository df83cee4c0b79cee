"""What the brain tumour tasks share: OSUDA's set-up (methods-cross-modality.md §1.2 and §5.3)."""

from sfdabench.core.head import SIGMOID
from sfdabench.core.method import Paper
from sfdabench.core.task import Centre, Domain, Recipe, Task

OSUDA = Paper(
    "Adapting off-the-shelf source segmenter for target medical image segmentation",
    "MICCAI 2021",
    "https://arxiv.org/abs/2106.12497",
)
PAPER = Recipe(
    size=128,  # paper §4
    network="unet_bn",  # paper §4: 2D U-Net with batch norm
    augmentation="anatomy",  # ours
    loss="cross_entropy_dice",  # ours
    epochs=100,  # ours
    batch_size=32,  # ours
    learning_rate=1e-3,  # ours
    decay=0.97,  # ours
    validate_every=5,
    threshold=0.5,
)
PHANTOM = Recipe(
    size=64,
    network="unet_bn",
    network_fields={"width": 16, "depth": 3},
    augmentation="anatomy",
    loss="cross_entropy_dice",
    epochs=10,
    batch_size=4,
    learning_rate=2e-3,
    decay=0.87,
    validate_every=2,
    threshold=0.5,
)


def whole_tumour(title: str, modality: str) -> Task:
    """Whole tumour, from T2 of one half of the subjects to another modality of the other half."""
    return Task(
        title=title,
        paper=OSUDA,
        source=(Domain("brats2018", train="*-a-train", test="*-a-test", channels=("t2",)),),
        target=Domain("brats2018", train="*-b-train", test="*-b-test", channels=(modality,)),
        classes={"whole": (1, 2, 4)},
        channels=1,
        head=SIGMOID,
        crop=Centre(192, "mm"),  # ours: a crop of 128 cuts the brain
        intensity="zscore_nonzero",  # ours: over the brain, background 0
        source_planes="labelled",  # ours
        target_planes="nonzero",  # ours: no label may choose them
        augmentation="anatomy",
        profiles={"paper": PAPER, "phantom": PHANTOM},
        protocols=("strict", "osuda"),
    )
