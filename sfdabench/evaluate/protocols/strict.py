"""The common protocol: every task, every method, no case ever dropped."""

from sfdabench.core.protocol import Protocol

STRICT = Protocol(
    title="Original grid, threshold 0.5, undefined cases penalised",
    paper=None,
    unit="case",
    geometry="original",
    spacing="mm",
    threshold=0.5,
    smoothing=0.0,
    metrics=("dice", "iou", "hd", "hd95", "assd"),
    empty="penalise",
    std="sample",
)
