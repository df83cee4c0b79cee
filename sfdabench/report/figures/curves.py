"""Dice on the test cases after every epoch, from the selection audit of each run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sfdabench.core.errors import BadInput
from sfdabench.report.figures import scores, style
from sfdabench.report.runs import Comparison, Variant

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def has_epochs(variant: Variant) -> bool:
    """Whether its runs were scored after every epoch; a model that is not adapted has none."""
    return all(run["audit"] for run in variant.runs)


def draw(compared: Comparison, protocol: str, title: str, note: str = "") -> Figure:
    """Mean over seeds and their range, with the last epoch and the best one marked.

    Epoch 0 is the unadapted source model. Of a chain, the epochs are those of its last method,
    which starts elsewhere: its curve begins with epoch 1. Raises BadInput where no variant has
    epochs.
    """
    from matplotlib.ticker import MaxNLocator

    moving = [variant for variant in compared.variants if has_epochs(variant)]
    if not moving:
        labels = ", ".join(variant.label for variant in compared.variants)
        raise BadInput(
            f"{compared.results}, {compared.task}: {labels} has no epochs to draw; "
            f"make a run that has: {compared.command('mean_teacher')}"
        )
    with style.styled():
        figure = style.blank(style.WIDTH, 3.2)
        axes = figure.subplots()
        for variant, ink in zip(moving, style.inks(len(moving)), strict=True):
            _line(axes, variant, protocol, ink)
        runs = [run for variant in moving for run in variant.runs]
        start = scores.unadapted(runs, protocol)
        axes.axhline(start, label="source_only", **style.BASELINE)
        several = any(len(variant.runs) > 1 for variant in moving)
        best = "best epoch of the mean (oracle)" if several else "best epoch (oracle)"
        axes.plot([], [], "*", color="white", markeredgecolor="black", markersize=10,
                  label=best)  # fmt: skip
        axes.plot([], [], "o", color="black", label="last epoch (deployed)")
        axes.set_xlabel("epoch of adaptation (0: source model)")
        axes.set_ylabel("Dice, mean over classes (%)")
        axes.set_xlim(0, max(len(run["audit"]["dice_by_epoch"][protocol]) for run in runs))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
        style.frame(
            figure,
            [title, style.subject(compared.task, compared.data)],
            [
                style.seeds([variant.seeds for variant in moving]),
                "band: range over seeds" if several else "",
                f"n = {runs[0]['cases']['test']} test cases",
                f"protocol {protocol}",
                "the best epoch is picked on test labels, which no user has",
                "of a chain, the epochs of its last method" if any(map(_is_chain, moving)) else "",
                note,
            ],
            *axes.get_legend_handles_labels(),
        )
    return figure


def _is_chain(variant: Variant) -> bool:
    return "+" in variant.runs[0]["method"]


def _dice(variant: Variant, protocol: str) -> np.ndarray:
    """(seeds, 1 + epochs) mean Dice in percent, the unadapted model first."""
    import numpy as np

    curves = []
    for run in variant.runs:
        scores.scored(run, protocol)
        before = scores.mean_dice(run["source_only"]["scores"][protocol])
        by_epoch = run["audit"]["dice_by_epoch"][protocol]
        curves.append([before, *(100 * value for value in by_epoch)])
    return np.array(curves)


def _line(axes: Axes, variant: Variant, protocol: str, ink: style.Ink) -> None:
    dice = _dice(variant, protocol)
    mean = dice.mean(axis=0)
    last, best = len(mean) - 1, 1 + int(mean[1:].argmax())
    epochs = range(int(_is_chain(variant)), len(mean))
    if len(dice) > 1:
        low, high = dice.min(axis=0)[epochs], dice.max(axis=0)[epochs]
        axes.fill_between(epochs, low, high, color=ink.colour, alpha=0.15, linewidth=0)
    axes.plot(epochs, mean[epochs], color=ink.colour, linestyle=ink.dash, label=variant.name,
              marker=ink.marker, markevery=[len(epochs) - 1], clip_on=False, zorder=4)  # fmt: skip
    if last > 1:
        size = 12 if best < last else 17
        axes.plot(best, mean[best], "*", color="white", markeredgecolor=ink.colour,
                  markersize=size, markeredgewidth=1.3, clip_on=False, zorder=5)  # fmt: skip
    # once more above the stars, which may lie on it
    axes.plot(last, mean[last], ink.marker, color=ink.colour, clip_on=False, zorder=6)
