"""The content hash of a split's files, remembered by size and time of change."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sfdabench.core.dataset import Case
from sfdabench.core.files import atomic, sha256_file

Advance = Callable[[int, int], None]
Stage = Callable[[], contextlib.AbstractContextManager[Advance]]


def manifest(
    cases: Sequence[Case],
    root: Path,
    cache: Path,
    stage: Stage = lambda: contextlib.nullcontext(lambda done, total: None),
) -> str:
    """Content hash of every file of the cases, by path relative to `root`.

    File hashes are kept in the cache by size and time of change, so that a second look costs no
    reading. `stage` is entered where there is something to read.
    """
    memo_path = cache / "manifests" / f"{hashlib.sha256(str(root).encode()).hexdigest()[:16]}.json"
    memo: dict[str, Any] = {}
    if memo_path.exists():
        try:
            memo = json.loads(memo_path.read_text(encoding="utf-8"))
        except json.JSONDecodeError:
            memo_path.unlink()  # only a memo: what it held is read again from the files
    files = {
        path: str(path.relative_to(root)) for case in cases for path in (*case.image, *case.label)
    }
    stamps = {path: stamp(path) for path in files}
    unread = [path for path, name in files.items() if memo.get(name, ())[:2] != stamps[path]]
    if unread:
        with stage() as advance:
            for done, path in enumerate(unread, 1):
                memo[files[path]] = [*stamps[path], sha256_file(path)]
                advance(done, len(unread))
        with atomic(memo_path) as file:
            json.dump(memo, file)
    total = hashlib.sha256()
    for case in cases:
        total.update(f"{case.id}\n{case.split}\n".encode())
        for path in (*case.image, *case.label):
            total.update(f"{files[path]} {memo[files[path]][2]}\n".encode())
    return total.hexdigest()


def stamp(path: Path) -> list[int]:
    """Size and time of change: where they stand, the content is taken to stand."""
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns]
