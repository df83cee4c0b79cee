"""The third lock: while a method adapts, the files it must not know are closed to this process.

A Python audit hook sees every file that Python opens, renames or links, and every process it
starts. It does not see a native library that opens a path by itself; the other two locks (nothing
undeclared in the context, and the import rules) stand in front of that.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from sfdabench.core.errors import ContractBreach

PATHS = frozenset({"open", "os.link", "os.symlink", "os.rename", "os.truncate", "os.remove"})
PROCESSES = frozenset({"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn"})

_closed: frozenset[str] | None = None
_open: frozenset[str] = frozenset()
_breaches: list[str] = []
_installed = False


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _closed is None:
        return
    if event in PROCESSES:
        _breach(f"started a process ({event}), which this lock could not follow")
    elif event in PATHS:
        for argument in arguments[:2]:
            if isinstance(argument, (str, bytes, os.PathLike)):
                path = os.path.realpath(os.fsdecode(argument))
                around = [path, *map(str, Path(path).parents)]
                if _closed.intersection(around) and not _open.intersection(around):
                    _breach(f"opened {path}")


def _breach(what: str) -> None:
    message = f"while adapting, the method {what}"
    _breaches.append(message)
    raise ContractBreach(message)


@contextlib.contextmanager
def closed(paths: Iterable[Path], granted: Iterable[Path] = ()) -> Iterator[None]:
    """Refuse these files, and all below these folders, until the block ends.

    granted: files and folders that stay open although a folder around them is closed.
    Raises ContractBreach at the attempt, and again at the end where the method swallowed it.
    """
    global _closed, _installed, _open
    if not _installed:
        sys.addaudithook(_hook)  # cannot be removed again, so one serves all runs
        _installed = True
    _breaches.clear()
    _open = frozenset(os.path.realpath(path) for path in granted)
    _closed = frozenset(os.path.realpath(path) for path in paths)
    try:
        yield
    finally:
        _closed = None
    if _breaches:
        raise ContractBreach(_breaches[0])
