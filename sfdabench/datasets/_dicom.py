"""DICOM series in and out: a folder of single slices <-> a volume in canonical axes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sfdabench.core.errors import DataFault
from sfdabench.core.files import regular
from sfdabench.formats.volumes import SKEWED, canonical, right_angles

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
EVEN = 0.1  # ours: share of a step by which a slice may lie off; a missing slice is off by 1
SERIES, POSITION, ORIENTATION, PIXELS = "0020|000e", "0020|0032", "0020|0037", "0028|0030"
NUMBERS = {POSITION: ("position", 3), ORIENTATION: ("orientation", 6), PIXELS: ("spacing", 2)}
DECIMAL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")  # DICOM's value type DS


@dataclass(frozen=True)
class Slice:
    """Where one DICOM file lies, in DICOM's own axes (LPS) and mm; steps along rows and columns."""

    size: tuple[int, int]
    series: str
    axes: np.ndarray
    steps: np.ndarray
    corner: np.ndarray


@dataclass(frozen=True)
class Stack:
    """The files of a series in the order of their slices, and the volume (X, Y, Z) they make."""

    order: tuple[int, ...]
    shape: tuple[int, int, int]
    affine: np.ndarray

    def volume(self, planes: Sequence[np.ndarray]) -> np.ndarray:
        """Planes (rows, columns), one a file and in the order of the files -> (D, H, W)."""
        in_order = [planes[i] for i in self.order]
        return canonical(np.stack(in_order, axis=-1).transpose(1, 0, 2), self.affine)


def _open(path: Path) -> Any:
    """A reader that has read the header of one DICOM file. Raises DataFault naming the file."""
    from SimpleITK import ImageFileReader

    regular(path, "get this file again from the authors", DataFault)
    reader = ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise DataFault(
            f"{path}: not a whole DICOM file; get this file again from the authors"
        ) from error
    return reader


def _slice(path: Path) -> Slice:
    reader = _open(path)
    for tag, (name, count) in NUMBERS.items():
        _check_numbers(reader, path, tag, name, count)
    columns, rows, *more = reader.GetSize()
    if more != [1] or reader.GetNumberOfComponents() != 1:
        raise DataFault(f"{path}: not a single grey slice; get this file again from the authors")
    return Slice(
        (columns, rows),
        reader.GetMetaData(SERIES).strip() if reader.HasMetaDataKey(SERIES) else "",
        np.reshape(reader.GetDirection(), (3, 3))[:, :2],
        np.array(reader.GetSpacing()[:2]),
        np.array(reader.GetOrigin()),
    )


def _check_numbers(reader: Any, path: Path, tag: str, name: str, count: int) -> None:
    """Raise DataFault where the text of a tag is not so many decimals: the library would guess."""
    if not reader.HasMetaDataKey(tag):
        raise DataFault(f"{path}: its header has no {name}; get this file again")
    text = reader.GetMetaData(tag).strip()
    parts = [part.strip() for part in text.split("\\")]
    whole = len(parts) == count and all(map(DECIMAL.fullmatch, parts))
    if not whole or (tag == PIXELS and min(map(float, parts)) <= 0):
        raise DataFault(
            f"{path}: its {name} (tag {tag.replace('|', ',')}) is '{text}', not {count} decimal "
            f"numbers{' above 0' if tag == PIXELS else ''}; get this file again"
        )


def stack(files: Sequence[Path]) -> Stack:
    """Order the slices along their normal. Raises DataFault for two series in one, or for gaps."""
    slices = [_slice(path) for path in files]
    first = slices[0]
    if len(slices) < 2:
        raise DataFault(f"{files[0]}: the only slice; unpack this patient again")
    for path, other in zip(files, slices, strict=True):
        differs = _difference(first, other)
        if differs:
            raise DataFault(
                f"{path}: {differs} differs from {files[0].name}; two series lie in one folder, "
                "or this file is another patient's: unpack this patient again"
            )
    corners = np.array([each.corner for each in slices])
    order = np.argsort(corners @ np.cross(*first.axes.T), kind="stable")
    gaps = np.diff(corners[order], axis=0)
    step = np.median(gaps, axis=0)
    off = np.linalg.norm(gaps - step, axis=1) >= EVEN * np.linalg.norm(step)
    if off.any():
        k = int(off.argmax())
        raise DataFault(
            f"{files[order[k]]}: {np.linalg.norm(gaps[k]):.2f} mm to the next slice, "
            f"{files[order[k + 1]].name}, where the series has {np.linalg.norm(step):.2f} mm; "
            "a slice is missing or doubled: unpack this patient again"
        )
    affine = np.eye(4)
    affine[:3, :2] = first.axes * first.steps
    affine[:3, 2] = gaps.mean(axis=0)
    affine[:3, 3] = corners[order[0]]
    if not right_angles(affine):
        raise DataFault(f"{files[order[0]]}: in the series of this slice, {SKEWED}")
    shape = (*first.size, len(files))
    return Stack(tuple(int(i) for i in order), shape, LPS_TO_RAS @ affine)


def _difference(one: Slice, other: Slice) -> str:
    """What tells two slices to be of different series, nothing if none does."""
    for name, same in (
        ("SeriesInstanceUID", one.series == other.series),
        ("size", one.size == other.size),
        ("orientation", np.allclose(one.axes, other.axes, atol=1e-3)),
        ("pixel spacing", np.allclose(one.steps, other.steps, rtol=1e-3)),
    ):
        if not same:
            return name
    return ""


def pixels(path: Path) -> np.ndarray:
    """Rescaled values (rows, columns) of one file."""
    from SimpleITK import GetArrayFromImage

    reader = _open(path)
    try:
        return GetArrayFromImage(reader.Execute())[0]
    except RuntimeError as error:
        raise DataFault(
            f"{path}: its pixels cannot be read; get this file again from the authors"
        ) from error


def write(
    path: Path, plane: np.ndarray, k: int, affine: np.ndarray, header: dict[str, str]
) -> None:
    """Save plane (rows, columns) number `k` of a volume (X, Y, Z), its folder included.

    affine: of the volume, to RAS+ millimetres. header: tag "gggg|eeee" -> value.
    """
    from SimpleITK import GetImageFromArray, ImageFileWriter

    affine = LPS_TO_RAS @ affine
    steps = np.linalg.norm(affine[:3, :3], axis=0)
    image = GetImageFromArray(plane[None])
    image.SetSpacing(steps.tolist())
    image.SetDirection((affine[:3, :3] / steps).ravel().tolist())
    image.SetOrigin((affine @ (0, 0, k, 1))[:3].tolist())
    # What the library adds by itself, once the process has read a DICOM file: slice spacing and a
    # rescaling that changes no value. Given in any case, so that the bytes do not depend on that.
    added = {
        "0018|0088": f"{steps[2]:.15g}",
        "0028|1052": "0",
        "0028|1053": "1",
        "0028|1054": "US",
    }
    for tag, value in (header | added).items():
        image.SetMetaData(tag, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = ImageFileWriter()
    writer.SetImageIO("GDCMImageIO")
    writer.KeepOriginalImageUIDOn()
    writer.SetFileName(str(path))
    writer.Execute(image)


def phantom_header(modality: str, *, study: str, series: str, image: str) -> dict[str, str]:
    """What the writer would fill in by chance or by the clock; the three are UIDs."""
    return {
        "0008|0060": modality,
        "0008|0020": "20000101",
        "0008|0030": "000000",
        "0010|0010": "PHANTOM",
        "0008|0018": image,
        "0020|000d": study,
        SERIES: series,
    }
