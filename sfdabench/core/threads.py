"""How many threads a process computes on; they decide how sums round. Needs no torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sfdabench.core.errors import BadInput
from sfdabench.core.files import atomic


def same_threads(work: Path, now: int, report: Callable[[str], None]) -> int:
    """Return the number of threads that what lies in `work` was begun on; at first that is `now`.

    The number is kept in `work`, and `report` says where it is not the current one. Raises
    BadInput for a file that holds no number.
    """
    path = work / "threads"
    if not path.exists():
        with atomic(path) as file:
            file.write(f"{now}\n")
    text = path.read_text(encoding="utf-8").strip()
    if not text.isdecimal() or int(text) == 0:
        raise BadInput(f"{path}: holds no number of threads; delete the folder {work}")
    begun = int(text)
    if begun != now:
        report(f"{work.name}: begun with {begun} threads, goes on with as many (not {now})")
    return begun
