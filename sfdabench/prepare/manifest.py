"""The content hash of a split's files, remembered by what the system says of each file."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from sfdabench.core.dataset import Case
from sfdabench.core.errors import BadInput
from sfdabench.core.files import (
    held,
    read_typed,
    regular,
    remove,
    remove_leftovers,
    sha256_file,
    write_hashed,
)
from sfdabench.core.toml import Part
from sfdabench.prepare.index import Hash, Whole

Stamp = tuple[Whole, Whole, Whole, Whole]
Advance = Callable[[int, int], None]
Stage = Callable[[], contextlib.AbstractContextManager[Advance]]
Report = Callable[[str], None]


class HashedFile(Part):
    """A file's content hash, and its `stamp` when it was read."""

    stamp: Stamp
    sha256: Hash

    @classmethod
    def of(cls, path: Path) -> HashedFile:
        """Read the file. The stamp is taken first: a change while it is read shows in the next."""
        before = stamp(path)
        return cls(stamp=before, sha256=sha256_file(path))


class HashedFiles(Part):
    """Name relative to a root -> what its file held."""

    files: Mapping[str, HashedFile]


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
    files = {
        file: str(file.relative_to(root)) for case in cases for file in (*case.image, *case.label)
    }
    with held(path, report):
        remove_leftovers(path)
        memo = _remembered(path, report)
        unread = [
            file
            for file, name in files.items()
            if fresh or name not in memo or memo[name].stamp != stamp(file)
        ]
        if unread:
            with stage() as advance:
                for done, file in enumerate(unread, 1):
                    memo[files[file]] = HashedFile.of(file)
                    advance(done, len(unread))
            write_hashed(path, HashedFiles(files=memo).model_dump(mode="json"))
    total = hashlib.sha256()
    for case in cases:
        total.update(f"{case.id}\n{case.split}\n".encode())
        for file in (*case.image, *case.label):
            total.update(f"{files[file]} {memo[files[file]].sha256}\n".encode())
    return total.hexdigest()


def _remembered(path: Path, report: Report) -> dict[str, HashedFile]:
    """What the memo holds; nothing where it is not what was written, and then it is removed."""
    if not os.path.lexists(path):
        return {}
    try:
        return dict(read_typed(path, HashedFiles, "all files are hashed again").files)
    except BadInput as fault:
        report(f"cache {fault}")
        remove(path)
        return {}


def stamp(path: Path) -> Stamp:
    """Size, times of change of content and of status, and inode of a file.

    Where they stand, the content is taken to stand: a user can set the first time back, not the
    second. Raises BadInput where there is no such file.
    """
    status = regular(path, "run again when the data are in place")
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino
