"""The figures by name: the general kinds, and those of the papers as values of them.

A paper's sweep stands in its benchmark.toml, since its runs are made for it alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sfdabench.core.errors import BadInput
from sfdabench.core.near import unknown
from sfdabench.report import benchmark as papers

Kind = Literal["curves", "sweep", "bars", "grid", "tsne", "translations"]


@dataclass(frozen=True)
class Entry:
    """A figure and what `sfdabench plot` takes for granted where no flag says otherwise.

    methods: labels of runs; every recorded one where empty. field, values: of a sweep.
    note: how it differs from the printed figure.
    """

    kind: Kind
    title: str
    task: str | None = None
    methods: tuple[str, ...] = ()
    protocol: str = "strict"
    field: str | None = None
    values: tuple[Any, ...] = ()
    note: str = ""


GENERAL: dict[str, Entry] = {
    "curves": Entry("curves", "Dice by epoch; --task, --method"),
    "sweep": Entry("sweep", "Dice against a field of a method; --task, --method, --field"),
    "bars": Entry("bars", "Score by method and class with 95 % intervals; TABLE, or --task"),
    "grid": Entry("grid", "Best, median and worst case with contours; --task, --method"),
    "translations": Entry("translations", "Images before and after translation; --task, --method"),
    "tsne": Entry("tsne", "t-SNE of predictions by site, before and after; --task, --method"),
}
PRINTED: dict[str, Entry] = {
    "cbmt-1a": Entry(
        "curves",
        "CBMT, Fig. 1(a): training curves of pseudo-labelling and CBMT",
        task="refuge2rimone",
        methods=("pseudo_label", "mean_teacher", "cbmt"),
        protocol="cbmt",
        note="the paper draws DPL and not the mean teacher",
    ),
    "cbmt-2b": Entry(
        "curves",
        "CBMT, Fig. 2(b): training with and without loss calibration",
        task="refuge2rimone",
        methods=("mean_teacher", "cbmt"),
        protocol="cbmt",
        note="mean_teacher is CBMT without calibration; the paper also draws the number of "
        "predicted cup pixels, which records do not hold",
    ),
    "self-ensembling-7": Entry(
        "curves",
        "Self-ensembling, Fig. 7: validation by epoch at site 3",
        task="scgm_to_site3",
        methods=("self_ensembling consistency=cross_entropy weight=5.0", "self_ensembling"),
        protocol="self_ensembling",
        note="the paper draws cross-entropy consistency, weight 5, alone",
    ),
    "self-ensembling-8": Entry(
        "tsne",
        "Self-ensembling, Fig. 8: t-SNE before and after adaptation",
        task="scgm_to_site3",
        methods=("self_ensembling",),
        note="the paper adds site 4, which this task does not hold",
    ),
}


def figures(folder: Path | None = None) -> tuple[dict[str, Entry], list[str]]:
    """Every figure by name, with the sweeps of the benchmarks in `folder`; and what could not be
    used of these.
    """
    printed = dict(PRINTED)
    found, problems = papers.find_figures(folder)
    for name, (home, benchmark) in found.items():
        if name in GENERAL or name in PRINTED:
            problems.append(f"{home / 'benchmark.toml'}: figure '{name}' is another's name")
        else:
            printed[name] = _sweep(benchmark.figure(name))
    return {**GENERAL, **dict(sorted(printed.items()))}, problems


def _sweep(figure: papers.Figure) -> Entry:
    return Entry(
        "sweep",
        figure.title,
        task=figure.task,
        methods=(figure.method,),
        protocol=figure.protocol,
        field=figure.field,
        values=figure.values,
    )


def find(name: str, folder: Path | None = None) -> Entry:
    """The entry of that name. Raises BadInput that names the near ones."""
    found, problems = figures(folder)
    if name not in found:
        raise BadInput("; ".join([unknown("figure", name, found), *problems]))
    return found[name]
