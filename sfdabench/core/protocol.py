"""A protocol: everything between a probability map and a number in a table, by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sfdabench.core.method import Paper


@dataclass(frozen=True)
class Protocol:
    """Scores are kept per case; a mean is over cases.

    unit: what one score belongs to.
    geometry: "original" scores in the grid of the authors' label file, "network" in the grid
        the network works on (labels resized by nearest neighbour).
    spacing: "mm" where the data set knows it (pixels elsewhere), or "pixel" always.
    threshold: a pixel is foreground iff its probability is above this (sigmoid head only).
    smoothing: added to numerator and denominator of Dice.
    metrics: names of `evaluate.metrics.Comparison`, in table order.
    empty: what an undefined value becomes. "penalise": both masks empty = Dice 1 and distance 0,
        one empty = Dice 0 and distance = image diagonal. "drop": the case leaves that mean.
    std: "population" (ddof 0) or "sample" (ddof 1).
    """

    title: str
    paper: Paper | None
    unit: Literal["image", "volume"]
    geometry: Literal["original", "network"]
    spacing: Literal["mm", "pixel"]
    threshold: float
    smoothing: float
    metrics: tuple[str, ...]
    empty: Literal["penalise", "drop"]
    std: Literal["population", "sample"]
