"""What a confined process may read and write, as values."""

from __future__ import annotations

import os
import site
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from sfdabench.core import registry

# Files and folders of the system that libraries read. None holds a user's data.
SYSTEM = (
    *("/usr", "/lib", "/lib32", "/lib64", "/bin", "/sbin", "/sys"),
    *("/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/ld.so.preload"),
    *("/etc/localtime", "/etc/passwd", "/etc/group", "/etc/nsswitch.conf", "/etc/nvidia"),
    *("/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/proc/devices", "/proc/driver"),
    *("/proc/sys/vm", "/proc/sys/kernel", "/System", "/Library"),
)
DEVICES = ("null", "zero", "full", "random", "urandom", "dri", "kfd", "dxg", "nvidia*")


@dataclass(frozen=True)
class Grant:
    """The files and folders that a process may use besides Python, the package and the system.

    read, write: folders with all below them, and files. closed: files and folders that stay closed
    although a folder of the system or of Python lies around them, and under whatever name.
    """

    read: tuple[Path, ...] = ()
    write: tuple[Path, ...] = ()
    closed: tuple[Path, ...] = ()

    def plain(self) -> dict[str, Any]:
        """Return the grant as JSON types."""
        return {name: list(map(os.path.realpath, paths)) for name, paths in vars(self).items()}

    @classmethod
    def of(cls, values: Mapping[str, Sequence[str]]) -> Grant:
        """Return the grant that `plain` described."""
        return cls(**{name: tuple(map(Path, paths)) for name, paths in values.items()})

    def system(self) -> list[Path]:
        """What every process may read, as far as it is there, without what is closed."""
        closed = {Path(path) for path in self.closed}
        return [
            part
            for root in _roots(tuple(sys.path), tuple(registry.foreign_folders()))
            for part in without(root, closed)
        ]


def without(root: Path, closed: Iterable[Path]) -> Iterator[Path]:
    """Yield files and folders that together are `root` without what is closed inside it."""
    inside = [path for path in closed if path.is_relative_to(root)]
    if root in inside:
        return
    if not inside:
        yield root
        return
    for child in sorted(root.iterdir()):
        if not child.is_symlink():
            yield from without(child, inside)


def devices() -> list[Path]:
    """The device nodes that Python, torch and CUDA use."""
    return [path for name in DEVICES for path in sorted(Path("/dev").glob(name))]


@cache
def _roots(path: tuple[str, ...], plugins: tuple[Path, ...]) -> tuple[Path, ...]:
    """The folders of the system, of Python, of its packages, of ours and of plug-ins.

    path: `sys.path`. Of an entry outside Python's own folders, only what Python could import is
    open: it may be a checkout with results in it.
    """
    own = {sys.prefix, sys.base_prefix, sys.exec_prefix, *site.getsitepackages()}
    own |= {site.getusersitepackages(), str(Path(os.__file__).parent), str(registry.PACKAGE)}
    roots = {os.path.realpath(name) for name in own | set(SYSTEM) if Path(name).exists()}
    roots |= {os.path.realpath(folder) for folder in plugins}
    others = [Path(os.path.realpath(entry)) for entry in path if entry and Path(entry).is_dir()]
    for entry in others:
        if not any(entry.is_relative_to(root) for root in roots):
            roots |= {str(child) for child in entry.iterdir() if _importable(child)}
    return tuple(Path(root) for root in sorted(roots) if not _inside(root, roots))


def _importable(path: Path) -> bool:
    if path.is_dir():
        return (path / "__init__.py").is_file() or path.suffix in (".dist-info", ".egg-info")
    return path.suffix in (".py", ".so", ".pyd", ".pth", ".zip")


def _inside(root: str, others: Iterable[str]) -> bool:
    return any(other != root and Path(root).is_relative_to(other) for other in others)
