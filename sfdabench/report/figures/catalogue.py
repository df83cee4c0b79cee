"""The figures by name: the general kinds, and those of the papers as values of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from sfdabench.core.errors import BadInput
from sfdabench.core.near import unknown

Kind = Literal["curves", "sweep", "bars", "grid", "tsne"]


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


FIGURES: dict[str, Entry] = {
    "curves": Entry("curves", "Dice by epoch; --task, --method"),
    "sweep": Entry("sweep", "Dice against a field of a method; --task, --method, --field"),
    "bars": Entry("bars", "Score by method and class with 95 % intervals; TABLE, or --task"),
    "grid": Entry("grid", "Best, median and worst case with contours; --task, --method"),
    "tsne": Entry("tsne", "t-SNE of predictions by site, before and after; --task, --method"),
    "cbmt-1a": Entry(
        "curves",
        "CBMT, Fig. 1(a): training curves of pseudo-labelling and CBMT",
        task="refuge2rimone",
        methods=("pseudo_label", "mean_teacher", "cbmt"),
        protocol="cbmt",
        note="the paper draws DPL and not the mean teacher",
    ),
    "cbmt-2a": Entry(
        "sweep",
        "CBMT, Fig. 2(a): performance against the EMA rate λ",
        task="refuge2rimone",
        methods=("cbmt",),
        protocol="cbmt",
        field="ema",
        values=(0.9, 0.95, 0.98, 0.99, 0.999),  # ours: the text does not say which are drawn
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
        protocol="self_ensembling",
        note="the paper draws cross-entropy consistency, weight 5",
    ),
    "self-ensembling-8": Entry(
        "tsne",
        "Self-ensembling, Fig. 8: t-SNE before and after adaptation",
        task="scgm_to_site3",
        note="the paper adds site 4, which this task does not hold",
    ),
}


def find(name: str) -> Entry:
    """The entry of that name. Raises BadInput that names the near ones."""
    if name not in FIGURES:
        raise BadInput(unknown("figure", name, FIGURES))
    return FIGURES[name]
