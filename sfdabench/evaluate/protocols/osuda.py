"""How OSUDA scored, as far as its paper says: volumes, Dice and Hausdorff distance in mm."""

from sfdabench.core.method import Paper
from sfdabench.core.protocol import Protocol

OSUDA = Protocol(
    title="OSUDA: volumes, Dice and maximum Hausdorff distance in mm",
    paper=Paper(
        "Adapting off-the-shelf source segmenter for target medical image segmentation",
        "MICCAI 2021",
        "https://arxiv.org/abs/2106.12497",
    ),
    unit="case",
    geometry="original",  # ours: the paper does not say
    spacing="mm",  # paper, Tables 1 and 2
    threshold=0.5,
    smoothing=0.0,
    metrics=("dice", "hd"),  # ours: maximum; the paper's values of 38 to 60 fit no percentile
    empty="penalise",  # ours: the paper does not say, and LGG without enhancement makes it count
    std="sample",
)
