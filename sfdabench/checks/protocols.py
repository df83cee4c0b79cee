"""What every protocol must hold to."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from sfdabench.checks import gather
from sfdabench.core import registry
from sfdabench.core.protocol import Protocol
from sfdabench.evaluate.metrics import Comparison
from sfdabench.evaluate.postprocess import STEPS
from sfdabench.evaluate.score import OVERLAP, Tally, score_pair


def _square(start: int) -> np.ndarray:
    mask = np.zeros((32, 32), bool)
    mask[start : start + 10, 8:20] = True
    return mask


def check_names_metrics_that_exist(entry: Protocol) -> Iterator[str]:
    """Names of `evaluate.metrics.Comparison`, none twice."""
    known = {f.name for f in dataclasses.fields(Comparison)}
    if unknown := set(entry.metrics) - known:
        yield f"unknown metrics: {sorted(unknown)}"
    twice = {name for name in entry.metrics if entry.metrics.count(name) > 1}
    if twice:
        yield f"named more than once: {sorted(twice)}"


def check_a_perfect_mask_scores_best(entry: Protocol) -> Iterator[str]:
    """Overlap 1, distance 0; a shifted mask is worse in each metric."""
    perfect = score_pair(_square(4), _square(4), entry)
    shifted = score_pair(_square(9), _square(4), entry)
    for metric in entry.metrics:
        best, worse = perfect[metric][0], shifted[metric][0]
        if best is None or worse is None:
            yield f"{metric} of a {'perfect' if best is None else 'shifted'} mask is undefined"
            continue
        ideal = 1 if metric in OVERLAP else 0
        if best != ideal:
            yield f"{metric} of a perfect mask is {best}, not {ideal}"
        if (worse >= best) if metric in OVERLAP else (worse <= best):
            yield f"{metric} of a shifted mask, {worse}, is no worse than {best} of a perfect one"


def check_empty_masks_follow_its_rule(entry: Protocol) -> Iterator[str]:
    """Dropped where it says so; else never better than any prediction with some overlap."""
    nothing = np.zeros((32, 32), bool)
    missed, bad = score_pair(nothing, _square(4), entry), score_pair(_square(12), _square(4), entry)
    for metric in entry.metrics:
        if metric == "specificity":  # predicting nothing is most specific
            continue
        value, undefined = missed[metric]
        reached = bad[metric][0]
        if entry.empty == "drop":
            if (value is None) != undefined:
                yield f"{metric}: an undefined value was kept"
        elif entry.empty == "zero" and metric not in OVERLAP:
            if value is not None:
                yield f"{metric}: an undefined distance was kept"
        elif value is None:
            yield f"{metric} dropped a missed structure"
        elif reached is None:
            yield f"{metric} dropped a defined value"
        elif (value >= reached) if metric in OVERLAP else (value <= reached):
            yield f"{metric}: missing a structure ({value}) is no worse than a bad mask ({reached})"


def check_counts_empty_masks(entry: Protocol) -> Iterator[str]:
    """However they are scored, they are counted."""
    nothing, tally = np.zeros((32, 32), bool), Tally(entry, ["x"])
    tally.add("a", nothing[None], _square(4)[None])
    tally.add("b", nothing[None], nothing[None])
    counted = {"prediction": 2, "reference": 1, "both": 1}
    if entry.skip_empty:
        counted = {"prediction": 1, "reference": 0, "both": 0}
    if tally.empties != {"x": counted}:
        yield f"counted {tally.empties['x']}, not {counted}"
    if missing := set(entry.metrics) - set(tally.means()["x"]):
        yield f"without a mean: {sorted(missing)}"


def check_takes_volumes(entry: Protocol) -> Iterator[str]:
    """A volume is one case, or as many as it has slices."""
    volume = np.stack([_square(4)] * 3)[None]
    tally = Tally(entry, ["x"])
    tally.add("a", volume, volume, (2.0, 1.0, 1.0))
    cases = {score.case for score in tally.scores}
    if len(cases) != (3 if entry.unit == "slice" else 1):
        yield f"a volume of three slices is scored as {sorted(cases)}"


def check_exceptions_are_fields(entry: Protocol) -> Iterator[str]:
    """Each data set that it treats in a way of its own exists, and so do the fields."""
    known = registry.names("datasets")
    for name in entry.exceptions:
        if name not in known:
            yield f"{name}: no such data set"
        yield from gather(_wrong_exception(entry, name), name)
    yield from _unknown_steps(entry)


def _unknown_steps(entry: Protocol) -> Iterator[str]:
    if unknown := set(entry.postprocess) - set(STEPS):
        yield f"unknown steps of post-processing: {sorted(unknown)}"


def _wrong_exception(entry: Protocol, name: str) -> Iterator[str]:
    yield from check_names_metrics_that_exist(entry.on(name))
    yield from _unknown_steps(entry.on(name))
