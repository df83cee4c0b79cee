"""How self-ensembling scored: slice by slice, against each rater, on its 0.25 mm grid."""

from sfdabench.core.method import Paper
from sfdabench.core.protocol import Protocol

SELF_ENSEMBLING = Protocol(
    title="Self-ensembling: slices with grey matter, each rater apart, threshold 0.9",
    paper=Paper(
        "Unsupervised domain adaptation for medical imaging segmentation with self-ensembling",
        "NeuroImage 2019",
        "https://github.com/neuropoly/domainadaptation",
    ),
    unit="slice",
    geometry="network",
    spacing="mm",
    threshold=0.9,  # code, for baseline and adapted alike
    smoothing=0.0,
    metrics=("dice", "iou", "precision", "recall", "specificity", "hd95"),
    empty="zero",  # code: undefined is 0
    std="population",
    references="raters",  # code: a sample is a slice and one rater's mask
    skip_empty=True,  # code: slices whose rater marked nothing are left out
)
