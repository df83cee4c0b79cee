"""A data set: the authors' files on disk -> cases, images, labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from sfdabench.core.errors import DataFault

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Card:
    """What a user must know to obtain the data; `tree` is the expected layout, one path a line."""

    title: str
    licence: str
    url: str
    citation: str
    obtain: str
    tree: str


@dataclass(frozen=True)
class Case:
    """One patient image by its paths; nothing is read.

    id: unique within the data set. split: such as "train" or "test".
    image, label: the files it is made of; no label files for an unlabelled case.
    cropped: the image is already a region of interest, not the whole frame.
    """

    id: str
    split: str
    image: tuple[Path, ...]
    label: tuple[Path, ...] = ()
    cropped: bool = False


@dataclass
class Scan:
    """Cases found under a root in a stable order, and every fault found on the way.

    layout: which of the data set's layouts it is, in words; empty where there is one only.
    """

    cases: list[Case] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    layout: str = ""


class Dataset:
    """One adapter a file. Subclasses fill the class fields and the five methods.

    A photograph is (C, H, W). A volume is (C, D, H, W) in canonical axes, whatever the file's: D
    from inferior to superior, H from anterior to posterior, W from the patient's right to left.

    labels: name -> value in the label map, background 0 included.
    channels: names of the image's channels, in order.
    counts: layout name -> split -> number of cases in the official release.
    frame_crop: side of the square crop around the disc as a share of the frame's height, for
        full frames; None where frames are not cropped.
    revision: raised when a built-in data set reads other values or writes another phantom.
    smoke: attributes with which its phantom is a case or two, for the contract checks.
    """

    card: ClassVar[Card]
    labels: ClassVar[Mapping[str, int]]
    channels: ClassVar[tuple[str, ...]]
    counts: ClassVar[Mapping[str, Mapping[str, int]]]
    frame_crop: ClassVar[float | None] = None
    revision: ClassVar[int] = 1
    smoke: ClassVar[Mapping[str, Any]] = {}

    def scan(self, root: Path) -> Scan:
        """Find the cases under `root`; never raises for a fault inside it, lists it instead.

        Raises DataFault where `root` is missing or holds no layout of this data set.
        """
        raise NotImplementedError

    def read_image(
        self, case: Case, channels: tuple[str, ...] = ()
    ) -> tuple[np.ndarray, tuple[float, ...] | None]:
        """Image float32 (C, *space) and its spacing in mm a step of *space, None where unknown.

        channels: names of those wanted, all of them where empty. Values are the file's: RGB
        0..255, Hounsfield units, scanner units. Raises DataFault for a broken file.
        """
        raise NotImplementedError

    def read_label(self, case: Case) -> np.ndarray:
        """Label map uint8 (*space), values as in `labels`.

        Raises DataFault for a broken file, an unknown value, or parts of different size.
        """
        raise NotImplementedError

    def read_raters(self, case: Case) -> np.ndarray:
        """Label maps uint8 (raters, *space), for data sets whose reference has several raters."""
        return self.read_label(case)[None]

    def write_mask(self, case: Case, label: np.ndarray, stem: Path) -> Path:
        """Save a label map uint8 (*space) as `read_label` gives it, over the original image.

        stem: where to, without suffix: PNG for photographs; NIfTI for volumes, in the axis order
        and with the affine of the case's own file, so that any viewer overlays it. Returns the
        file written, its folder made.
        """
        raise NotImplementedError

    def phantom(self, root: Path, seed: int) -> None:
        """Write synthetic cases in the authors' layout, with this data set's look."""
        raise NotImplementedError

    def cases(self, root: Path) -> list[Case]:
        """All cases in a stable order. Raises DataFault that lists the faults found."""
        scan = self.scan(root)
        if scan.faults:
            shown = "\n  ".join(scan.faults[:10])
            more = f"\n  and {len(scan.faults) - 10} more" if len(scan.faults) > 10 else ""
            raise DataFault(
                f"{root}: {len(scan.faults)} fault(s) in the data set's files:\n  {shown}{more}"
            )
        return scan.cases
