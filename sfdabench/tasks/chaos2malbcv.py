"""Abdominal organs from MRI to CT: APL's tables, after SIFA (methods-cross-modality.md §1.1)."""

from sfdabench.core.head import SOFTMAX
from sfdabench.core.method import Paper
from sfdabench.core.task import Domain, Recipe, Task

TASK = Task(
    title="Abdomen, CHAOS T2-SPIR MRI → MALBCV CT",
    paper=Paper(
        "Adaptive pseudo labeling for source-free domain adaptation in medical image segmentation",
        "ICASSP 2022",
        "no public code",
    ),
    source=(Domain("chaos", train="t2spir-train", test="t2spir-test", ceiling=99.5),),
    target=Domain("malbcv", window=(-125.0, 275.0)),  # public recipe (ProtoContra)
    classes={"liver": (1,), "right_kidney": (2,), "left_kidney": (3,), "spleen": (4,)},
    channels=1,
    head=SOFTMAX,
    crop="none",
    intensity="zscore",  # SIFA: each volume
    source_planes="labelled",  # ours: the range of the organs, as the public recipes
    target_planes="all",  # ours: no label may choose them
    augmentation="anatomy",
    profiles={
        "paper": Recipe(
            size=256,  # paper
            network="deeplabv2_resnet101",
            augmentation="anatomy",
            loss="cross_entropy_dice",  # SIFA, code
            auxiliary_weight=0.1,  # AdaptSegNet and ADVENT, code
            epochs=100,  # ours
            batch_size=8,  # SIFA, code
            learning_rate=1e-4,  # ours
            decay=0.97,  # ours
            validate_every=5,
            threshold=0.5,
        ),
        "phantom": Recipe(
            size=64,
            network="unet_dual",  # two heads, as the paper's
            network_fields={"width": 16, "depth": 4},  # ours: smaller ones find the liver only
            augmentation="anatomy",
            loss="cross_entropy_dice",
            epochs=8,
            batch_size=4,
            learning_rate=2e-3,
            decay=0.85,
            validate_every=2,
            threshold=0.5,
        ),
    },
    protocols=("strict", "sifa"),
)
