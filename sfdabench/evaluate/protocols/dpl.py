"""How DPL scored: CBMT's evaluator on a network in train mode, one image at a time."""

from sfdabench.core.method import Paper
from sfdabench.core.protocol import Protocol

DPL = Protocol(
    title="DPL: network grid, threshold 0.75, batch statistics and dropout at test",
    paper=Paper(
        "Source-free domain adaptive fundus image segmentation with denoised pseudo-labeling",
        "MICCAI 2021",
        "https://github.com/cchen-cc/SFDA-DPL",
    ),
    unit="case",
    geometry="network",
    spacing="pixel",
    threshold=0.75,  # code
    smoothing=1.0,  # code: (2 I + 1) / (P + G + 1)
    metrics=("dice", "assd_mean"),
    empty="drop",  # code: undefined is dropped
    std="population",
    # code; it also drops the batch norm of the pooled branch, which changes nothing: what that
    # branch adds is the same at every pixel, and the statistics of one image take it out again
    mode="train",
)
