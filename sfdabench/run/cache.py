"""What lies in the cache: prepared data, phantoms, manifests and stages."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sfdabench.core.errors import BadInput
from sfdabench.core.in_use import users
from sfdabench.core.near import unknown
from sfdabench.run import artefacts
from sfdabench.run.artefacts import IMPORTED

DAY = 86400.0
FOLDERS = {
    "prepared": ("prepared/images", "prepared/labels", "prepared"),
    "phantoms": ("phantoms",),
    "manifests": ("manifests",),
    "stages": ("stages",),
    IMPORTED: (IMPORTED,),
}
PARTS = (("prepared", "images"), ("prepared", "labels"))  # folders of entries, no entries
BESIDE = (".lock", ".holder")  # of a process that has, or had, the entry in hand


@dataclass(frozen=True)
class Entry:
    """One thing in the cache.

    kind: a key of FOLDERS ("imported" is a source model of the user's), or "unfinished" (work of a
    process that was stopped, which the same command would go on with). paths: its files and
    folders. used: when it was made or, of a stage, last found, in seconds since 1970.
    fault: why its card cannot be used, empty where it can or where there is none.
    """

    kind: str
    name: str
    paths: tuple[Path, ...]
    bytes: int
    used: float
    fault: str = ""


@dataclass(frozen=True)
class Cleared:
    """What `clear` removed, and a line on each entry that it had to keep."""

    count: int
    bytes: int
    kept: tuple[str, ...]


def entries(root: Path) -> list[Entry]:
    """Return everything in the cache, by kind and name."""
    faults = artefacts.read_all(root).faults
    grouped: dict[tuple[str, str], list[Path]] = {}
    for kind, folders in FOLDERS.items():
        for folder in folders:
            for path in _things(root / folder):
                of = kind
                if path.name.endswith((".work", ".tmp")) or path.name.startswith("."):
                    of = "unfinished"
                grouped.setdefault((of, _name(path, kind)), []).append(path)
    return [
        Entry(
            kind,
            name,
            tuple(paths),
            sum(map(_size, paths)),
            max(map(_used, paths)),
            "".join(faults.get(path, "") for path in paths),
        )
        for (kind, name), paths in sorted(grouped.items())
    ]


def _things(folder: Path) -> Iterator[Path]:
    if folder.is_dir():
        yield from (
            path
            for path in sorted(folder.iterdir())
            if path.suffix not in BESIDE and (folder.name, path.name) not in PARTS
        )


def _name(path: Path, kind: str) -> str:
    """Phantoms have an index beside them, which goes with them."""
    return path.stem if kind == "phantoms" and path.suffix == ".json" else path.name


def _size(path: Path) -> int:
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return sum(file.stat().st_size for file in files)


def _used(path: Path) -> float:
    return path.stat().st_mtime  # `artefacts.touch` sets it


def clear(
    root: Path,
    names: Sequence[str] = (),
    kinds: Collection[str] = (),
    older_than: float | None = None,
    *,
    dry_run: bool = False,
) -> Cleared:
    """Remove the named entries, those of some kinds, or all.

    older_than: keep what was made, or of stages found, within so many days. dry_run: only count.
    Imported source models go only where they or their kind are named: they cannot be made again.
    Earlier versions kept them among the stages, so a stage whose card cannot be used goes only
    where it is named. What a process holds or has in use stays, with a line on it. Raises BadInput
    for an unknown name.
    """
    every = entries(root)
    chosen = {entry.name for name in names for entry in _called(name, every)}
    count, freed, kept = 0, 0, []
    for entry in every:
        wanted = entry.name in chosen if names else entry.kind != IMPORTED
        if kinds:
            wanted = (wanted if names else True) and entry.kind in kinds
        if older_than is not None and time.time() - entry.used < older_than * DAY:
            wanted = False
        if not wanted:
            continue
        if entry.kind == "stages" and entry.fault and not names:
            kept.append(
                f"{entry.name}: may be a model that was imported; left as it is, name it to clear "
                f"it ({entry.fault})"
            )
            continue
        with _locked(entry) as holder:
            if holder is not None:
                kept.append(f"{entry.name}: in use by {holder}; left as it is")
                continue
            count, freed = count + 1, freed + entry.bytes
            if not dry_run:
                for path in entry.paths:
                    _remove(path)
    return Cleared(count, freed, tuple(kept))


def _called(name: str, every: Sequence[Entry]) -> list[Entry]:
    """The entries of that name, or of that source model or method. Raises BadInput for none."""
    called = [entry for entry in every if entry.name == name]
    called = called or [entry for entry in every if entry.name.rpartition("-")[0] == name]
    if not called:
        raise BadInput(unknown("entry of the cache", name, {entry.name for entry in every}))
    return called


def _locked_by(path: Path) -> Path:
    """What `held` locks while this part of an entry is made, without the lock's suffix."""
    name = path.name.removeprefix(".").removesuffix(".work")
    inside = path.parent.name in ("images", "labels")
    return (path.parent.parent if inside else path.parent) / name


@contextlib.contextmanager
def _locked(entry: Entry) -> Iterator[str | None]:
    """Hold the locks of an entry, so that no process begins with it meanwhile.

    Yields who holds one already, None where nobody does.
    """
    from filelock import FileLock, Timeout

    with contextlib.ExitStack() as stack:
        holder = None
        for place in sorted({_locked_by(path) for path in entry.paths}):
            lock, who = (place.with_name(f"{place.name}{suffix}") for suffix in BESIDE)
            if not lock.exists():
                continue
            try:
                stack.enter_context(FileLock(lock, fallback_to_soft=False).acquire(timeout=0))
            except Timeout:
                holder = who.read_text(encoding="utf-8") if who.exists() else "another process"
        if holder is None:  # asked when the locks are held: a reader notes what it holds
            holder = _reader(entry)
        yield holder


def _reader(entry: Entry) -> str | None:
    """Who has noted that it reads an entry, None where nobody has."""
    places = {_locked_by(path) for path in entry.paths}
    noted = {cache: users(cache) for cache in {place.parent.parent for place in places}}
    for place in places:
        who = noted[place.parent.parent].get(f"{place.parent.name}/{place.name}")
        if who is not None:
            return who
    return None


def _remove(path: Path) -> None:
    """Remove a part of an entry. Its lock stays: another process may be about to take it."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
