"""Dice on the test cases after every epoch, from the selection audit of each run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sfdabench.core.errors import BadInput
from sfdabench.report.figures import scores, style
from sfdabench.report.runs import Comparison, Variant
from sfdabench.store.records import Audit, Stored

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def has_epochs(variant: Variant) -> bool:
    """Whether its runs were scored after every epoch; a model that is not adapted has none."""
    return all(run.audit for run in variant.runs)


def draw(compared: Comparison, protocol: str, title: str, note: str = "") -> Figure:
    """Mean over seeds and their range, with the last epoch and the best one marked.

    Epoch 0 is the unadapted source model; the others are those that were audited. Of a chain, the
    epochs are those of its last method, which starts elsewhere: its curve begins with its first.
    Raises BadInput where no variant has epochs, the seeds of one were audited at other epochs, or
    the unadapted scores of a run are not recorded.
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
            _line(axes, compared, variant, protocol, ink)
        runs = [run for variant in moving for run in variant.runs]
        start = scores.unadapted_mean(compared, runs, protocol)
        axes.axhline(start, label="source_only", **style.BASELINE)
        several = any(len(variant.runs) > 1 for variant in moving)
        best = "best epoch of the mean (oracle)" if several else "best epoch (oracle)"
        axes.plot([], [], "*", color="white", markeredgecolor="black", markersize=10,
                  label=best)  # fmt: skip
        axes.plot([], [], "o", color="black", label="last epoch (deployed)")
        axes.set_xlabel("epoch of adaptation (0: source model)")
        axes.set_ylabel("Dice, mean over classes (%)")
        axes.set_xlim(0, max(1 + audit(run).epochs[-1] for run in runs))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
        style.frame(
            figure,
            [title, style.subject(compared.task, compared.data)],
            [
                style.seeds([variant.seeds for variant in moving]),
                "band: range over seeds" if several else "",
                f"n = {runs[0].cases.test} test cases",
                f"protocol {protocol}",
                "the best epoch is picked on test labels, which no user has",
                "of a chain, the epochs of its last method" if any(map(_is_chain, moving)) else "",
                note,
            ],
            *axes.get_legend_handles_labels(),
        )
    return figure


def _is_chain(variant: Variant) -> bool:
    return "+" in variant.runs[0].method


def audit(run: Stored) -> Audit:
    """The selection audit of a run that has one."""
    assert run.audit is not None, "has_epochs says which runs have one"
    return run.audit


def _dice(compared: Comparison, variant: Variant, protocol: str) -> tuple[np.ndarray, np.ndarray]:
    """Epochs (1 + audited), from 0 for the unadapted model; their mean Dice in percent by seed."""
    import numpy as np

    epochs = [0, *(1 + epoch for epoch in audit(variant.runs[0]).epochs)]
    curves = []
    for run in variant.runs:
        scores.scored(run, protocol)
        if audit(run).epochs != audit(variant.runs[0]).epochs:
            both = f"{variant.runs[0].path} and {run.path}"
            raise BadInput(f"{both}: audited at other epochs; run one of them again with --force")
        before = scores.unadapted(compared, run, protocol)
        curves.append([before, *(100 * dice for dice in audit(run).dice_by_epoch[protocol])])
    return np.array(epochs), np.array(curves)


def _line(
    axes: Axes, compared: Comparison, variant: Variant, protocol: str, ink: style.Ink
) -> None:
    epochs, dice = _dice(compared, variant, protocol)
    mean = dice.mean(axis=0)
    last, best = len(mean) - 1, 1 + int(mean[1:].argmax())
    first = int(_is_chain(variant))
    if len(dice) > 1:
        low, high = dice.min(axis=0)[first:], dice.max(axis=0)[first:]
        axes.fill_between(epochs[first:], low, high, color=ink.colour, alpha=0.15, linewidth=0)
    axes.plot(epochs[first:], mean[first:], color=ink.colour, linestyle=ink.dash,
              label=variant.name, marker=ink.marker, markevery=[last - first], clip_on=False,
              zorder=4)  # fmt: skip
    if last > 1:
        size = 12 if best < last else 17
        axes.plot(epochs[best], mean[best], "*", color="white", markeredgecolor=ink.colour,
                  markersize=size, markeredgewidth=1.3, clip_on=False, zorder=5)  # fmt: skip
    # once more above the stars, which may lie on it
    axes.plot(epochs[last], mean[last], ink.marker, color=ink.colour, clip_on=False, zorder=6)
