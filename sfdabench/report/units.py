"""The units in which scores and times are printed."""

from __future__ import annotations

from sfdabench.core import registry

PERCENT = frozenset({"dice", "iou", "precision", "recall", "specificity"})
NAMES = {"dice": "Dice", "iou": "IoU", "hd": "HD", "hd95": "HD95", "assd": "ASSD"}


def scale(metric: str) -> float:
    """What a stored score is multiplied by to be in its printed unit."""
    return 100.0 if metric in PERCENT else 1.0


def unit(metric: str, protocol: str, spacing_unit: str) -> str:
    """%, mm or px; `spacing_unit` is a record's, and the protocol may know pixels only."""
    if metric in PERCENT:
        return "%"
    pixels = registry.load("protocols", protocol).spacing == "pixel" or spacing_unit == "pixel"
    return "px" if pixels else "mm"


def axis_label(metric: str, protocol: str, spacing_unit: str) -> str:
    """A metric with its unit."""
    name = NAMES.get(metric) or NAMES.get(metric.partition("_")[0]) or metric
    return f"{name} ({unit(metric, protocol, spacing_unit)})"


def duration(seconds: float) -> str:
    """'48 s', '12 min', '3.5 h'."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
