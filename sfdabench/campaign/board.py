"""What jobs show on standard error: a live table on a terminal, a line an event elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from sfdabench.campaign.workers import Outcome, Worker
from sfdabench.report.units import duration

KEPT = 8  # ended jobs that stay in the live table


def line(outcome: Outcome) -> str:
    """One ended job in one line, whatever its reason looks like."""
    took = duration(outcome.seconds)
    if outcome.reason is None:
        return f"done {outcome.job.name} ({took})"
    return f"failed {outcome.job.name} ({took}): {' '.join(outcome.reason.split())}"


class Lines:
    """A line for each job that starts or ends."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._started: set[str] = set()
        self._ended = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def show(self, running: Sequence[Worker], waiting: int) -> None:
        """Say which jobs are new."""
        for worker in running:
            if worker.job.name not in self._started:
                self._started.add(worker.job.name)
                self._say(f"started {worker.job.name}")

    def ended(self, outcome: Outcome) -> None:
        """Say how a job ended."""
        self._ended += 1
        self._say(line(outcome))

    def _say(self, message: str) -> None:
        sys.stderr.write(f"[{self._ended}/{self._total}] {message}\n")
        sys.stderr.flush()


class Live:
    """A table of the jobs at work, above the ones that ended last; failures stay on the screen."""

    def __init__(self, total: int, console: Any = None) -> None:
        from rich.console import Console
        from rich.live import Live as RichLive

        self._total = total
        self._ended: list[Outcome] = []
        self._live = RichLive(console=console or Console(stderr=True), refresh_per_second=4)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: object, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def show(self, running: Sequence[Worker], waiting: int) -> None:
        """Draw the table anew."""
        from rich.table import Table
        from rich.text import Text

        title = f"{len(self._ended)} of {self._total} ended, {waiting} waiting"
        table = Table(title=title, title_justify="left")
        for column in ("state", "task", "method", "seed", "stage", "time"):
            table.add_column(column, overflow="ellipsis", no_wrap=True)
        rows: list[tuple[str, Outcome | Worker, str]] = []
        for outcome in self._ended[-KEPT:]:
            rows.append(("failed" if outcome.reason else "done", outcome, ""))
        rows += [("running", worker, worker.said) for worker in running]
        for state, what, stage in rows:
            job = what.job
            cells = (state, job.task, job.method, str(job.seed), stage, duration(what.seconds))
            table.add_row(*map(Text, cells))  # Text: a stage may hold what rich takes for markup
        self._live.update(table)

    def ended(self, outcome: Outcome) -> None:
        """Keep a job for the table; print what failed above it."""
        self._ended.append(outcome)
        if outcome.reason:
            self._live.console.print(line(outcome), highlight=False, markup=False)


def board(total: int) -> Lines | Live:
    """The one that fits standard error."""
    return Live(total) if sys.stderr.isatty() else Lines(total)
