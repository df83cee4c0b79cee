"""How BEAL scored: the authors' grid, masks cleaned up, thresholds of its own on Drishti-GS."""

from sfdabench.core.method import Paper
from sfdabench.core.protocol import Protocol

BEAL = Protocol(
    title="BEAL: original grid, threshold 0.75 (Drishti-GS: cup 0.1, disc 0.5), masks cleaned up",
    paper=Paper(
        "Boundary and entropy-driven adversarial learning for fundus image segmentation",
        "MICCAI 2019",
        "https://github.com/emma-sjwang/BEAL",
    ),
    unit="case",
    geometry="original",
    spacing="pixel",
    threshold=0.75,  # code
    smoothing=1.0,  # code: (2 I + 1) / (P + G + 1)
    metrics=("dice",),
    empty="penalise",  # has no part: a smoothed Dice is always defined
    std="population",
    postprocess=("median_five_times", "erode_diamond", "largest_component", "fill_holes"),  # code
    exceptions={"drishti": {"threshold": {"cup": 0.1, "disc": 0.5}}},  # code
)
