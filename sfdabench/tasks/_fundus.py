"""What the fundus tasks share."""

from sfdabench.core.head import SIGMOID
from sfdabench.core.method import Paper
from sfdabench.core.task import Domain, Recipe, Task

CBMT = Paper(
    "Source-free domain adaptive fundus image segmentation with class-balanced mean teacher",
    "MICCAI 2023",
    "https://github.com/lloongx/SFDA-CBMT",
)

# methods-fundus.md §5: CBMT's source training.
PAPER = Recipe(
    size=512,
    network="deeplabv3plus_mobilenetv2",
    augmentation="fundus",
    epochs=200,  # paper §3
    batch_size=8,  # code
    learning_rate=1e-3,  # paper §3
    decay=0.98,  # paper §3, an epoch
    validate_every=5,  # code
    threshold=0.75,  # code: validation scores at the threshold of the test
)

# Ours: the whole job in under a minute on two cores.
PHANTOM = Recipe(
    size=72,
    network="unet_small",
    augmentation="light",
    epochs=15,
    batch_size=8,
    learning_rate=3e-3,
    decay=0.9,
    validate_every=3,
    threshold=0.5,
)


def fundus(title: str, source: str, target: str) -> Task:
    """Optic disc and cup, from one data set to another."""
    return Task(
        title=title,
        paper=CBMT,
        source=(Domain(source),),
        target=Domain(target),
        classes={"cup": (2,), "disc": (1, 2)},
        channels=3,
        head=SIGMOID,
        crop="disc",
        intensity="symmetric",
        profiles={"paper": PAPER, "phantom": PHANTOM},
        protocols=("strict", "cbmt"),
    )
