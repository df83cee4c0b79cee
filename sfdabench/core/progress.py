"""Progress on standard error: bars with time left on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

Advance = Callable[[int, int], None]
LINE_EVERY = 10.0  # seconds between plain lines of one stage


class Progress:
    """Stages shown one after the other; `quiet` shows nothing."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self._live: Any = None

    def say(self, message: str) -> None:
        """One line."""
        if self.quiet:
            return
        if self._live is not None:
            self._live.console.print(message, highlight=False, markup=False)
        else:
            sys.stderr.write(f"{message}\n")
            sys.stderr.flush()

    @contextlib.contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[Advance]:
        """A stage; call what it yields with (done, total)."""
        start = time.monotonic()
        if self.quiet:
            yield lambda done, total: None
            return
        if not sys.stderr.isatty():
            yield self._lines(name)
            self.say(f"{name}: {time.monotonic() - start:.1f} s")
            return
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )
        from rich.progress import Progress as RichProgress

        columns = (
            TextColumn("{task.description:<32}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        with RichProgress(*columns, console=Console(stderr=True)) as self._live:
            task = self._live.add_task(name, total=total)
            yield lambda done, total: self._live.update(task, completed=done, total=total)
        self._live = None

    def _lines(self, name: str) -> Advance:
        last = time.monotonic()
        start = last

        def advance(done: int, total: int) -> None:
            nonlocal last
            now = time.monotonic()
            if now - last >= LINE_EVERY and done:
                left = (now - start) / done * (total - done)
                self.say(f"{name}: {done}/{total}, about {left:.0f} s left")
                last = now

        return advance
