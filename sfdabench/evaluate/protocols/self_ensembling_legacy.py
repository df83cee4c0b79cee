"""Self-ensembling's evaluation with two defects of its code, to see how far they move a number."""

from dataclasses import replace

from sfdabench.evaluate.protocols.self_ensembling import SELF_ENSEMBLING as _PROTOCOL

SELF_ENSEMBLING_LEGACY = replace(
    _PROTOCOL,
    title="Self-ensembling with its row-wise Hausdorff and its floored reference masks",
    metrics=("dice", "iou", "precision", "recall", "specificity"),
    legacy=("rowwise_hausdorff", "floored_masks"),  # methods-cross-modality.md §1.4
)
