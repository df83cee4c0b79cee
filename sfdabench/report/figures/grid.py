"""Cases side by side: image, reference, and the contours of each method."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sfdabench.core.errors import BadInput
from sfdabench.report.figures import scores, style
from sfdabench.report.runs import Comparison, Variant

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

# Light inks that stand out of a dark image; a dark rim makes them show on a bright one.
INKS: tuple[tuple[str, tuple[float, Sequence[float]]], ...] = (
    (style.ORANGE, (0.0, ())),
    (style.SKY, (0.0, (4, 1.5))),
    (style.GREEN, (0.0, (5, 1.5, 1, 1.5))),
    (style.YELLOW, (0.0, (1, 1))),
    (style.PURPLE, (0.0, (5, 1, 1, 1, 1, 1))),
)
TILE = 1.25  # inches


@dataclass(frozen=True)
class Picture:
    """One plane of a case on its original grid, cut to what there is to see.

    image: (H, W) or (H, W, 3), 0..1. reference: boolean (K, H, W); predictions: the same by label.
    aspect: height of a pixel over its width. plane: its number in a volume, None for a photograph.
    """

    case: str
    image: np.ndarray
    reference: np.ndarray
    predictions: Mapping[str, np.ndarray]
    aspect: float
    plane: int | None


def choose(compared: Comparison, judge: Variant, seed: int) -> dict[str, str]:
    """The best, the median and the worst case by the strict Dice of a variant."""
    dice = dice_by_case(compared, judge, seed)
    ranked = sorted(dice, key=lambda case: (-dice[case], case))
    if len(ranked) < 3:
        raise BadInput(f"{compared.task}: {len(ranked)} test cases; a grid shows three")
    return {"best": ranked[0], "median": ranked[len(ranked) // 2], "worst": ranked[-1]}


def dice_by_case(compared: Comparison, variant: Variant, seed: int) -> dict[str, float]:
    """Case -> strict Dice in percent, mean over what is scored."""
    run = next(run for run in variant.runs if run.seed == seed)
    by_class = scores.by_case(compared.path(run), "strict", "dice").values()
    cases = next(iter(by_class))
    if any(one.keys() != cases.keys() for one in by_class):
        raise BadInput(f"{run.path}: its classes are of other cases; run it again with --force")
    # "strict" gives every case of every class a Dice.
    return {case: sum(one[case] or 0.0 for one in by_class) / len(by_class) for case in cases}


def draw(
    rows: Mapping[str, Picture],
    dice: Mapping[str, Mapping[str, float]],
    classes: Sequence[str],
    title: Sequence[str],
    caption: Sequence[str],
) -> Figure:
    """A row a case, a column a variant; `dice`: label -> case -> what is written on its tile."""
    if len(classes) > len(INKS):
        raise BadInput(f"{len(classes)} classes, {len(INKS)} contours can be told apart")
    labels = list(dice)
    with style.styled():
        figure = style.blank(TILE * (2 + len(labels)) + 0.3, (TILE + 0.15) * len(rows) + 0.35)
        panels = figure.subplots(len(rows), 2 + len(labels), squeeze=False)
        for line, (name, picture) in zip(panels, rows.items(), strict=True):
            lines = [name, *textwrap.wrap(picture.case, 20)]
            lines += [] if picture.plane is None else [f"plane {picture.plane}"]
            line[0].set_ylabel("\n".join(lines), fontsize=style.SMALL)
            for axes in line:
                _image(axes, picture)
                axes.set_xlabel(" ", fontsize=style.SMALL, labelpad=1)  # tiles of one size
            _contours(line[1], picture.reference)
            for axes, label in zip(line[2:], labels, strict=True):
                _contours(axes, picture.predictions[label])
                axes.set_xlabel(f"Dice {dice[label][picture.case]:.1f} %", fontsize=style.SMALL,
                                labelpad=1)  # fmt: skip
        heads = ["image", "reference", *(label.replace(" ", "\n") for label in labels)]
        for axes, head in zip(panels[0], heads, strict=True):
            axes.set_title(head, fontsize=8)
        style.frame(
            figure, title, caption, _handles(classes), [n.replace("_", " ") for n in classes]
        )
    return figure


def _image(axes: Axes, picture: Picture) -> None:
    axes.imshow(picture.image, cmap="gray", vmin=0, vmax=1, aspect=picture.aspect)
    axes.autoscale(enable=False)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _contours(axes: Axes, masks: np.ndarray) -> None:
    """The outline of each class that is there at all."""
    import numpy as np
    from matplotlib.patheffects import Normal, Stroke

    for mask, (colour, dash) in zip(masks, INKS, strict=False):
        if mask.any():
            # a margin of nothing, so that a mask at the edge is closed there
            inside = np.pad(mask.astype(np.float32), 1)
            rows, columns = (np.arange(-1, n + 1) for n in mask.shape)
            drawn = axes.contour(columns, rows, inside, levels=[0.5], colors=[colour],
                                 linewidths=1.2, linestyles=[dash])  # fmt: skip
            drawn.set_path_effects([Stroke(linewidth=2.2, foreground="black", alpha=0.6), Normal()])


def _handles(classes: Sequence[str]) -> list[Line2D]:
    from matplotlib.lines import Line2D
    from matplotlib.patheffects import Normal, Stroke

    rim = [Stroke(linewidth=3, foreground="black", alpha=0.6), Normal()]
    return [
        Line2D([], [], color=colour, linestyle=dash, linewidth=1.8, path_effects=rim)
        for (colour, dash), _ in zip(INKS, classes, strict=False)
    ]
