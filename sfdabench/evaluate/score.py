"""Masks and references -> per-case scores and their means, under the rules of a protocol."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sfdabench.core.protocol import Protocol
from sfdabench.core.task import Task
from sfdabench.evaluate.legacy import rowwise_hausdorff
from sfdabench.evaluate.metrics import compare

OVERLAP = frozenset({"dice", "iou", "precision", "recall", "specificity"})


@dataclass(frozen=True)
class CaseScore:
    """One number: `value` is None where the protocol drops it; `undefined` before any rule."""

    case: str
    class_: str
    metric: str
    value: float | None
    undefined: bool


def region_masks(label: np.ndarray, task: Task) -> np.ndarray:
    """A label map (*space) -> boolean (regions, *space), in the order of `task.scored`."""
    return np.stack(
        [
            np.isin(label, [value for name in members for value in task.classes[name]])
            for members in task.scored.values()
        ]
    )


def score_pair(
    prediction: np.ndarray,
    reference: np.ndarray,
    protocol: Protocol,
    spacing: Sequence[float] | None = None,
) -> dict[str, tuple[float | None, bool]]:
    """Metric -> (value or None where dropped, whether it was undefined), for one structure.

    prediction, reference: boolean (*space). spacing: mm an axis, None for pixels.
    Undefined metrics follow `protocol.empty`.
    """
    spacing = spacing if protocol.spacing == "mm" else None
    far = not OVERLAP.issuperset(protocol.metrics)
    outcome = compare(prediction, reference, spacing=spacing, distances=far)
    steps = spacing or [1.0] * prediction.ndim
    diagonal = math.sqrt(sum((n * s) ** 2 for n, s in zip(prediction.shape, steps, strict=True)))
    both_empty = not prediction.any() and not reference.any()
    scores: dict[str, tuple[float | None, bool]] = {}
    for metric in protocol.metrics:
        value, undefined = getattr(outcome, metric), metric in outcome.undefined
        if metric == "dice" and protocol.smoothing:
            # numpy's own numbers are written to a file as "np.float64(...)"
            shared = int(np.count_nonzero(prediction & reference))
            total = int(np.count_nonzero(prediction)) + int(np.count_nonzero(reference))
            value = (2 * shared + protocol.smoothing) / (total + protocol.smoothing)
            undefined = False
        if undefined:
            if protocol.empty == "drop" or (protocol.empty == "zero" and metric not in OVERLAP):
                value = None
            elif protocol.empty == "zero":
                value = 0.0
            elif metric in OVERLAP:
                value = 1.0 if both_empty else 0.0
            else:
                value = 0.0 if both_empty else diagonal
        scores[metric] = (value, undefined)
    if "rowwise_hausdorff" in protocol.legacy:
        scores["hd_rowwise"] = (rowwise_hausdorff(prediction, reference), False)
    return scores


@dataclass
class Tally:
    """Scores of one protocol, gathered case by case.

    empties: class -> how many cases had an empty prediction, an empty reference, or both.
    """

    protocol: Protocol
    classes: Sequence[str]
    scores: list[CaseScore] = field(default_factory=list)
    empties: dict[str, dict[str, int]] = field(init=False)

    def __post_init__(self) -> None:
        """Begin with nothing counted."""
        self.empties = {n: {"prediction": 0, "reference": 0, "both": 0} for n in self.classes}

    def add(
        self,
        case: str,
        mask: np.ndarray,
        reference: np.ndarray,
        spacing: Sequence[float] | None = None,
        marked: np.ndarray | None = None,
    ) -> None:
        """Score boolean (K, *space) against boolean (K, *space); a volume slice by slice if the
        protocol says so.

        marked: the reference as it was drawn, which says what counts as empty where the protocol
        skips that; `reference` itself where None.
        """
        marked = reference if marked is None else marked
        if self.protocol.unit == "slice" and mask.ndim == 4:
            inner = None if spacing is None else spacing[1:]
            for k in range(mask.shape[1]):
                self._add(f"{case}/{k}", mask[:, k], reference[:, k], inner, marked[:, k])
        else:
            self._add(case, mask, reference, spacing, marked)

    def _add(
        self,
        case: str,
        mask: np.ndarray,
        reference: np.ndarray,
        spacing: Sequence[float] | None,
        marked: np.ndarray,
    ) -> None:
        for name, p, r, m in zip(self.classes, mask, reference, marked, strict=True):
            empty_p, empty_r = not p.any(), not r.any()
            if self.protocol.skip_empty and not m.any():
                continue
            self.empties[name]["prediction"] += empty_p
            self.empties[name]["reference"] += empty_r
            self.empties[name]["both"] += empty_p and empty_r
            for metric, (value, undefined) in score_pair(p, r, self.protocol, spacing).items():
                self.scores.append(CaseScore(case, name, metric, value, undefined))

    def means(self) -> dict[str, dict[str, Any]]:
        """Class -> metric -> mean, std, n, undefined."""
        return aggregate(self.scores, self.protocol)


def aggregate(scores: Sequence[CaseScore], protocol: Protocol) -> dict[str, dict[str, Any]]:
    """Class -> metric -> mean, std, n (cases in the mean) and undefined (cases before the rule).

    A mean over no case is None. The standard deviation is over cases, by `protocol.std`.
    """
    found: dict[str, dict[str, Any]] = {}
    groups: dict[tuple[str, str], list[CaseScore]] = {}
    for score in scores:
        groups.setdefault((score.class_, score.metric), []).append(score)
    for (name, metric), members in groups.items():
        values = np.array([m.value for m in members if m.value is not None], dtype=np.float64)
        ddof = 0 if protocol.std == "population" else 1
        found.setdefault(name, {})[metric] = {
            "mean": float(values.mean()) if len(values) else None,
            "std": float(values.std(ddof=ddof)) if len(values) > ddof else None,
            "n": len(values),
            "undefined": sum(m.undefined for m in members),
        }
    return found
