"""A protocol: everything between a probability map and a number in a table, by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from sfdabench.core.method import Paper


@dataclass(frozen=True)
class Protocol:
    """Scores are kept per case; a mean is over cases.

    unit: what one score belongs to: "case" (an image, or a whole volume) or "slice" (each plane
        of a volume is a case of its own).
    geometry: "original" scores in the grid of the authors' label file, "network" in the grid
        the network works on (labels resized by nearest neighbour).
    spacing: "mm" where the data set knows it (pixels elsewhere), or "pixel" always.
    threshold: a pixel is foreground iff its probability is above this (sigmoid head only); by
        class where they differ.
    smoothing: added to numerator and denominator of Dice.
    metrics: names of `evaluate.metrics.Comparison`, in table order.
    empty: what an undefined value becomes. "penalise": both masks empty = Dice 1 and distance 0,
        one empty = Dice 0 and distance = image diagonal. "drop": the case leaves that mean.
        "zero": undefined overlap counts 0, undefined distance is dropped.
    std: "population" (ddof 0) or "sample" (ddof 1).
    mode: of the network at test. "train": batch statistics and dropout, one image at a time.
    postprocess: names in `evaluate.postprocess.STEPS`, applied to each class's mask of an image.
    references: "majority" scores against the reference mask; "raters" against each rater's, as
        a case of its own, in data sets that have several.
    skip_empty: leave out planes whose reference is empty (unit "slice" only).
    legacy: defects of a reference implementation to reproduce; none unless named.
        "rowwise_hausdorff": a Hausdorff distance between image rows taken as points, under
        `hd_rowwise`. "floored_masks": reference masks interpolated on the network's grid and cut
        to whole numbers, which erodes them.
    exceptions: data set -> fields that differ where it is the target.
    """

    title: str
    paper: Paper | None
    unit: Literal["case", "slice"]
    geometry: Literal["original", "network"]
    spacing: Literal["mm", "pixel"]
    threshold: float | Mapping[str, float]
    smoothing: float
    metrics: tuple[str, ...]
    empty: Literal["penalise", "drop", "zero"]
    std: Literal["population", "sample"]
    mode: Literal["eval", "train"] = "eval"
    postprocess: tuple[str, ...] = ()
    references: Literal["majority", "raters"] = "majority"
    skip_empty: bool = False
    legacy: tuple[Literal["rowwise_hausdorff", "floored_masks"], ...] = ()
    exceptions: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def on(self, dataset: str) -> Protocol:
        """The protocol as it is where this data set is the target."""
        return replace(self, exceptions={}, **self.exceptions.get(dataset, {}))

    def threshold_of(self, class_: str) -> float:
        """The threshold of one class."""
        return self.threshold if isinstance(self.threshold, float) else self.threshold[class_]
