"""What every protocol must hold to."""

from __future__ import annotations

import dataclasses

import numpy as np

from sfdabench.core.protocol import Protocol
from sfdabench.evaluate.metrics import Comparison
from sfdabench.evaluate.score import OVERLAP, aggregate, score_cases, score_pair


def _square(start: int) -> np.ndarray:
    mask = np.zeros((32, 32), bool)
    mask[start : start + 10, 8:20] = True
    return mask


def check_names_metrics_that_exist(entry: Protocol) -> None:
    """Names of `evaluate.metrics.Comparison`, none twice."""
    known = {f.name for f in dataclasses.fields(Comparison)} - {"undefined"}
    assert set(entry.metrics) <= known, f"unknown: {sorted(set(entry.metrics) - known)}"
    assert len(set(entry.metrics)) == len(entry.metrics), "a metric twice"


def check_a_perfect_mask_scores_best(entry: Protocol) -> None:
    """Overlap 1, distance 0; a shifted mask is worse in each metric."""
    perfect = score_pair(_square(4), _square(4), entry)
    shifted = score_pair(_square(9), _square(4), entry)
    for metric in entry.metrics:
        best, worse = perfect[metric][0], shifted[metric][0]
        assert best is not None, f"{metric} of a perfect mask is undefined"
        assert worse is not None, f"{metric} of a shifted mask is undefined"
        if metric in OVERLAP:
            assert best == 1, f"{metric} of a perfect mask is {best}"
            assert worse < best, f"{metric} does not fall"
        else:
            assert best == 0, f"{metric} of a perfect mask is {best}"
            assert worse > best, f"{metric} does not rise"


def check_empty_masks_follow_its_rule(entry: Protocol) -> None:
    """Dropped where it says so; else never better than any prediction with some overlap."""
    nothing = np.zeros((32, 32), bool)
    missed, bad = score_pair(nothing, _square(4), entry), score_pair(_square(12), _square(4), entry)
    for metric in entry.metrics:
        value, undefined = missed[metric]
        if entry.empty == "drop":
            assert (value is None) == undefined, f"{metric}: an undefined value was kept"
        else:
            assert value is not None, f"{metric} dropped a missed structure"
            reached = bad[metric][0]
            assert reached is not None, f"{metric} dropped a defined value"
            worse = value < reached if metric in OVERLAP else value > reached
            assert worse, f"{metric}: missing a structure is no worse than a bad mask"


def check_counts_empty_masks(entry: Protocol) -> None:
    """However they are scored, they are counted."""
    nothing = np.zeros((32, 32), bool)
    masks, references = [nothing[None], nothing[None]], [_square(4)[None], nothing[None]]
    scores, empties = score_cases(masks, references, ["a", "b"], ["x"], entry, [None, None])
    assert empties == {"x": {"prediction": 2, "reference": 1, "both": 1}}, str(empties)
    assert set(aggregate(scores, entry)["x"]) == set(entry.metrics), "a metric without a mean"
