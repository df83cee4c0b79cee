"""What the fundus adapters share: frames, decoding, and the ROI layout of BEAL and DPL.

NumPy, Pillow and the drawing of phantoms are imported late, here and in the adapters: a scan goes
before every run, and a run whose record exists is answered at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from sfdabench.core.dataset import Case, Dataset, Scan
from sfdabench.core.errors import DataFault
from sfdabench.datasets._files import (
    always,
    empty_splits,
    label_files,
    listing,
    only,
    pair,
    places,
    twice,
)
from sfdabench.formats.pictures import few, grey, read, write

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

BACKGROUND, RIM, CUP = 0, 1, 2
LABELS = {"background": BACKGROUND, "rim": RIM, "cup": CUP}
LEVELS = (0, 128, 255)  # cup, rim, background
VISIBLE = (0, 128, 255)  # of a written mask: background, rim, cup
TOLERANCE = 20  # grey values around a level that still belong to it
BETWEEN = 0.05  # share of a mask that smoothed borders may take; a photograph takes nearly all
ABOVE = ("", "fundus")


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
    smoke: ClassVar = {"phantom_cases": 2}

    def scan(self, root: Path) -> Scan:
        layout, base = self._locate(root)
        scan = Scan(layout=f"{layout} layout in {base}")
        expected = self._rois(base, scan) if layout == "ROI" else self._official(base, scan)
        first: dict[str, Case] = {}
        for case in scan.cases:
            if first.setdefault(case.id, case) is not case:
                other = first[case.id].image[0]
                scan.faults.append(twice(case.image[0], f"id '{case.id}'", other))
        scan.cases = list(first.values())
        scan.faults += empty_splits(scan, expected, base)
        return scan

    def read_image(self, case: Case, channels: tuple[str, ...] = ()) -> tuple[np.ndarray, None]:
        import numpy as np

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
        first, *more = label_files(case)
        rois = case.cropped and not more
        label = roi_label(first) if rois else self._official_label(case)
        image = read(case.image[0], header=True)
        shape = (image.height, self._width(case, image))
        if label.shape != shape:
            raise DataFault(
                f"{first}: the mask is {label.shape[1]}x{label.shape[0]}, its image "
                f"{case.image[0].name} {shape[1]}x{shape[0]} (width x height); "
                "take both from the same release"
            )
        if (label[[0, 0, -1, -1], [0, -1, 0, -1]] != BACKGROUND).all():
            raise DataFault(
                f"{first}: all four corners are disc, so the grey values are not coded "
                "as expected (inverted, or class numbers instead of grey values?)"
            )
        return label

    def write_mask(self, case: Case, label: np.ndarray, stem: Path) -> Path:
        import numpy as np

        path = stem.with_name(f"{stem.name}.png")
        write(path, np.array(VISIBLE, np.uint8)[label])
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

    def _locate(self, root: Path) -> tuple[str, Path]:
        """The layout found, "official" or "ROI", and where."""
        folders = ("", *self.folders)
        layouts = {"official": self.marks, "ROI": tuple(self.domains)}
        found = {
            f"{layout} layout in {place}": (layout, place)
            for place in places(root, self.card, (Path(*each) for each in product(ABOVE, folders)))
            for layout, marks in layouts.items()
            if any((place / mark).is_dir() for mark in marks)
        }
        wanted = " or ".join(f"{mark}/" for mark in (*self.marks, *self.domains))
        shown = ", ".join(folder or "." for folder in ("", "fundus", *self.folders))
        return only(root, self.card, found, f"{wanted} in {shown} and below fundus")

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


def nested(disc: np.ndarray, cup: np.ndarray, path: Path) -> np.ndarray:
    """Label map from two boolean masks; what is cup counts as disc too."""
    import numpy as np

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
    import numpy as np

    mask = grey(path)
    off = np.abs(np.arange(256)[:, None] - np.array(LEVELS)).min(1) > TOLERANCE
    share = off[mask].mean()
    if share > BETWEEN:
        raise DataFault(
            f"{path}: {share:.0%} of the mask has unknown grey values "
            f"({few(np.unique(mask[off[mask]]))}, ...); expected 0 cup, 128 rim, 255 background; "
            "is this a photograph or another coding?"
        )
    return np.where(mask <= 50, CUP, np.where(mask <= 200, RIM, BACKGROUND)).astype(np.uint8)
