"""One case -> planes of one size: channels, clipping, crop, standardisation, resizing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from sfdabench.core.dataset import Case, Dataset
from sfdabench.core.errors import DataFault
from sfdabench.core.task import Centre
from sfdabench.prepare.preparation import Preparation

Box = tuple[int, int, int, int]  # top, left, height, width; may reach beyond the plane


@dataclass(frozen=True)
class Geometry:
    """Where the prepared planes of a case lie in the authors' grid.

    shape: (H, W) or (D, H, W) of the original label. box: what was cut out of every plane.
    """

    shape: tuple[int, ...]
    box: Box


@dataclass(frozen=True)
class Planes:
    """A prepared case.

    images: (N, C, S, S) uint8, or float16 where standardised. labels: (N, S, S) uint8. N counts
    each rater's mask where each makes a plane of its own, R times a slice at most.
    original: label map uint8 (*space) on the authors' grid. spacing: mm a step of *space.
    """

    images: np.ndarray
    labels: np.ndarray | None
    original: np.ndarray | None
    geometry: Geometry
    spacing: tuple[float, ...] | None
    raters: int = 1


def cut_planes(dataset: Dataset, case: Case, how: Preparation) -> Planes:
    """Read a case and bring it to the network's grid.

    Raises DataFault for what cannot be read, and for a case that leaves no plane.
    """
    if how.channels:
        image, spacing = dataset.read_image(case, how.channels)
    else:
        image, spacing = dataset.read_image(case)
    label, maps = _read_labels(dataset, case, how) if case.label else (None, None)
    space = image.shape[1:]
    box = _box(dataset, case, image, label if how.by_label else None, how.crop, spacing)
    volume = image if image.ndim == 4 else image[:, None]
    kept = _kept(volume, maps, how)
    if not len(kept):
        raise DataFault(f"{case.image[0]}: no plane is left ('{how.planes}'); is the image empty?")
    if how.intensity == "symmetric":
        values = volume.astype(np.uint8)
    else:
        values = _standardised(_clipped(volume, how), how.intensity)
    side, slices = how.side(box[2]), np.unique(kept[:, 1])
    images = np.stack([_fitted(values[:, k], box, side) for k in slices])
    if how.intensity == "zscore_plane":
        mean, std = (f(images, axis=(2, 3), keepdims=True) for f in (np.mean, np.std))
        images = (images - mean) / np.maximum(std, 1e-6)
    if len(slices) < len(kept):  # several raters drew on one slice
        images = images[np.searchsorted(slices, kept[:, 1])]
    labels = None
    if maps is not None:
        labels = np.stack([_fitted(maps[r, k][None], box, side, label=True)[0] for r, k in kept])
    return Planes(
        images=images if images.dtype == np.uint8 else images.astype(np.float16),
        labels=labels,
        original=label,
        geometry=Geometry(space, box),
        spacing=spacing,
        raters=1 if maps is None else len(maps),
    )


def _read_labels(dataset: Dataset, case: Case, how: Preparation) -> tuple[np.ndarray, np.ndarray]:
    """The label map (*space) that is scored, and those to learn from, (R, D, H, W).

    The latter are of the majority, or of each rater.
    """
    maps = dataset.read_raters(case) if how.raters == "each" else dataset.read_label(case)[None]
    label = maps[0] if len(maps) == 1 else dataset.read_label(case)
    return label, maps if maps.ndim == 4 else maps[:, None]


def _box(
    dataset: Dataset,
    case: Case,
    image: np.ndarray,
    label: np.ndarray | None,
    crop: Literal["disc", "none"] | Centre,
    spacing: Sequence[float] | None,
) -> Box:
    """The square to work on: around the disc or the middle, else the whole plane.

    `label` is given for source cases only; a target frame is cropped by what its image shows.
    """
    height, width = image.shape[-2:]
    if isinstance(crop, Centre):
        if crop.unit == "mm" and spacing is None:
            raise DataFault(f"{case.image[0]}: its spacing is unknown; the crop is in mm")
        steps = spacing[-2:] if crop.unit == "mm" and spacing else (1.0, 1.0)
        rows, columns = (max(1, round(crop.side / step)) for step in steps)
        return (height - rows) // 2, (width - columns) // 2, rows, columns
    if crop == "disc" and not case.cropped and dataset.frame_crop is not None:
        from sfdabench.prepare.disc_region import centre_from_label, crop_box, locate_disc

        centre = locate_disc(image) if label is None else centre_from_label(label)
        top, left, side = crop_box(height, width, centre, round(dataset.frame_crop * height))
        return top, left, side, side
    if fault := not_square(case, image.shape):
        raise DataFault(fault)
    return 0, 0, height, width


def not_square(case: Case, shape: Sequence[int]) -> str | None:
    """The fault of an image that nothing cuts to a square and that is none."""
    height, width = shape[-2:]
    if height == width:
        return None
    return (
        f"{case.image[0]}: {height}x{width} is not square; crop it to the disc, or give the "
        "authors' full frames"
    )


def _kept(volume: np.ndarray, maps: np.ndarray | None, how: Preparation) -> np.ndarray:
    """(N, 2): rater and slice of each plane to learn from, slice by slice.

    Of several raters, one who marked nothing on a slice makes no plane of it.
    """
    raters, depth = 1 if maps is None else len(maps), volume.shape[1]
    kept = np.ones((depth, raters), bool)
    if how.planes == "nonzero":
        kept &= (volume != 0).any(axis=(0, 2, 3))[:, None]
    if how.planes == "labelled" and maps is not None:
        marked = (np.isin(maps, how.values) if how.values else maps > 0).any(axis=(2, 3)).T
        if raters > 1:
            kept &= marked
        else:
            where = np.flatnonzero(marked)
            first, end = (where[0], where[-1] + 1) if len(where) else (0, 0)
            kept[:first] = kept[end:] = False
    return np.argwhere(kept)[:, ::-1]


def _clipped(volume: np.ndarray, how: Preparation) -> np.ndarray:
    if how.window is not None:
        return np.clip(volume, *how.window)
    if how.ceiling is not None:
        top = np.percentile(volume, how.ceiling, axis=(1, 2, 3), keepdims=True)
        return np.minimum(volume, top.astype(np.float32))
    return volume


def _standardised(volume: np.ndarray, intensity: str) -> np.ndarray:
    """(C, D, H, W) float32 with mean 0 and deviation 1 of each channel."""
    if intensity == "zscore_plane":
        return volume
    found = np.empty_like(volume)
    for channel, values in enumerate(volume):
        inside = values > 0 if intensity == "zscore_nonzero" else np.ones(values.shape, bool)
        seen = values[inside].astype(np.float64) if inside.any() else values.astype(np.float64)
        scaled = (values - seen.mean()) / max(seen.std(), 1e-6)
        found[channel] = np.where(inside, scaled, 0)
    return found


def fit_label(label: np.ndarray, place: Geometry, size: int, *, floored: bool) -> np.ndarray:
    """A label map (*space) on the network's grid: (S, S), or (D, S, S) for a volume.

    floored: each value's mask is interpolated and what is below 1 cut to 0, which erodes it (an
    evaluation did so by oversight); else the nearest pixel is taken.
    """
    planes = label if label.ndim == 3 else label[None]
    if not floored:
        found = _fitted(planes, place.box, size, label=True)
    else:
        found = np.zeros((len(planes), size, size), np.uint8)
        for value in np.unique(label[label > 0]):
            whole = _fitted((planes == value).astype(np.float32), place.box, size) >= 1 - 1e-6
            found[whole] = value
    return found if label.ndim == 3 else found[0]


def _fitted(planes: np.ndarray, box: Box, size: int, *, label: bool = False) -> np.ndarray:
    """(C, H, W) -> (C, size, size): the box, filled with the darkest value beyond the plane."""
    from PIL import Image

    top, left, height, width = box
    rows, columns = planes.shape[-2:]
    before = max(-top, 0), max(-left, 0)
    after = max(top + height - rows, 0), max(left + width - columns, 0)
    inner = planes[..., max(top, 0) : top + height, max(left, 0) : left + width]
    if any((*before, *after)):
        beyond = 0 if label else planes.min()
        margins = ((0, 0), (before[0], after[0]), (before[1], after[1]))
        inner = np.pad(inner, margins, constant_values=beyond)
    # Pillow's filter averages when it shrinks, as the published pipelines' does.
    method = Image.Resampling.NEAREST if label else Image.Resampling.BILINEAR
    return np.stack(
        [np.asarray(Image.fromarray(plane).resize((size, size), method)) for plane in inner]
    )
