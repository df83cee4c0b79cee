"""What all adapters share: places, lists of files, pairs and splits."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from sfdabench.core.dataset import Card, Case, Scan
from sfdabench.core.errors import AbsentData, DataFault
from sfdabench.core.files import sha256_file

Files = Mapping[str, Path]
Split = Callable[[int, Path], str]
T = TypeVar("T")


def places(root: Path, card: Card, folders: Iterable[str | Path]) -> list[Path]:
    """Those `folders` of the root that exist, each once. Raises DataFault where the root does not.

    One folder may come under two names where case does not count.
    """
    if not root.is_dir():
        raise DataFault(f"{root}: no such folder; {card.obtain}")
    found: dict[tuple[int, int], Path] = {}
    for place in (root / folder for folder in folders):
        if place.is_dir():
            stat = place.stat()
            found.setdefault((stat.st_dev, stat.st_ino), place)
    return list(found.values())


def only(root: Path, card: Card, found: Mapping[str, T], sought: str) -> T:
    """The one thing `found`, by the name to show for it.

    Raises AbsentData where there is none, DataFault for several.
    """
    if not found:
        raise AbsentData(
            f"{root}: no {card.title} there: looked for {sought}; "
            "`sfdabench data describe` prints the expected tree"
        )
    if len(found) > 1:
        raise DataFault(f"{root}: {card.title} found twice: {', '.join(found)}; give one of them")
    return next(iter(found.values()))


def twice(path: Path, what: str, other: Path) -> str:
    """The fault of a file or folder that is, under another name, there already."""
    return f"{path}: {what} twice, also {other}; remove one of them"


def listing(scan: Scan, folders: Sequence[Path], pattern: str) -> dict[str, Path]:
    """Id (group 1 of `pattern`) -> file, sorted by id; faults: missing folder, id given twice."""
    found: dict[str, Path] = {}
    for folder in folders:
        if not folder.is_dir():
            scan.faults.append(f"{folder}: missing folder")
            continue
        for path in sorted(folder.iterdir()):
            match = re.fullmatch(pattern, path.name, re.IGNORECASE)
            if match is None or path.name.startswith("."):  # ._name.png comes out of macOS archives
                continue
            if match[1] in found:
                scan.faults.append(twice(path, f"id '{match[1]}'", found[match[1]]))
            else:
                found[match[1]] = path
    return dict(sorted(found.items()))


def pair(
    scan: Scan,
    images: Files,
    masks: Sequence[Files],
    where: Path,
    split: Split,
    *,
    cropped: bool = False,
) -> None:
    """Add a case for each image that has its part in every one of `masks`; the rest are faults.

    split: (position in sorted order, image) -> name. where: where masks were sought.
    """
    for i, (name, image) in enumerate(images.items()):
        parts = tuple(files[name] for files in masks if name in files)
        if len(parts) == len(masks):
            scan.cases.append(Case(name, split(i, image), (image,), parts, cropped))
        else:
            scan.faults.append(f"{image}: image without mask; looked for '{name}' in {where}")
    scan.faults += [
        f"{path}: mask without image"
        for files in masks
        for name, path in files.items()
        if name not in images
    ]


def always(split: str) -> Split:
    """The split that the authors' folders define."""
    return lambda position, image: split


def label_files(case: Case) -> tuple[Path, ...]:
    """The case's masks, of which there is one at least. Raises DataFault where it has none."""
    if not case.label:
        raise DataFault(f"{case.image[0]}: this case has no mask")
    return case.label


def empty_splits(
    scan: Scan, expected: Iterable[str], base: Path, why: Callable[[str], str] = lambda split: ""
) -> Iterator[str]:
    """A fault for each of the `expected` splits without a case; `why` tells more of a split."""
    found = {case.split for case in scan.cases}
    for split in expected:
        if split not in found:
            yield f"{base}: split '{split}' is empty{why(split)}; the card shows the expected tree"


def same_scan_twice(cases: Iterable[Case]) -> Iterator[str]:
    """A fault for each case whose first file is, byte for byte, that of a case before it.

    Only files of one size that agree in their middle are read: uncompressed volumes are all of
    one size, and a scan goes before every run.
    """
    by_size: dict[int, list[Path]] = {}
    for case in cases:
        by_size.setdefault(case.image[0].stat().st_size, []).append(case.image[0])
    alike: dict[tuple[int, bytes], list[Path]] = {}
    for size, paths in by_size.items():
        for path in paths if len(paths) > 1 else ():
            alike.setdefault((size, _middle(path, size)), []).append(path)
    for paths in alike.values():
        first: dict[str, Path] = {}
        for path in paths if len(paths) > 1 else ():
            other = first.setdefault(sha256_file(path), path)
            if other is not path:
                yield f"{path}: the same scan as {other}; one patient may count once only"


def _middle(path: Path, size: int) -> bytes:
    """Up to 64 KiB from the middle of a file."""
    with path.open("rb") as file:
        file.seek(max(0, size // 2 - 2**15))
        return file.read(2**16)
