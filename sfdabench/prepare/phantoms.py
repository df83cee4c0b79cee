"""The phantom of a data set in the cache, drawn once and checked on every use."""

from __future__ import annotations

import hashlib
import json
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from sfdabench.core.dataset import Dataset
from sfdabench.core.files import atomic, held, sha256_file
from sfdabench.prepare.manifest import stamp

Report = Callable[[str], None]


def phantom_root(name: str, dataset: Dataset, cache: Path, report: Report) -> Path:
    """The phantom of a data set in the cache, drawn where it is not there as it was drawn.

    Its folder is named by the code that may have drawn it, so that changed code draws a new one;
    an index beside it says what each file held.
    """
    code = hashlib.sha256(b"".join(path.read_bytes() for path in _drawers(type(dataset))))
    root = cache / "phantoms" / f"{name}-{code.hexdigest()[:16]}"
    index = root.with_name(f"{root.name}.json")
    with held(root, report):
        if root.exists():
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
        with atomic(index) as file:
            json.dump({n: [*stamp(p), sha256_file(p)] for n, p in _files(work)}, file)
        if root.exists():
            shutil.rmtree(root)
        work.rename(root)
    except BaseException:
        shutil.rmtree(work)
        raise


def _phantom_fault(root: Path, index: Path) -> str | None:
    """What differs from the index, None where nothing does; hashed only where the stamp differs."""
    try:
        drawn = json.loads(index.read_text(encoding="utf-8"))
        stamps = {name: (drawn[name][:2], drawn[name][2]) for name in drawn}
    except (OSError, ValueError, TypeError, LookupError):
        return "its index cannot be read"
    found = dict(_files(root))
    for name in sorted(stamps.keys() | found.keys()):
        if name not in found:
            return f"{name} is missing"
        if name not in stamps:
            return f"{name} was not drawn"
        then, content = stamps[name]
        if stamp(found[name]) != then and sha256_file(found[name]) != content:
            return f"{name} does not have its recorded hash"
    return None


def _files(root: Path) -> Iterator[tuple[str, Path]]:
    """Every file under `root`, with its name relative to it."""
    return ((p.relative_to(root).as_posix(), p) for p in root.rglob("*") if p.is_file())


def _drawers(entry: type[Dataset]) -> list[Path]:
    """Code that a phantom may depend on: the adapter, its bases, what each shares with others
    (`_*.py` beside it), the random generator, and every anatomy.

    More than one phantom needs: a spare drawing costs seconds, a stale one wrong numbers.
    """
    import inspect

    import sfdabench.phantoms
    from sfdabench.core import seeding

    adapters = [Path(inspect.getfile(kind)) for kind in entry.__mro__ if kind is not object]
    shared = [path for adapter in adapters for path in adapter.parent.glob("_*.py")]
    anatomies = [path for d in sfdabench.phantoms.__path__ for path in Path(d).glob("*.py")]
    return sorted({*adapters, *shared, *anatomies, Path(seeding.__file__)})
