"""What the abdominal adapters share: organs, places, and whether two volumes coincide."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from pathlib import Path

import numpy as np

from sfdabench.core.dataset import Card, Case, Scan
from sfdabench.core.errors import DataFault
from sfdabench.core.files import sha256_file
from sfdabench.datasets._volumes import original, write_nifti

# One numbering for all, in CHAOS's order, so that a class means the same in source and target.
LABELS = {"background": 0, "liver": 1, "right_kidney": 2, "left_kidney": 3, "spleen": 4}
LIVER, RIGHT_KIDNEY, LEFT_KIDNEY, SPLEEN = 1, 2, 3, 4
ABOVE = ("", "abdomen", "Abdomen")
# Axis of a canonical volume -> pairs of organs that lie in this order along it.
ORDER = {
    "feet to head": ((RIGHT_KIDNEY, LIVER), (LEFT_KIDNEY, SPLEEN)),
    "front to back": ((LIVER, RIGHT_KIDNEY), (LIVER, LEFT_KIDNEY)),
    "right to left": ((RIGHT_KIDNEY, LEFT_KIDNEY), (LIVER, SPLEEN)),
}


def locate(root: Path, card: Card, folders: Sequence[str], mark: str) -> Path:
    """The one place/`mark` that exists; places are the root, ABOVE, and `folders` in each.

    Raises DataFault where the root is missing, or holds no such place, or several.
    """
    if not root.is_dir():
        raise DataFault(f"{root}: no such folder; {card.obtain}")
    found: dict[tuple[int, int], Path] = {}
    for above, folder in product(ABOVE, ("", *folders)):
        place = root / above / folder / mark
        if place.is_dir():
            stat = place.stat()  # one folder under two names where case does not count
            found.setdefault((stat.st_dev, stat.st_ino), place)
    if not found:
        raise DataFault(
            f"{root}: no {card.title} there: looked for {mark} in {', '.join(('.', *folders))} and "
            "below abdomen/; `sfdabench data describe` prints the expected tree"
        )
    if len(found) > 1:
        shown = ", ".join(map(str, found.values()))
        raise DataFault(f"{root}: {card.title} found twice: {shown}; give one of them")
    return next(iter(found.values()))


def same_scan_twice(cases: Iterable[Case]) -> Iterator[str]:
    """A fault for each case whose first file is, byte for byte, that of a case before it.

    Only files of one size are read.
    """
    by_size: dict[int, list[Path]] = {}
    for case in cases:
        by_size.setdefault(case.image[0].stat().st_size, []).append(case.image[0])
    for paths in by_size.values():
        first: dict[str, Path] = {}
        for path in paths if len(paths) > 1 else ():
            other = first.setdefault(sha256_file(path), path)
            if other is not path:
                yield f"{path}: the same scan as {other}; one patient may count once only"


def empty_splits(scan: Scan, expected: Iterable[str], base: Path) -> Iterator[str]:
    """A fault for each of the `expected` splits without a case."""
    found = {case.split for case in scan.cases}
    for split in expected:
        if split not in found:
            yield f"{base}: split '{split}' is empty; the card shows the expected tree"


def coincide(shape: Sequence[int], one: np.ndarray, other: np.ndarray) -> bool:
    """Two affines put each corner of a volume (X, Y, Z) within half a voxel of one place."""
    corners = np.array([(*corner, 1) for corner in product(*((0, n - 1) for n in shape))])
    apart = np.linalg.norm(corners @ (one - other).T, axis=1).max()
    return bool(apart < 0.5 * np.linalg.norm(one[:3, :3], axis=0).min())


def check_header_is_true(label: np.ndarray, path: Path) -> None:
    """Raise DataFault where every organ of a canonical label lies the wrong way along an axis.

    Copies of these releases circulate whose arrays were flipped and whose headers were not.
    """
    places = {}
    for organ in (LIVER, RIGHT_KIDNEY, LEFT_KIDNEY, SPLEEN):
        along = [(label == organ).sum(axis=axes) for axes in ((1, 2), (0, 2), (0, 1))]
        if along[0].any():
            places[organ] = [np.average(np.arange(len(n)), weights=n) for n in along]
    for axis, (name, pairs) in enumerate(ORDER.items()):
        wrong = [
            places[one][axis] > places[other][axis]
            for one, other in pairs
            if one in places and other in places
        ]
        if wrong and all(wrong):
            raise DataFault(
                f"{path}: its header says that the organs lie the other way round from {name}; the "
                "array was flipped without its header: take the authors' file, or mend the header"
            )


def save_over(stem: Path, label: np.ndarray, shape: Sequence[int], affine: np.ndarray) -> Path:
    """Save a canonical label (D, H, W) on the grid (X, Y, Z) of the file it was drawn over.

    Raises ValueError where the label is not that file's.
    """
    array = original(label, affine)
    if array.shape != tuple(shape):
        raise ValueError(f"label {array.shape} over an image {tuple(shape)}, in file order")
    path = stem.with_name(f"{stem.name}.nii.gz")
    write_nifti(path, array.astype(np.uint8), affine)
    return path
