"""The phantom of a data set in the cache, drawn once and checked on every use."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

from sfdabench.core import registry
from sfdabench.core.dataset import Dataset
from sfdabench.core.errors import BadInput
from sfdabench.core.files import (
    held,
    leftovers,
    remove,
    remove_leftovers,
    sha256_file,
)
from sfdabench.prepare.manifest import HashedFile, read_hashes, stamp, write_hashes

Report = Callable[[str], None]


def phantom_root(name: str, dataset: Dataset, cache: Path, report: Report) -> Path:
    """The phantom of a data set in the cache, drawn where it is not there as it was drawn.

    Its folder is named by the code that may have drawn it, so that changed code draws a new one;
    an index beside it says what each file held.
    """
    code = hashlib.sha256(b"".join(path.read_bytes() for path in _drawers(type(dataset))))
    root = cache / "phantoms" / f"{name}-{code.hexdigest()[:16]}"
    index = root.with_name(f"{root.name}.json")
    if _is_sound(root, index):  # as most looks find it; they need not hold it
        return root
    with held(root, report):
        remove_leftovers(root)
        if os.path.lexists(root):
            fault = _phantom_fault(root, index)
            if fault is None:
                return root
            report(f"phantom {root.name}: {fault}; drawn anew")
        _draw(dataset, root, index)
    return root


def _draw(dataset: Dataset, root: Path, index: Path) -> None:
    """The phantom and its index, in place of what is there."""
    root.parent.mkdir(parents=True, exist_ok=True)
    work = root.parent / f".{root.name}.{secrets.token_hex(4)}"
    work.mkdir()
    try:
        dataset.phantom(work, seed=0)
        drawn = {name: HashedFile.of(path) for name, path in _files(work)}
        remove(root)
        remove(index)
        write_hashes(index, drawn)
        work.rename(root)
    except BaseException:
        remove(work)
        raise


def _is_sound(root: Path, index: Path) -> bool:
    """Whether all is as it was drawn, with nothing half-drawn beside it; nobody need hold it."""
    try:
        return root.is_dir() and _phantom_fault(root, index) is None and not leftovers(root)
    except (BadInput, FileNotFoundError):  # its holder takes it away just now
        return False


def _phantom_fault(root: Path, index: Path) -> str | None:
    """What differs from the index, None where nothing does; hashed only where the stamp differs."""
    try:
        drawn = read_hashes(index)
    except BadInput:
        return "its index cannot be read"
    found = dict(_files(root))
    for name in sorted(drawn.keys() | found.keys()):
        if name not in found:
            return f"{name} is missing"
        if name not in drawn:
            return f"{name} was not drawn"
        unchanged = stamp(found[name]) == drawn[name].stamp
        if not unchanged and sha256_file(found[name]) != drawn[name].sha256:
            return f"{name} does not have its recorded hash"
    return None


def _files(root: Path) -> Iterator[tuple[str, Path]]:
    """Every file under `root`, with its name relative to it; nothing where it is no folder."""
    return _below(root, "") if root.is_dir() else iter(())


def _below(folder: Path | str, prefix: str) -> Iterator[tuple[str, Path]]:
    """The files of a folder; not by `rglob`, which asks the system about each of them again."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _below(entry.path, f"{prefix}{entry.name}/")
            elif entry.is_file():
                yield f"{prefix}{entry.name}", Path(entry.path)


def _drawers(entry: type[Dataset]) -> list[Path]:
    """Code that a phantom may depend on: the adapter, its bases, what each shares with others
    (`_*.py` beside it), the random generator, every writer of images, and every anatomy.

    More than one phantom needs: a spare drawing costs seconds, a stale one wrong numbers.
    """
    import inspect

    import sfdabench.formats
    import sfdabench.phantoms

    adapters = [Path(inspect.getfile(kind)) for kind in entry.__mro__ if kind is not object]
    shared = [path for adapter in adapters for path in adapter.parent.glob("_*.py")]
    folders = [*sfdabench.formats.__path__, *sfdabench.phantoms.__path__]
    drawers = [path for folder in folders for path in Path(folder).glob("*.py")]
    return sorted({*adapters, *shared, *drawers, registry.PACKAGE / "core" / "seeding.py"})
