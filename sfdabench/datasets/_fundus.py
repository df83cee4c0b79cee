"""What the fundus adapters share: places, pairing, decoding, and the ROI layout of BEAL and DPL."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image, UnidentifiedImageError

from sfdabench.core.dataset import Case, Dataset, Scan
from sfdabench.core.errors import DataFault

BACKGROUND, RIM, CUP = 0, 1, 2
LABELS = {"background": BACKGROUND, "rim": RIM, "cup": CUP}
LEVELS = np.array((0, 128, 255))  # cup, rim, background
VISIBLE = np.array((0, 128, 255), np.uint8)  # of a written mask: background, rim, cup
TOLERANCE = 20  # grey values around a level that still belong to it
BETWEEN = 0.05  # share of a mask that smoothed borders may take; a photograph takes nearly all
Files = Mapping[str, Path]
Split = Callable[[int, Path], str]


class Fundus(Dataset):
    """An adapter for a disc-and-cup data set; its file says where the authors put things.

    folders: sub-folders of the root that may hold the data. marks: any of them shows the authors'
    layout. domains: folder of the ROI layout -> its split -> ours. stereo: frames are pairs side
    by side, of which the left one is annotated. phantom_cases: cases a phantom has.
    """

    labels = LABELS
    channels = ("red", "green", "blue")
    folders: ClassVar[tuple[str, ...]] = ()
    marks: ClassVar[tuple[str, ...]]
    domains: ClassVar[Mapping[str, Mapping[str, str]]] = {}
    stereo: ClassVar[bool] = False
    phantom_cases: ClassVar[int]

    def scan(self, root: Path) -> Scan:
        layout, base = self._locate(root)
        scan = Scan()
        expected = self._rois(base, scan) if layout == "ROI" else self._official(base, scan)
        first: dict[str, Case] = {}
        for case in scan.cases:
            if first.setdefault(case.id, case) is not case:
                scan.faults.append(
                    f"{case.image[0]}: id '{case.id}' twice, also {first[case.id].image[0]}; "
                    "remove one of them"
                )
        scan.cases = list(first.values())
        found = {case.split for case in scan.cases}
        scan.faults += [
            f"{base}: split '{split}' is empty; the card shows the expected tree"
            for split in expected
            if split not in found
        ]
        return scan

    def read_image(self, case: Case, channels: tuple[str, ...] = ()) -> tuple[np.ndarray, None]:
        image = read(case.image[0])
        if image.mode not in ("RGB", "RGBA", "P"):
            raise DataFault(
                f"{case.image[0]}: expected a colour photograph, found mode {image.mode}; "
                "is this a mask?"
            )
        pixels = np.asarray(image.convert("RGB"))[:, : self._width(case, image)]
        wanted = [self.channels.index(name) for name in channels or self.channels]
        return np.ascontiguousarray(pixels.transpose(2, 0, 1)[wanted], np.float32), None

    def read_label(self, case: Case) -> np.ndarray:
        if not case.label:
            raise DataFault(f"{case.image[0]}: this case has no mask")
        rois = case.cropped and len(case.label) == 1
        label = roi_label(case.label[0]) if rois else self._official_label(case)
        image = read(case.image[0], header=True)
        shape = (image.height, self._width(case, image))
        if label.shape != shape:
            raise DataFault(
                f"{case.label[0]}: the mask is {label.shape[1]}x{label.shape[0]}, its image "
                f"{case.image[0].name} {shape[1]}x{shape[0]} (width x height); "
                "take both from the same release"
            )
        if (label[[0, 0, -1, -1], [0, -1, 0, -1]] != BACKGROUND).all():
            raise DataFault(
                f"{case.label[0]}: all four corners are disc, so the grey values are not coded "
                "as expected (inverted, or class numbers instead of grey values?)"
            )
        return label

    def write_mask(self, case: Case, label: np.ndarray, stem: Path) -> Path:
        path = stem.with_name(f"{stem.name}.png")
        write(path, VISIBLE[label])
        return path

    def _official(self, base: Path, scan: Scan) -> Sequence[str]:
        """Fill `scan` from the authors' layout in `base`; returns the splits that must be there."""
        raise NotImplementedError

    def _official_label(self, case: Case) -> np.ndarray:
        """Decode the authors' masks of a case."""
        raise NotImplementedError

    def _width(self, case: Case, image: Image.Image) -> int:
        """Columns that count."""
        if not self.stereo or case.cropped:
            return image.width
        if image.width <= image.height:
            raise DataFault(
                f"{case.image[0]}: {image.width}x{image.height} is no stereo pair; "
                "give the authors' files with both views side by side"
            )
        return image.width // 2

    def _places(self, root: Path) -> Iterator[Path]:
        seen = set()
        for above in ("", "fundus"):
            for folder in ("", *self.folders):
                place = root / above / folder
                if place.is_dir():
                    stat = place.stat()  # one folder under two names where case does not count
                    if (stat.st_dev, stat.st_ino) not in seen:
                        seen.add((stat.st_dev, stat.st_ino))
                        yield place

    def _locate(self, root: Path) -> tuple[str, Path]:
        if not root.is_dir():
            raise DataFault(f"{root}: no such folder; {self.card.obtain}")
        found = [
            (layout, place)
            for place in self._places(root)
            for layout, marks in (("official", self.marks), ("ROI", tuple(self.domains)))
            if any((place / mark).is_dir() for mark in marks)
        ]
        if len(found) == 1:
            return found[0]
        if found:
            shown = ", ".join(f"{layout} layout in {place}" for layout, place in found)
            raise DataFault(f"{root}: {self.card.title} found twice: {shown}; give one of them")
        places = ", ".join(f or "." for f in ("", "fundus", *self.folders))
        wanted = " or ".join(f"{mark}/" for mark in (*self.marks, *self.domains))
        raise DataFault(
            f"{root}: no {self.card.title} there: looked for {wanted} in {places} and below "
            "fundus; `sfdabench data describe` prints the expected tree"
        )

    def _rois(self, base: Path, scan: Scan) -> list[str]:
        """DomainN/{train,test}/ROIs/{image,mask}/<id>.png."""
        expected = []
        for domain, splits in self.domains.items():
            if not (base / domain).is_dir():
                continue
            for theirs, ours in splits.items():
                rois = base / domain / theirs / "ROIs"
                images = listing(scan, [rois / "image"], r"(.+)\.png")
                masks = listing(scan, [rois / "mask"], r"(.+)\.png")
                pair(scan, images, [masks], rois / "mask", always(ours), cropped=True)
                expected.append(ours)
        return expected


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
                scan.faults.append(
                    f"{path}: id '{match[1]}' twice, also {found[match[1]]}; remove one of them"
                )
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


def read(path: Path, *, header: bool = False) -> Image.Image:
    """An image with its pixels, or its header only. Raises DataFault naming the file."""
    try:
        with Image.open(path) as image:
            if not header:
                image.load()
            return image
    except FileNotFoundError:
        raise DataFault(f"{path}: missing file") from None
    except UnidentifiedImageError:
        raise DataFault(
            f"{path}: not an image, whatever its name says; get this file again from the authors"
        ) from None
    except (OSError, SyntaxError, ValueError) as error:
        raise DataFault(
            f"{path}: broken image file ({error}); get this file again from the authors"
        ) from error


def grey(path: Path) -> np.ndarray:
    """A mask as uint8 (H, W)."""
    image = read(path)
    if image.mode not in ("1", "L", "LA", "P", "RGB", "RGBA"):
        raise DataFault(f"{path}: a mask of mode {image.mode}; expected 8-bit grey values")
    return np.asarray(image.convert("L"))


def exact(path: Path, allowed: Sequence[int]) -> np.ndarray:
    """A mask (H, W) that holds none but the `allowed` grey values."""
    mask = grey(path)
    known = np.zeros(256, bool)
    known[list(allowed)] = True
    if not known[mask].all():
        other = np.unique(mask[~known[mask]])
        shown = ", ".join(map(str, other[:5])) + (", ..." if len(other) > 5 else "")
        raise DataFault(
            f"{path}: unknown grey values {shown}; this mask knows {', '.join(map(str, allowed))}; "
            "was it resized or saved as JPEG?"
        )
    return mask


def nested(disc: np.ndarray, cup: np.ndarray, path: Path) -> np.ndarray:
    """Label map from two boolean masks; what is cup counts as disc too."""
    if disc.shape != cup.shape:
        raise DataFault(f"{path}: disc {disc.shape} and cup {cup.shape} masks differ in size")
    if (cup & ~disc).sum() > 0.5 * cup.sum():
        raise DataFault(
            f"{path}: most of the cup lies outside the disc; are the two files swapped?"
        )
    return np.where(cup, CUP, np.where(disc, RIM, BACKGROUND)).astype(np.uint8)


def roi_label(path: Path) -> np.ndarray:
    """Label map of an ROI mask: up to 50 cup, up to 200 rim, above background.

    Copies of these masks went through resizing, so borders may hold values in between; the
    thresholds of the published code salvage them as long as they are few.
    """
    mask = grey(path)
    off = np.abs(np.arange(256)[:, None] - LEVELS).min(1) > TOLERANCE
    share = off[mask].mean()
    if share > BETWEEN:
        values = ", ".join(map(str, np.unique(mask[off[mask]])[:5]))
        raise DataFault(
            f"{path}: {share:.0%} of the mask has unknown grey values ({values}, ...); expected "
            "0 cup, 128 rim, 255 background; is this a photograph or another coding?"
        )
    return np.where(mask <= 50, CUP, np.where(mask <= 200, RIM, BACKGROUND)).astype(np.uint8)


def write(path: Path, pixels: np.ndarray) -> None:
    """Save a phantom's image or mask by its suffix, its folder included."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, quality=95, compress_level=1)  # JPEG, PNG
