"""Mean score of each method and class, with bootstrap intervals over cases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sfdabench.core import registry
from sfdabench.core.errors import BadInput
from sfdabench.report import benchmark as papers
from sfdabench.report import evidence, units
from sfdabench.report.benchmark import Benchmark, Layout
from sfdabench.report.figures import scores, style
from sfdabench.report.runs import Absent, Comparison

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CONFIDENCE = 0.95
RESAMPLES = 9999  # scipy's default


@dataclass(frozen=True)
class Bar:
    """Mean over `n` cases, and the interval in which it lies by resampling them; None for one."""

    mean: float
    low: float | None
    high: float | None
    n: int


def rows_of_table(benchmark: Benchmark, layout: Layout, compared: Comparison) -> Comparison:
    """The variants that stand in a table's rows, in its order. Raises Absent where none does."""
    chosen = dict.fromkeys(
        variant.label
        for task, row, column in papers.cells(layout)
        if task == compared.task
        for variant in compared.variants
        if evidence.matches(variant.runs[0], benchmark, row, column)
    )
    if not chosen:
        raise Absent(
            f"{compared.results}: no finished run of {compared.task} stands in a row of "
            f"{layout.name}; `sfdabench table {layout.name}` shows what the rows are"
        )
    return compared.only(list(chosen))


def draw(
    parts: Sequence[Comparison],
    protocol: str,
    metric: str,
    title: str,
    classes: Sequence[str] = (),
) -> Figure:
    """A panel a task, a group a class (every one where none is named), a bar a variant.

    A case's score is its mean over seeds; cases that a protocol drops are left out of a mean.
    """
    fullest_first = sorted(parts, key=lambda part: -len(part.variants))  # it has the whole order
    labels = list(dict.fromkeys(v.name for part in fullest_first for v in part.variants))
    ink = dict(zip(labels, style.inks(len(labels)), strict=True))
    drawn = [_bars(part, protocol, metric, classes) for part in parts]
    unit = _unit(parts, protocol, metric)
    kind = "planes" if registry.load("protocols", protocol).unit == "slice" else "cases"
    with style.styled():
        figure = style.blank(style.WIDTH, 2.8)
        panels = figure.subplots(1, len(parts), squeeze=False, sharey=True)[0]
        for axes, part, bars in zip(panels, parts, drawn, strict=True):
            _panel(axes, bars, ink)
            if len(parts) > 1:
                axes.set_title(style.subject(part.task, part.data))
        if metric in units.PERCENT:
            panels[0].set_ylim(0, 100)
        panels[0].set_ylabel(unit)
        handles = {
            label: handle
            for axes in panels
            for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        numbers = sorted({b.n for bars in drawn for by in bars.values() for b in by.values()})
        between = " and " if len(numbers) == 2 else " to "
        shown = between.join(str(n) for n in dict.fromkeys((numbers[0], numbers[-1])))
        style.frame(
            figure,
            [title] if len(parts) > 1 else [title, style.subject(parts[0].task, parts[0].data)],
            [
                f"whiskers: {100 * CONFIDENCE:g} % percentile bootstrap interval of the mean over "
                f"n = {shown} {kind} ({RESAMPLES} resamples)",
                "score of a case: "
                + style.seeds([variant.seeds for part in parts for variant in part.variants]),
                f"protocol {protocol}",
            ],
            [handles[label] for label in labels],
            labels,
        )
    return figure


def _unit(parts: Sequence[Comparison], protocol: str, metric: str) -> str:
    """The label of the axis that the panels share."""
    found = {
        units.axis_label(metric, protocol, run.spacing_unit)
        for part in parts
        for variant in part.variants
        for run in variant.runs
    }
    if len(found) > 1:
        raise BadInput(f"{' and '.join(sorted(found))} on one axis; draw each --task by itself")
    return found.pop()


def _bars(
    part: Comparison, protocol: str, metric: str, classes: Sequence[str]
) -> dict[str, dict[str, Bar]]:
    """A variant's name -> class -> bar."""
    found: dict[str, dict[str, Bar]] = {}
    for variant in part.variants:
        by_seed = [scores.by_case(part.path(run), protocol, metric) for run in variant.runs]
        for run, one in zip(variant.runs, by_seed, strict=True):
            if one.keys() != by_seed[0].keys():
                both = f"{run.path} and {variant.runs[0].path}"
                raise BadInput(f"{both}: scores of other classes; run one again with --force")
        found[variant.name] = {}
        for name in (name for name in by_seed[0] if not classes or name in classes):
            known = [[one[name].get(case) for one in by_seed] for case in by_seed[0][name]]
            kept = [[v for v in values if v is not None] for values in known]
            found[variant.name][name] = interval([sum(v) / len(v) for v in kept if v])
    return found


def interval(values: Sequence[float]) -> Bar:
    """Mean and percentile bootstrap interval; the same numbers give the same interval."""
    import numpy as np
    from scipy.stats import bootstrap

    if not values:
        raise BadInput("every case of a class is undefined here; choose another --metric")
    mean = float(np.mean(values))
    if len(values) == 1:
        return Bar(mean, None, None, 1)
    # BCa, scipy's default, is undefined where all cases score alike.
    found = bootstrap(
        (np.asarray(values),), np.mean, n_resamples=RESAMPLES, confidence_level=CONFIDENCE,
        method="percentile", rng=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    return Bar(mean, float(found.low), float(found.high), len(values))


def _panel(axes: Axes, bars: dict[str, dict[str, Bar]], ink: dict[str, style.Ink]) -> None:
    from matplotlib.colors import to_rgb

    classes = list(dict.fromkeys(name for by_class in bars.values() for name in by_class))
    width = 0.84 / len(bars)

    def tint(colour: str) -> list[float]:
        return [0.75 + 0.25 * part for part in to_rgb(colour)]

    for i, (label, by_class) in enumerate(bars.items()):
        at = [k - 0.42 + (i + 0.5) * width for k, name in enumerate(classes) if name in by_class]
        of = [by_class[name] for name in classes if name in by_class]
        low = [bar.mean - (bar.mean if bar.low is None else bar.low) for bar in of]
        high = [(bar.mean if bar.high is None else bar.high) - bar.mean for bar in of]
        axes.bar(
            at,
            [bar.mean for bar in of],
            width * 0.94,
            label=label,
            facecolor=tint(ink[label].colour),
            edgecolor=ink[label].colour,
            hatch=ink[label].hatch,
            linewidth=1,
        )
        axes.errorbar(at, [bar.mean for bar in of], [low, high], fmt="none", ecolor="black",
                      elinewidth=1, capsize=2)  # fmt: skip
    axes.set_xticks(range(len(classes)), [name.replace("_", " ") for name in classes])
    axes.grid(visible=False, axis="x")
