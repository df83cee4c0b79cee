"""Dice against the values of one field of a method."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from sfdabench.core.errors import BadInput
from sfdabench.core.near import unknown
from sfdabench.report.figures import scores, style
from sfdabench.report.runs import Comparison, Variant
from sfdabench.store import labels
from sfdabench.store.records import Stored

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw(
    compared: Comparison,
    method: str,
    field: str,
    protocol: str,
    title: str,
    wanted: Sequence[Any] = (),
) -> tuple[Figure, list[str]]:
    """Dice of the last and of the best epoch at each recorded value; and the commands missing.

    wanted: values that the figure should show. Raises BadInput with those commands where fewer
    than two values are recorded, or where their runs may not be compared.
    """
    by_value = _by_value(compared, method, field)
    values = sorted(by_value, key=_order)
    absent = [value for value in wanted if value not in by_value]
    missing = [compared.command(labels.label(method, {method: {field: value}})) for value in absent]
    if len(values) < 2:
        cure = missing or [compared.command(labels.label(method, {method: {field: "VALUE"}}))]
        raise BadInput(
            f"{compared.results}, {compared.task}: {len(values)} value of {method}'s {field} "
            f"recorded, a sweep needs two; make the runs that are missing:\n  " + "\n  ".join(cure)
        )
    compared.only([by_value[value].label for value in values])
    runs = [by_value[value].runs for value in values]
    with style.styled():
        figure = style.blank(style.WIDTH, 2.8)
        axes = figure.subplots()
        best, last = style.inks(2)
        _points(axes, runs, lambda run: _best(run, protocol), best, "best epoch (oracle)")
        _points(axes, runs, lambda run: _last(run, protocol), last, "last epoch (deployed)")
        every = [run for of_value in runs for run in of_value]
        start = scores.unadapted_mean(compared, every, protocol)
        axes.axhline(start, label="source_only", **style.BASELINE)
        axes.set_xticks(range(len(values)), [labels.text(value) for value in values])
        axes.set_xlabel(f"{field} of {method} (evenly spaced)")
        axes.set_ylabel("Dice, mean over classes (%)")
        axes.margins(x=0.08)
        several = any(len(of_value) > 1 for of_value in runs)
        style.frame(
            figure,
            [title or f"Dice against {field} of {method}",
             style.subject(compared.task, compared.data)],
            [
                style.seeds([by_value[value].seeds for value in values]),
                "bars: range over seeds" if several else "",
                f"n = {every[0].cases.test} test cases",
                f"protocol {protocol}",
                "the best epoch is picked on test labels, which no user has",
            ],
            *axes.get_legend_handles_labels(),
        )  # fmt: skip
    return figure, missing


def _by_value(compared: Comparison, method: str, field: str) -> dict[Any, Variant]:
    """Value of the field -> the runs of `method` that differ from its defaults in it at most."""
    if "+" in method:
        raise BadInput(f"--method {method}: a sweep is over a field of one method, not of a chain")
    found: dict[Any, Variant] = {}
    for variant in compared.variants:
        record = variant.runs[0]
        if record.method != method:
            continue
        known = record.fields[method]
        if field not in known:
            raise BadInput(f"--field {field}: {unknown(f'field of {method}', field, known)}")
        if set(record.overrides.get(method, {})) <= {field}:
            value = known[field]
            found[value if isinstance(value, (int, float)) else labels.text(value)] = variant
    return found


def _order(value: Any) -> tuple[bool, Any]:
    """Numbers by size, then names."""
    return (isinstance(value, str), value)


def _last(run: Stored, protocol: str) -> float:
    return scores.mean_dice(scores.scored(run, protocol))


def _best(run: Stored, protocol: str) -> float:
    scores.scored(run, protocol)
    if run.audit is None:
        raise BadInput(f"{run.path}: {run.method} has no epochs to sweep over")
    return scores.mean_dice(run.audit.best.scores[protocol])


def _points(
    axes: Axes,
    runs: Sequence[Sequence[Stored]],
    score: Callable[[Stored], float],
    ink: style.Ink,
    label: str,
) -> None:
    """One point a value with the range over seeds."""
    values = [[score(run) for run in of_value] for of_value in runs]
    means = [statistics.fmean(one) for one in values]
    low = [mean - min(one) for mean, one in zip(means, values, strict=True)]
    high = [max(one) - mean for mean, one in zip(means, values, strict=True)]
    axes.errorbar(range(len(means)), means, yerr=[low, high], label=label,
                  color=ink.colour, linestyle=ink.dash, marker=ink.marker, capsize=3)  # fmt: skip
