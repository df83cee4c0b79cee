"""What every figure shares: sizes, inks that survive grey-scale printing, caption, files."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfdabench.core.errors import BadInput
from sfdabench.core.files import atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito, "Color universal design", 2008: told apart with any colour vision.
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
YELLOW, BLUE, VERMILION, PURPLE = "#F0E442", "#0072B2", "#D55E00", "#CC79A7"
COLOURS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK)  # yellow is lost on white
DASHES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
HATCHES = ("", "////", "....", "xxxx", "\\\\\\\\", "++++", "oooo", "||||", "----")
BASELINE: dict[str, Any] = {"color": "#777777", "linewidth": 1, "linestyle": (0, (1, 1))}
WIDTH = 6.3  # inches: the text width of a page
SMALL = 7  # points
LINE = 0.17  # inches: a line of text
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.titleweight": "normal",
    "axes.labelsize": 9,
    "legend.fontsize": 8,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.6,
    "lines.markersize": 5,
    "hatch.linewidth": 0.6,
    "svg.hashsalt": "sfdabench",  # the same records give the same file
}


@dataclass(frozen=True)
class Ink:
    """How one variant is drawn: by colour, and again by dash, marker and hatch."""

    colour: str
    dash: str
    marker: str
    hatch: str


def inks(count: int) -> list[Ink]:
    """That many inks, no two of the same colour and dash. Raises BadInput where they run out."""
    most = len(COLOURS) * len(DASHES)  # 7 and 4 have no common divisor
    if count > most:
        raise BadInput(f"{count} variants in one figure, {most} can be told apart; add --method")
    return [
        Ink(*(cycle[i % len(cycle)] for cycle in (COLOURS, DASHES, MARKERS, HATCHES)))
        for i in range(count)
    ]


@contextmanager
def styled() -> Iterator[None]:
    """Draw and save under STYLE, whatever the user's own settings."""
    import matplotlib

    with matplotlib.rc_context({**matplotlib.rcParamsDefault, **STYLE}):
        yield


def blank(width: float, height: float) -> Figure:
    """An empty figure of that size in inches; `frame` adds what is around the panels."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height))


def frame(
    figure: Figure,
    title: Sequence[str],
    caption: Sequence[str],
    handles: Sequence[Any],
    names: Sequence[str],
) -> None:
    """Title above the panels, legend and caption below; the figure grows by what they take.

    title: lines. caption: parts of one sentence, empty ones left out. handles, names: the legend.
    """
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    width, height = figure.get_size_inches()
    head = [line for part in title for line in textwrap.wrap(part, round(12 * width))]
    text = "; ".join(part for part in caption if part)
    foot = textwrap.wrap(f"{text[0].upper()}{text[1:]}.", round(19 * width))
    longest = max(map(len, names), default=0)
    columns = max(1, min(len(names), int(16 * width / (longest + 7))))
    above = 0.1 + LINE * len(head)
    below = 0.1 + 0.8 * LINE * len(foot)
    legend = LINE * -(-len(names) // columns) + 0.1  # nothing but a margin without names
    whole = above + height + legend + below
    figure.set_size_inches(width, whole)
    panels = (0, (below + legend) / whole, 1, height / whole)
    figure.set_layout_engine(ConstrainedLayoutEngine(rect=panels))
    figure.text(0.5, 1 - 0.05 / whole, "\n".join(head), ha="center", va="top", weight="bold")
    figure.legend(
        handles, names, loc="lower center", bbox_to_anchor=(0.5, below / whole), ncols=columns,
        frameon=False, borderpad=0, borderaxespad=0,
    )  # fmt: skip
    figure.text(0.01, 0.05 / whole, "\n".join(foot), ha="left", va="bottom", fontsize=SMALL)


def subject(task: str, data: str) -> str:
    """What a title says of the data; phantoms are never left unnamed."""
    return f"{task} (PHANTOM data, synthetic)" if data == "phantom" else f"{task} (real data)"


def seeds(numbers: Sequence[Sequence[int]]) -> str:
    """The seeds behind several variants, in words."""
    distinct = sorted({tuple(one) for one in numbers})
    if len(distinct) == 1:
        listed = ", ".join(map(str, distinct[0]))
        return f"seed {listed}" if len(distinct[0]) == 1 else f"mean over seeds {listed}"
    fewest, most = (pick(len(one) for one in distinct) for pick in (min, max))
    if most == 1:
        return "one seed a variant"
    return f"mean over {fewest if fewest == most else f'{fewest} to {most}'} seeds a variant"


def save(figure: Figure, out: Path, name: str) -> list[Path]:
    """`out`/name.png and .svg, whole or not at all."""
    written = []
    with styled():
        for suffix, metadata in (("png", None), ("svg", {"Date": None})):
            path = out / f"{name}.{suffix}"
            with atomic(path, "wb") as file:
                figure.savefig(file, format=suffix, dpi=220, metadata=metadata)
            written.append(path)
    return written
