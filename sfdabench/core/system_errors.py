"""What the operating system refuses, in words that a user can act on."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sfdabench.core.errors import BadInput

CURES = {
    errno.ENOSPC: "make room on that disk, or name a folder on another one",
    errno.EDQUOT: "your quota there is used up: make room, or name a folder elsewhere",
    errno.EFBIG: "this file system, or `ulimit -f`, allows no file of that size",
    errno.EROFS: "that disk is read-only: name a folder on another one",
    errno.EACCES: "you lack the permission: ask its owner, or name another",
    errno.EPERM: "you lack the permission: ask its owner, or name another",
    errno.EMFILE: "too many files are open: raise the limit (`ulimit -n 4096`) or lower --jobs",
    errno.ENFILE: "too many files are open on this machine: lower --jobs, or try again later",
    errno.ENOMEM: "memory is used up: lower --jobs, or close other programs",
    errno.ENOLCK: "that file system has no locks left: point SFDABENCH_CACHE and --out to another",
    errno.ENOSYS: "that file system has no locks: point SFDABENCH_CACHE and --out to another",
    errno.ESTALE: "the network share was mounted anew meanwhile: run the same command again",
    errno.EIO: "the disk or the network share fails: the system's log says more",
}


def explain(error: OSError | MemoryError, where: object = "") -> str:
    """One line on an error of the system: the file where it is known, the reason, the cure.

    where: the file at hand, if the error does not name one.
    """
    if isinstance(error, MemoryError):
        reason, cure = "memory is used up", "lower --jobs, or close other programs"
    else:
        reason, cure = error.strerror or str(error), CURES.get(error.errno or 0, "")
    place = getattr(error, "filename", None) or where
    return f"{f'{place}: ' if place else ''}{reason}{f'; {cure}' if cure else ''}"


@contextmanager
def explained(path: Path, error: type[BadInput]) -> Iterator[None]:
    """Raise `error`, explained, for what the system refuses while the file is read.

    Errors without a number pass: a library means by them that the file itself is broken.
    """
    try:
        yield
    except (OSError, MemoryError) as reason:
        if isinstance(reason, OSError) and reason.errno is None:
            raise
        raise error(explain(reason, path)) from reason
