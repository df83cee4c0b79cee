"""How CBMT scored: its network's 512x512 grid, threshold 0.75, undefined distances dropped."""

from sfdabench.core.method import Paper
from sfdabench.core.protocol import Protocol

CBMT = Protocol(
    title="CBMT: network grid, threshold 0.75, Dice smoothed by 1, empty masks dropped from ASSD",
    paper=Paper(
        "Source-free domain adaptive fundus image segmentation with class-balanced mean teacher",
        "MICCAI 2023",
        "https://github.com/lloongx/SFDA-CBMT",
    ),
    unit="case",
    geometry="network",
    spacing="pixel",
    threshold=0.75,  # paper §3, after BEAL
    smoothing=1.0,  # code: (2 I + 1) / (P + G + 1)
    metrics=("dice", "assd_mean"),  # MedPy 0.4 averages the two directed means
    empty="drop",  # code: -1 for an empty mask, removed before the mean
    std="population",  # code
)
