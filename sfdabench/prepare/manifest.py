"""The content hash of a split's files, remembered by what the system says of each file."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from sfdabench.core.dataset import Case
from sfdabench.core.errors import BadInput
from sfdabench.core.files import (
    ANEW,
    held,
    leftovers,
    read_hashed,
    regular,
    remove,
    remove_leftovers,
    sha256_file,
    write_hashed,
)

Stamp = tuple[int, int, int, int]
Advance = Callable[[int, int], None]
Stage = Callable[[], contextlib.AbstractContextManager[Advance]]
Report = Callable[[str], None]
HASH = re.compile("[0-9a-f]{64}")


class HashedFile(NamedTuple):
    """A file's content hash, and its `stamp` when it was read."""

    stamp: Stamp
    sha256: str

    @classmethod
    def of(cls, path: Path) -> HashedFile:
        """Read the file. The stamp is taken first: a change while it is read shows in the next."""
        before = stamp(path)
        return cls(stamp=before, sha256=sha256_file(path))


def manifest(
    cases: Sequence[Case],
    root: Path,
    cache: Path,
    stage: Stage = lambda: contextlib.nullcontext(lambda done, total: None),
    *,
    report: Report = lambda line: None,
    fresh: bool = False,
) -> str:
    """Content hash of every file of the cases, by path relative to `root`.

    File hashes are kept in the cache by the files' stamps, so that a second look costs no
    reading. fresh: read every file again, whatever is kept. `stage` is entered where there is
    something to read. Raises BadInput for a file that is not there or is no file.
    """
    place = hashlib.sha256(str(root).encode()).hexdigest()[:16]
    path = cache / "manifests" / f"{root.name}-{place}.json"
    start = str(root / "_")[:-1]  # `relative_to` takes 10 times this, and there are many files
    files = {
        file: text[len(start) :]
        if (text := str(file)).startswith(start)
        else str(file.relative_to(root))
        for case in cases
        for file in (*case.image, *case.label)
    }
    # Most looks find all as it was and need not hold the memo, which is replaced as a whole.
    memo = {} if fresh else _glance(path)
    unread = list(files) if fresh else _unread(files, memo)
    if not _writable(path):  # so that a finished run is found in a cache that may only be read
        memo = memo | _hash(unread, files, stage)
    elif unread or leftovers(path):
        with held(path, report):
            remove_leftovers(path)
            memo = _remembered(path, report)
            unread = list(files) if fresh else _unread(files, memo)
            if unread:
                memo |= _hash(unread, files, stage)
                write_hashes(path, memo)
    total = hashlib.sha256()
    for case in cases:
        total.update(f"{case.id}\n{case.split}\n".encode())
        for file in (*case.image, *case.label):
            total.update(f"{files[file]} {memo[files[file]].sha256}\n".encode())
    return total.hexdigest()


def _writable(path: Path) -> bool:
    """Whether a file may be made there, its folder included."""
    return os.access(next(p for p in path.parents if p.exists()), os.W_OK)


def _hash(unread: Sequence[Path], files: Mapping[Path, str], stage: Stage) -> dict[str, HashedFile]:
    """Read each of the files, by its name."""
    hashed: dict[str, HashedFile] = {}
    if unread:
        with stage() as advance:
            for done, file in enumerate(unread, 1):
                hashed[files[file]] = HashedFile.of(file)
                advance(done, len(unread))
    return hashed


def _unread(files: Mapping[Path, str], memo: Mapping[str, HashedFile]) -> list[Path]:
    """The files of which the memo says nothing, or that have another stamp than it says."""
    return [f for f, name in files.items() if name not in memo or memo[name].stamp != stamp(f)]


def _glance(path: Path) -> dict[str, HashedFile]:
    """What the memo holds; nothing where it cannot be read, which its next holder reports."""
    try:
        return read_hashes(path)
    except BadInput:
        return {}


def _remembered(path: Path, report: Report) -> dict[str, HashedFile]:
    """What the memo holds; nothing where it is not what was written, and then it is removed."""
    if not os.path.lexists(path):
        return {}
    try:
        return read_hashes(path, "all files are hashed again")
    except BadInput as fault:
        report(f"cache {fault}")
        remove(path)
        return {}


def write_hashes(path: Path, files: Mapping[str, HashedFile]) -> None:
    """Write what each file held, by its name relative to a root."""
    write_hashed(path, {"files": {name: file._asdict() for name, file in files.items()}})


def read_hashes(path: Path, cure: str = ANEW) -> dict[str, HashedFile]:
    """Read what `write_hashes` wrote. Raises BadInput as `read_hashed` does."""
    return dict(_parsed(path, stamp(path, cure), cure))


@functools.lru_cache(maxsize=16)  # one run looks at a memo once for each of its splits
def _parsed(path: Path, _: Stamp, cure: str) -> Mapping[str, HashedFile]:
    """The files of a memo that has this stamp.

    Checked by hand: a model of pydantic is not built and asked within a millisecond.
    """
    body = read_hashed(path, cure)
    files = body.get("files")
    if body.keys() != {"files"} or not isinstance(files, dict):
        raise BadInput(f"{path}: files: is not what was written; {cure}")
    return {name: _entry(value, f"{path}: files.{name}", cure) for name, value in files.items()}


def _entry(value: object, where: str, cure: str) -> HashedFile:
    """One file of a memo. Raises BadInput where it is no stamp and hash."""
    if isinstance(value, dict) and value.keys() == {"stamp", "sha256"}:
        numbers, sha256 = value["stamp"], value["sha256"]
        whole = isinstance(numbers, list) and [*map(type, numbers)] == [int] * 4
        if whole and isinstance(sha256, str) and HASH.fullmatch(sha256):
            size, modified, changed, inode = numbers
            return HashedFile((size, modified, changed, inode), sha256)
    raise BadInput(f"{where}: is no stamp and hash of a file; {cure}")


def stamp(path: Path, cure: str = "run again when the data are in place") -> Stamp:
    """Size, times of change of content and of status, and inode of a file.

    Where they stand, the content is taken to stand: a user can set the first time back, not the
    second. Raises BadInput where there is no such file.
    """
    status = regular(path, cure)
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino
