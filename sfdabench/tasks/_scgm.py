"""What the spinal cord tasks share: self-ensembling's set-up (methods-cross-modality.md §6)."""

from sfdabench.core.head import SIGMOID
from sfdabench.core.method import Paper
from sfdabench.core.task import Centre, Domain, Recipe, Task

PERONE = Paper(
    "Unsupervised domain adaptation for medical imaging segmentation with self-ensembling",
    "NeuroImage 2019",
    "https://github.com/neuropoly/domainadaptation",
)
PAPER = Recipe(
    size=200,  # paper: 200 px of 0.25 mm
    network="unet_gn",
    augmentation="spinal_cord",  # code
    loss="dice",  # code
    epochs=350,  # paper
    batch_size=12,  # paper
    learning_rate=6e-4,  # paper
    beta2=0.999,  # code: the paper's beta1 of 0.99 is not in it
    schedule="ramp_and_cosine",  # paper §4.4: up for 50 epochs, then down as a cosine
    ramp=1 / 7,
    weight_decay=6e-4,  # code
    select="last",  # code
    validate_every=25,
    threshold=0.9,  # code
)
PHANTOM = Recipe(
    size=64,
    network="unet_gn",
    network_fields={"width": 16, "dropout": 0.05},
    augmentation="spinal_cord",
    loss="dice",
    epochs=8,
    batch_size=8,
    learning_rate=6e-3,
    decay=0.75,
    select="last",
    validate_every=2,
    threshold=0.5,
)


def grey_matter(site: int) -> Task:
    """Grey matter, from sites 1 and 2 to another one.

    The source has no held-out subject, as in the paper: its own test split are the images it
    learns from, and the last epoch is kept. A supervised upper bound learns from the labelled
    subjects that are scored, since the others have no public masks.
    """
    labelled = f"site{site}-labelled"
    return Task(
        title=f"Spinal cord grey matter, SCGM sites 1 and 2 → site {site}",
        paper=PERONE,
        source=tuple(
            Domain("scgm", train=f"site{i}-labelled", test=f"site{i}-labelled") for i in (1, 2)
        ),
        target=Domain("scgm", train=f"site{site}-unlabelled", test=labelled, oracle=labelled),
        classes={"grey_matter": (1,)},
        channels=1,
        head=SIGMOID,
        crop=Centre(50, "mm"),  # paper: 200 px of 0.25 mm
        intensity="zscore_plane",  # paper
        source_planes="labelled",  # code: slices without grey matter are left out
        target_planes="nonzero",  # code
        augmentation="spinal_cord",
        profiles={"paper": PAPER, "phantom": PHANTOM},
        protocols=("strict", "self_ensembling"),
    )
