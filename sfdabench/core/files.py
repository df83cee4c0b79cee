"""Files written whole or not at all, hashed with their content, held by one process at a time."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
import secrets
import shutil
import socket
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

from sfdabench.core.errors import BadInput
from sfdabench.core.system_errors import explain

if TYPE_CHECKING:
    from pydantic import BaseModel

Model = TypeVar("Model", bound="BaseModel")
ANEW = "remove it, and it is made anew"


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


def regular(path: Path, cure: str = ANEW, error: type[BadInput] = BadInput) -> os.stat_result:
    """The status of a regular file, links followed.

    Raises `error` where nothing is there, where it cannot be reached, and for a folder, a pipe
    or a device, which a reader could wait for without end.
    """
    try:
        status = path.stat()
    except FileNotFoundError:
        raise error(f"{path}: missing file; {cure}") from None
    except OSError as reason:
        raise error(f"{path}: cannot be reached ({reason.strerror}); {cure}") from reason
    if not stat.S_ISREG(status.st_mode):
        raise error(f"{path}: is not a file; {cure}")
    return status


def hashed(body: Mapping[str, Any]) -> str:
    """One line of JSON that holds the body and its hash; `unhashed` reads it."""
    return json.dumps({"sha256": _digest(body), "body": body})


def unhashed(text: str) -> dict[str, Any]:
    """The body of what `hashed` wrote. Raises ValueError, saying why, for anything else."""
    try:
        whole = json.loads(text)
        if not isinstance(whole, dict) or whole.keys() != {"sha256", "body"}:
            raise ValueError("it does not consist of 'sha256' and 'body'")
        body = whole["body"]
        if not isinstance(body, dict):
            raise ValueError("its body is not an object")
        if _digest(body) != whole["sha256"]:
            raise ValueError("its content does not have the hash that stands beside it")
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    return body


def _digest(body: Mapping[str, Any]) -> str:
    """Hash of JSON values, whatever the order of their keys."""
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def write_hashed(path: Path, body: Mapping[str, Any]) -> None:
    """Write JSON values with their hash, whole or not at all."""
    with atomic(path) as file:
        file.write(f"{hashed(body)}\n")


def read_hashed(path: Path, cure: str = ANEW) -> dict[str, Any]:
    """The JSON values that `write_hashed` wrote.

    Raises BadInput naming the file and the `cure` where it is not there, is not a regular file,
    cannot be read, or does not hold values with their hash.
    """
    regular(path, cure)
    try:
        return unhashed(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"{path}: cannot be used ({error}); {cure}") from error


def read_typed(path: Path, model: type[Model], cure: str = ANEW) -> Model:
    """The values that `write_hashed` wrote, as a pydantic model.

    Raises BadInput as `read_hashed` does, and where a field is missing, unknown or of another
    type; the field is named.
    """
    from pydantic import ValidationError

    try:
        return model.model_validate(read_hashed(path, cure))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "its values"
        raise BadInput(f"{path}: {where}: {first['msg']}; {cure}") from error


def remove(path: Path) -> None:
    """Remove a file, a link, or a folder with all that is in it; nothing where nothing is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def remove_leftovers(path: Path) -> None:
    """Remove half-written neighbours of `path` that killed processes left, `.NAME.*`.

    Only the holder of its lock may do so: to it alone none of them can be in use.
    """
    for leftover in leftovers(path):
        remove(leftover)


def leftovers(path: Path) -> list[Path]:
    """Half-written neighbours of `path`, `.NAME.*`; its holder may be writing them just now."""
    return [*path.parent.glob(f".{glob.escape(path.name)}.*")]


@contextlib.contextmanager
def held(path: Path, report: Callable[[str], None]) -> Iterator[None]:
    """Hold `path`.lock; where another process has it, `report` who, and wait for it.

    The operating system frees the lock when its holder dies, `kill -9` included. Raises BadInput
    where the file system gives no lock.
    """
    from filelock import FileLock, Timeout

    path.parent.mkdir(parents=True, exist_ok=True)
    # Without locks of the system the library would take a lock file that lies there for a held one.
    lock = FileLock(f"{path}.lock", fallback_to_soft=False)
    holder = Path(f"{path}.holder")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        who = holder.read_text(encoding="utf-8") if holder.exists() else "another process"
        report(f"{path.name} is held by {who}; waiting for it")
        lock.acquire()
    except OSError as error:
        raise BadInput(explain(error, lock.lock_file)) from error
    try:
        holder.write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()
