"""Files written whole or not at all, named by their content, and held by one process at a time."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from sfdabench.core.errors import BadInput


@contextlib.contextmanager
def atomic(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a temporary neighbour of `path`, moved into its place only when all is on disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    encoding, newline = (None, None) if "b" in mode else ("utf-8", "")
    # not mkstemp, whose files no colleague could read, whatever the umask
    name = path.parent / f".{path.name}.{secrets.token_hex(4)}.tmp"
    handle = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    try:
        with os.fdopen(handle, mode, encoding=encoding, newline=newline) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        name.replace(path)
    except BaseException:
        name.unlink(missing_ok=True)
        raise


def sha256_file(path: Path) -> str:
    """Content hash of one file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_hashed(path: Path, body: Any) -> None:
    """Write JSON with the hash of its content, whole or not at all."""
    text = json.dumps(body, sort_keys=True, allow_nan=False)
    with atomic(path) as file:
        json.dump({"sha256": hashlib.sha256(text.encode()).hexdigest(), "body": body}, file)


def read_hashed(path: Path) -> Any:
    """The body that `write_hashed` wrote. Raises BadInput where the file holds anything else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        body = value["body"]
        text = json.dumps(body, sort_keys=True, allow_nan=False)
        if hashlib.sha256(text.encode()).hexdigest() != value["sha256"]:
            raise BadInput(f"{path}: does not have its recorded hash; delete it")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise BadInput(f"{path}: cannot be read ({error}); delete it") from error
    return body


@contextlib.contextmanager
def held(path: Path, report: Callable[[str], None]) -> Iterator[None]:
    """Hold `path`.lock; where another process has it, `report` who, and wait for it.

    The operating system frees the lock when its holder dies, `kill -9` included.
    """
    from filelock import FileLock, Timeout

    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(f"{path}.lock")
    holder = Path(f"{path}.holder")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        who = holder.read_text(encoding="utf-8") if holder.exists() else "another process"
        report(f"{path.name} is held by {who}; waiting for it")
        lock.acquire()
    try:
        holder.write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()
