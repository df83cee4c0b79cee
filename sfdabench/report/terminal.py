"""Tables for a terminal, as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table


def text(table: Table, *, at_least: int) -> str:
    """The table as wide as this terminal, but of `at_least` so many columns; no line end."""
    from rich.console import Console

    console = Console(width=max(at_least, Console().width))
    with console.capture() as capture:
        console.print(table)
    return capture.get().removesuffix("\n")
