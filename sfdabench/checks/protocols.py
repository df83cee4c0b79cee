"""What every protocol must hold to."""

from __future__ import annotations

import dataclasses

import numpy as np

from sfdabench.core import registry
from sfdabench.core.protocol import Protocol
from sfdabench.evaluate.metrics import Comparison
from sfdabench.evaluate.postprocess import STEPS
from sfdabench.evaluate.score import OVERLAP, Tally, score_pair


def _square(start: int) -> np.ndarray:
    mask = np.zeros((32, 32), bool)
    mask[start : start + 10, 8:20] = True
    return mask


def check_names_metrics_that_exist(entry: Protocol) -> None:
    """Names of `evaluate.metrics.Comparison`, none twice."""
    known = {f.name for f in dataclasses.fields(Comparison)}
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
    for metric in set(entry.metrics) - {"specificity"}:  # predicting nothing is most specific
        value, undefined = missed[metric]
        if entry.empty == "drop":
            assert (value is None) == undefined, f"{metric}: an undefined value was kept"
        elif entry.empty == "zero" and metric not in OVERLAP:
            assert value is None, f"{metric}: an undefined distance was kept"
        else:
            assert value is not None, f"{metric} dropped a missed structure"
            reached = bad[metric][0]
            assert reached is not None, f"{metric} dropped a defined value"
            worse = value < reached if metric in OVERLAP else value > reached
            assert worse, f"{metric}: missing a structure is no worse than a bad mask"


def check_counts_empty_masks(entry: Protocol) -> None:
    """However they are scored, they are counted."""
    nothing, tally = np.zeros((32, 32), bool), Tally(entry, ["x"])
    tally.add("a", nothing[None], _square(4)[None])
    tally.add("b", nothing[None], nothing[None])
    counted = {"prediction": 2, "reference": 1, "both": 1}
    if entry.skip_empty:
        counted = {"prediction": 1, "reference": 0, "both": 0}
    assert tally.empties == {"x": counted}, str(tally.empties)
    assert set(entry.metrics) <= set(tally.means()["x"]), "a metric without a mean"


def check_takes_volumes(entry: Protocol) -> None:
    """A volume is one case, or as many as it has slices."""
    volume = np.stack([_square(4)] * 3)[None]
    tally = Tally(entry, ["x"])
    tally.add("a", volume, volume, (2.0, 1.0, 1.0))
    cases = {score.case for score in tally.scores}
    assert len(cases) == (3 if entry.unit == "slice" else 1), f"scored as {sorted(cases)}"


def check_exceptions_are_fields(entry: Protocol) -> None:
    """Each data set it treats in a way of its own exists, and so do the fields."""
    assert set(entry.exceptions) <= set(registry.names("datasets")), str(set(entry.exceptions))
    for name in entry.exceptions:
        check_names_metrics_that_exist(entry.on(name))
    assert set(entry.postprocess) <= set(STEPS), str(entry.postprocess)
