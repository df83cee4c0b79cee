"""Where data, caches and results live; no path is ever written into a result."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from sfdabench.core.errors import BadInput
from sfdabench.core.registry import PACKAGE


def cache_root() -> Path:
    """`SFDABENCH_CACHE`, else the user's cache folder."""
    given = os.environ.get("SFDABENCH_CACHE")
    if given:
        return Path(given).expanduser().resolve()
    from platformdirs import user_cache_path

    return user_cache_path("sfdabench")


def data_root(flag: Path | None) -> Path | None:
    """The folder of real data: `--data`, else `SFDABENCH_DATA`, else None (phantom).

    Raises BadInput where it is named but does not exist: never a silent fallback to phantoms.
    """
    name, given = "--data", flag
    if given is None and os.environ.get("SFDABENCH_DATA"):
        name, given = "SFDABENCH_DATA", Path(os.environ["SFDABENCH_DATA"])
    if given is None:
        return None
    root = Path(given).expanduser()
    if not root.is_dir():
        raise BadInput(f"{name} {root}: no such folder; give the folder that holds the data sets")
    return root.resolve()


def from_here(path: Path) -> Path:
    """A path as short as it can be said from the current folder."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def check_writable(folder: Path, flag: str, need_bytes: int = 0) -> int:
    """Bytes free where `folder` is or could be made; nothing is left there, not even the folder.

    Raises BadInput naming `flag` where it cannot be written or has too little room.
    """
    import shutil

    # A broken link counts as there: no folder can be made in its place.
    there = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    try:
        with tempfile.TemporaryFile(dir=there) as probe:
            probe.write(b"0" * 4096)
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as error:
        raise BadInput(
            f"{flag} {folder}: cannot be written ({error.strerror}); name another"
        ) from error
    free = shutil.disk_usage(there).free
    if free < need_bytes:
        raise BadInput(
            f"{flag} {folder}: {free / 2**20:.0f} MiB free, about {need_bytes / 2**20:.0f} MiB "
            "needed; free some or name another folder"
        )
    return free


def checkout() -> Path | None:
    """The checkout that this package runs from; None in a wheel."""
    return PACKAGE.parent if (PACKAGE.parent / "setup.cfg").is_file() else None


def shipped(folder: str) -> Path:
    """One of the data folders (benchmarks, datasets, results): the checkout's, else the wheel's."""
    root = checkout()
    return (root or PACKAGE / "shipped") / folder
