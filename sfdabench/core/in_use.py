"""What a running process reads from the cache, noted so that `cache clear` leaves it there.

A note is a pair of files in CACHE/in-use: a lock that the process holds, which the system frees
when it dies in whatever way, and a text that says who it is and names a thing a line.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

FOLDER = "in-use"


class _Notes:
    """The notes of one scope, a text for each cache."""

    def __init__(self, ended: contextlib.ExitStack) -> None:
        self.ended = ended
        self.texts: dict[Path, Path] = {}

    def add(self, thing: Path) -> None:
        """Write a thing down, in the note of the cache that it is in."""
        folder = thing.parent.parent / FOLDER
        if folder not in self.texts:
            self.texts[folder] = self._begin(folder)
        with self.texts[folder].open("a", encoding="utf-8") as file:
            file.write(f"{_name(thing)}\n")

    def _begin(self, folder: Path) -> Path:
        """Take the lock before the text is there: a text without a held lock is of the dead."""
        import secrets
        import socket

        from filelock import FileLock

        folder.mkdir(parents=True, exist_ok=True)
        text = folder / f"{os.getpid()}-{secrets.token_hex(4)}.txt"
        lock = text.with_suffix(".lock")
        self.ended.callback(lock.unlink, missing_ok=True)
        self.ended.enter_context(FileLock(lock, fallback_to_soft=False))
        self.ended.callback(text.unlink, missing_ok=True)
        who = f"process {os.getpid()} on {socket.gethostname()}"
        text.write_text(f"{who}\n", encoding="utf-8")
        return text


_scopes: list[_Notes] = []


@contextlib.contextmanager
def in_use() -> Iterator[None]:
    """Keep from being cleared what `note` is given until the end; nothing is written before that.

    The innermost scope counts. A process that is killed keeps nothing.
    """
    with contextlib.ExitStack() as ended:
        notes = _Notes(ended)
        _scopes.append(notes)
        ended.callback(_scopes.remove, notes)
        yield


def note(thing: Path) -> None:
    """Note that this process reads CACHE/KIND/NAME until its scope ends.

    Whoever calls it holds the lock of the thing, and whoever clears does, so that one comes after
    the other. Outside every scope nothing is noted.
    """
    if _scopes:
        _scopes[-1].add(thing)


def users(cache: Path) -> dict[str, str]:
    """Return what running processes have noted, as KIND/NAME, and who they are.

    Notes of processes that are no more are removed.
    """
    from filelock import FileLock, Timeout

    noted: dict[str, str] = {}
    for text in sorted((cache / FOLDER).glob("*.txt")):
        lock = text.with_suffix(".lock")
        try:
            with FileLock(lock, fallback_to_soft=False).acquire(timeout=0):
                text.unlink(missing_ok=True)
            lock.unlink(missing_ok=True)
        except Timeout:
            who, *things = _lines(text)
            noted |= dict.fromkeys(things, who)
    return noted


def _lines(text: Path) -> list[str]:
    """The lines of a note that is held; its process may end, and remove it, just now."""
    try:
        return text.read_text(encoding="utf-8").splitlines() or ["another process"]
    except FileNotFoundError:
        return ["another process"]


def _name(thing: Path) -> str:
    return f"{thing.parent.name}/{thing.name}"
