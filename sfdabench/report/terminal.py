"""Tables for a terminal, as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

WIDTH = 80  # columns that every terminal has


def grid(
    title: str, left: Sequence[str], right: Sequence[str], rows: Sequence[Sequence[str]]
) -> str:
    """A small table as rich draws it, without colours; no line end.

    Importing rich takes longer than all else that a run does whose record exists.

    left, right: headings of the columns that are flushed left, and of those after them.
    """
    lines = [[*left, *right], *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    width = sum(widths) + 3 * len(widths) + 1
    letters = "".join(map("".join, lines))
    if not (len(title) <= width <= WIDTH and letters.isascii() and letters.isprintable()):
        return _by_rich(title, left, right, rows)
    body = [_row(line, widths, len(left)) for line in lines]
    head = body[0].replace("│", "┃")
    return "\n".join(
        [
            title.ljust(width),
            _rule(widths, "┏━┳┓"),
            head,
            _rule(widths, "┡━╇┩"),
            *body[1:],
            _rule(widths, "└─┴┘"),
        ]
    )


def _row(cells: Sequence[str], widths: Sequence[int], left: int) -> str:
    padded = [
        cell.ljust(width) if i < left else cell.rjust(width)
        for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return f"│ {' │ '.join(padded)} │"


def _rule(widths: Sequence[int], corners: Sequence[str]) -> str:
    start, line, cross, end = corners
    return f"{start}{cross.join(line * (width + 2) for width in widths)}{end}"


def _by_rich(
    title: str, left: Sequence[str], right: Sequence[str], rows: Sequence[Sequence[str]]
) -> str:
    """The same by rich, which folds what is too wide and knows how wide each character is."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title), title_justify="left")
    for column in left:
        table.add_column(column, overflow="fold")
    for column in right:
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(*map(Text, row))
    return text(table, at_least=WIDTH)


def text(table: Table, *, at_least: int) -> str:
    """The table as wide as this terminal, but of `at_least` so many columns; no line end."""
    from rich.console import Console

    console = Console(width=max(at_least, Console().width))
    with console.capture() as capture:
        console.print(table)
    return capture.get().removesuffix("\n")
