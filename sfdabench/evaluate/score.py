"""Masks and references -> per-case scores and their means, under the rules of a protocol."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sfdabench.core.protocol import Protocol
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


def class_masks(label: np.ndarray, classes: Mapping[str, Sequence[int]]) -> np.ndarray:
    """A label map (*space) -> boolean (K, *space), one channel a class."""
    return np.stack([np.isin(label, list(values)) for values in classes.values()])


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
    outcome = compare(prediction, reference, spacing=spacing)
    steps = spacing or [1.0] * prediction.ndim
    diagonal = math.sqrt(sum((n * s) ** 2 for n, s in zip(prediction.shape, steps, strict=True)))
    both_empty = not prediction.any() and not reference.any()
    scores: dict[str, tuple[float | None, bool]] = {}
    for metric in protocol.metrics:
        value, undefined = getattr(outcome, metric), metric in outcome.undefined
        if metric == "dice" and protocol.smoothing:
            shared = np.count_nonzero(prediction & reference)
            total = np.count_nonzero(prediction) + np.count_nonzero(reference)
            value = (2 * shared + protocol.smoothing) / (total + protocol.smoothing)
            undefined = False
        if undefined:
            if protocol.empty == "drop":
                value = None
            elif metric in OVERLAP:
                value = 1.0 if both_empty else 0.0
            else:
                value = 0.0 if both_empty else diagonal
        scores[metric] = (value, undefined)
    return scores


def score_cases(
    masks: Sequence[np.ndarray],
    references: Sequence[np.ndarray],
    ids: Sequence[str],
    classes: Sequence[str],
    protocol: Protocol,
    spacings: Sequence[Sequence[float] | None],
) -> tuple[list[CaseScore], dict[str, dict[str, int]]]:
    """Score every case; a missing prediction is an error, never a shorter mean.

    masks, references: one boolean (K, *space) a case. Returns the scores and, per class, how many
    cases had an empty prediction, an empty reference, or both.
    """
    scores = []
    empties = {name: {"prediction": 0, "reference": 0, "both": 0} for name in classes}
    for mask, reference, case, spacing in zip(masks, references, ids, spacings, strict=True):
        for channel, name in enumerate(classes):
            p, r = mask[channel], reference[channel]
            empty_p, empty_r = not p.any(), not r.any()
            empties[name]["prediction"] += empty_p
            empties[name]["reference"] += empty_r
            empties[name]["both"] += empty_p and empty_r
            for metric, (value, undefined) in score_pair(p, r, protocol, spacing).items():
                scores.append(CaseScore(case, name, metric, value, undefined))
    return scores, empties


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
