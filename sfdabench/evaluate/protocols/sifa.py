"""How SIFA scored, and with it APL's tables: whole volumes on the network's grid, in voxels."""

from sfdabench.core.method import Paper
from sfdabench.core.protocol import Protocol

SIFA = Protocol(
    title="SIFA: volumes on the network grid, ASSD in voxels, undefined Dice 0, distance dropped",
    paper=Paper(
        "Unsupervised bidirectional cross-modality adaptation via deeply synergistic image and "
        "feature alignment for medical image segmentation",
        "IEEE TMI 2020",
        "https://github.com/cchen-cc/SIFA",
    ),
    unit="case",
    geometry="network",
    spacing="pixel",  # code: no spacing is passed
    threshold=0.5,  # has no part: the head is a softmax
    smoothing=0.0,
    metrics=("dice", "assd_mean"),  # MedPy 0.4 averages the two directed means
    empty="zero",  # MedPy: Dice 0 of two empty masks; its ASSD stops at one, ours leaves it out
    std="population",  # code
)
