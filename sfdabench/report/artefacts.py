"""What lies in the cache, as text."""

from __future__ import annotations

import io
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from rich.table import Table

WIDTH = 120


class Entry(Protocol):
    """An entry of the cache, as `run.cache` lists it."""

    @property
    def kind(self) -> str:
        """What it is."""

    @property
    def name(self) -> str:
        """What the cache calls it."""

    @property
    def bytes(self) -> int:
        """How large it is."""

    @property
    def used(self) -> float:
        """When it was last changed, in seconds since 1970."""


def _text(table: Table) -> str:
    from rich.console import Console

    out = io.StringIO()
    Console(file=out, width=WIDTH, color_system=None, highlight=False).print(table)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def _table(columns: Iterable[str]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def source_table(rows: Sequence[dict[str, Any]]) -> str:
    """Source models, a row each; the name is what --source takes."""
    if not rows:
        return (
            "no source model in the cache; `sfdabench run` trains one, "
            "`sfdabench source import` brings one"
        )
    table = _table(rows[0])
    for row in rows:
        table.add_row(*("" if value is None else str(value) for value in row.values()))
    return _text(table)


def cache_table(root: Path, entries: Sequence[Entry]) -> str:
    """Entries of the cache with their sizes and ages, and the sum."""
    table = _table(("kind", "name", "MiB", "days"))
    for entry in entries:
        days = (time.time() - entry.used) / 86400
        table.add_row(entry.kind, entry.name, f"{entry.bytes / 2**20:.1f}", f"{days:.1f}")
    total = sum(entry.bytes for entry in entries) / 2**20
    head = f"{root}: {len(entries)} entries, {total:.0f} MiB"
    return f"{head}\n{_text(table)}" if entries else f"{root}: empty"
