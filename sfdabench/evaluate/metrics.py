"""Overlap and surface-distance metrics of one pair of masks, exact and fast.

Every definition bears a name of its own, because libraries disagree under the same name (see
`Comparison`). A value that the two masks do not define is NaN here: what such a case counts as is
the protocol's rule, not this module's.

The surface of a mask is its voxels with at least one background voxel among their face
neighbours, voxels outside the image being background, as in MedPy and MONAI. The speed comes from
working inside the box that holds both masks, from finding each surface once, and from three exact
nearest-neighbour searches, each used where it is the fastest: `_all_pairs`, `_walk` and a k-d tree.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Distances = NDArray[np.float64]

ALL_PAIRS_LIMIT = 2**20  # pairs of surface voxels; beyond, searching beats comparing all
PRODUCT_LIMIT = 2**18  # multiplications; beyond, OpenBLAS starts threads, slower on busy cores
WALK_MINIMUM = 4096  # surface voxels; below, a k-d tree costs less than the walk's distance map
WALK_REACH = 24  # voxels of the finest axis; a predicted surface is seldom farther off


@dataclass(frozen=True)
class Comparison:
    """Metrics of one prediction against one reference; NaN where undefined.

    Overlap metrics are fractions; distances are in the unit of `spacing`. The directed distances
    are those of each surface voxel of one mask to the nearest surface voxel of the other.
    """

    dice: float  # 2 TP / (2 TP + FP + FN)
    iou: float  # TP / (TP + FP + FN), the Jaccard index
    precision: float  # TP / (TP + FP)
    recall: float  # TP / (TP + FN), the sensitivity
    specificity: float  # TN / (TN + FP), over the whole image
    hd: float  # maximum of all directed distances: MedPy `hd`, MONAI
    hd95: float  # larger of the two directed 95th percentiles: MONAI, surface-distance
    hd95_pooled: float  # 95th percentile of both directions together: MedPy `hd95`
    assd: float  # mean of both directions together: MedPy 0.5 `assd`, MONAI
    assd_mean: float  # mean of the two directed means: MedPy 0.4 `assd`

    @property
    def undefined(self) -> frozenset[str]:
        """Names of the metrics that this pair of masks leaves undefined."""
        return frozenset(f.name for f in fields(self) if math.isnan(getattr(self, f.name)))


def compare(
    prediction: Mask,
    reference: Mask,
    *,
    spacing: Sequence[float] | None = None,
    distances: bool = True,
) -> Comparison:
    """Compare two boolean masks of one shape, (H, W) or (D, H, W), by every metric.

    `spacing` is the voxel size along each array axis, in any one unit; None means 1 per axis.
    Without `distances` only overlap is computed, and the distances are NaN.
    Raises TypeError for anything but boolean arrays, ValueError for shapes or a spacing that do
    not fit.
    """
    _check_masks(prediction, reference)
    steps = _checked_spacing(spacing, prediction.ndim)
    framed = _crop(prediction, reference)

    hits = int(np.count_nonzero(framed[0] & framed[1]))
    predicted, actual = int(np.count_nonzero(framed[0])), int(np.count_nonzero(framed[1]))
    either = predicted + actual - hits
    overlap = (
        _ratio(2 * hits, predicted + actual),
        _ratio(hits, either),
        _ratio(hits, predicted),
        _ratio(hits, actual),
        _ratio(reference.size - either, reference.size - actual),
    )
    if not predicted or not actual or not distances:
        return Comparison(*overlap, *[math.nan] * 5)

    pooled, split = _directed_distances(_surfaces(framed), steps)
    there, back = pooled[:split], pooled[split:]
    there.sort()
    back.sort()
    pooled = np.sort(pooled)
    total_there, total_back = float(np.add.reduce(there)), float(np.add.reduce(back))
    return Comparison(
        *overlap,
        hd=float(pooled[-1]),
        hd95=max(_percentile_95(there), _percentile_95(back)),
        hd95_pooled=_percentile_95(pooled),
        assd=(total_there + total_back) / pooled.size,
        assd_mean=(total_there / there.size + total_back / back.size) / 2,
    )


def _check_masks(prediction: Mask, reference: Mask) -> None:
    for name, mask in (("prediction", prediction), ("reference", reference)):
        if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_:
            given = getattr(mask, "dtype", type(mask).__name__)
            raise TypeError(
                f"{name} must be a boolean NumPy array, not {given}: pass `labels == k` or "
                "`probability > threshold`"
            )
        if mask.ndim not in (2, 3):
            raise ValueError(
                f"{name} must have 2 or 3 axes, not shape {mask.shape}: pass one image or volume "
                "of one class, without batch and channel axes"
            )
    if prediction.shape != reference.shape:
        raise ValueError(
            f"prediction {prediction.shape} and reference {reference.shape} differ in shape: "
            "resample the prediction to the reference first"
        )


def _checked_spacing(spacing: Sequence[float] | None, axes: int) -> tuple[float, ...]:
    if spacing is None:
        return (1.0,) * axes
    steps = tuple(float(step) for step in spacing)
    if len(steps) != axes or not all(0 < step < math.inf for step in steps):
        raise ValueError(
            f"spacing must be {axes} positive lengths, one per array axis, not {spacing!r}: "
            "pass None for 1 per axis"
        )
    return steps


def _ratio(numerator: int, denominator: int) -> float:
    return numerator / denominator if denominator else math.nan


def _crop(prediction: Mask, reference: Mask) -> Mask:
    """Both masks (2, *box) in the box that holds them, framed by one voxel of background."""
    box = []
    shadow: Mask = prediction | reference
    for _ in range(shadow.ndim):
        occupied = np.logical_or.reduce(shadow, axis=tuple(range(1, shadow.ndim))).nonzero()[0]
        extent = slice(occupied[0], occupied[-1] + 1) if occupied.size else slice(0, 0)
        box.append(extent)
        shadow = np.logical_or.reduce(shadow[extent], axis=0)
    framed = np.zeros((2, *[extent.stop - extent.start + 2 for extent in box]), dtype=np.bool_)
    inside = (slice(1, -1),) * len(box)
    framed[0][inside] = prediction[tuple(box)]
    framed[1][inside] = reference[tuple(box)]
    return framed


def _surfaces(framed: Mask) -> Mask:
    """Surface of each framed mask: the mask without its erosion by face neighbours."""
    flat = framed.ravel()
    core = flat.copy()
    for stride in framed.strides[1:]:  # bytes are voxels; the frame keeps shifts from wrapping
        core[stride:] &= flat[:-stride]
        core[:-stride] &= flat[stride:]
    core ^= flat
    return core.reshape(framed.shape)


def _coordinates(mask: Mask) -> NDArray[np.intp]:
    """Voxel coordinates (axes, n) of a mask, in array order."""
    return np.array(np.unravel_index(mask.ravel().nonzero()[0], mask.shape))


def _directed_distances(surfaces: Mask, steps: tuple[float, ...]) -> tuple[Distances, int]:
    """Distances from the first surface's voxels to the second, then back; where they part."""
    voxels = surfaces.ravel().nonzero()[0]
    split = int(voxels.searchsorted(surfaces[0].size))
    if split * (voxels.size - split) <= ALL_PAIRS_LIMIT and len(set(steps)) == 1:
        coordinates = np.unravel_index(voxels, surfaces.shape)[1:]
        return steps[0] * _all_pairs(coordinates, split, surfaces.shape[1:]), split
    there = _search(surfaces[0], surfaces[1], np.array(steps))
    back = _search(surfaces[1], surfaces[0], np.array(steps))
    return np.concatenate((there, back)), split


def _all_pairs(
    coordinates: tuple[NDArray[np.intp], ...], split: int, shape: tuple[int, ...]
) -> Distances:
    """Directed distances in voxels by one matrix product, |a|² + |b|² - 2ab.

    Coordinates are integers, so the product is exact as long as it fits the mantissa.
    """
    axes = len(shape)
    small = 4 * sum(extent**2 for extent in shape) < 2**24
    # Bit patterns of squares order as the squares do, and integers have no NaN to look out for.
    exact, ordered = (np.float32, np.int32) if small else (np.float64, np.int64)
    points = np.ones((axes + 2, coordinates[0].size), dtype=exact)
    points[:axes] = coordinates
    np.add.reduce(np.square(points[:axes]), axis=0, out=points[axes])
    a, b = np.ones((axes + 2, split), dtype=exact), points[:, split:]
    np.multiply(points[:axes, :split], -2, out=a[:axes])
    a[axes + 1] = points[axes, :split]
    rows = max(1, PRODUCT_LIMIT // b.size)
    there, back = [], []
    for start in range(0, split, rows):
        squared = (a[:, start : start + rows].T @ b).view(ordered)
        there.append(np.minimum.reduce(squared, axis=1))
        back.append(np.minimum.reduce(squared, axis=0))
    nearest = np.concatenate((*there, back[0] if len(back) == 1 else np.minimum.reduce(back)))
    return np.sqrt(nearest.view(exact), dtype=np.float64)


def _search(source: Mask, target: Mask, steps: Distances) -> Distances:
    """Distances from each source voxel to the nearest target voxel; voxels of both are at 0."""
    queries = _coordinates(source > target)
    walked = queries.shape[1] > WALK_MINIMUM
    found = _walk(queries, target, steps) if walked else np.full(queries.shape[1], np.inf)
    far = np.isinf(found)
    if far.any():
        from scipy.spatial import cKDTree  # half a second to import, seldom needed

        points = (_coordinates(target) * steps[:, None]).T
        tree = cKDTree(points, leafsize=32, balanced_tree=False, compact_nodes=False)
        threads = 2 if source.ndim == 3 else 1  # starting one costs more than a 2D search
        found[far] = tree.query((queries[:, far] * steps[:, None]).T, workers=threads)[0]
    distances = np.zeros(np.count_nonzero(source))
    distances[: found.size] = found
    return distances


def _walk(queries: NDArray[np.intp], target: Mask, steps: Distances) -> Distances:
    """Distances from queries (axes, n) to the nearest target voxel, infinite beyond reach.

    First the distance of every voxel to the target along the finest axis; then each query walks
    outwards across the other axes, nearest column first, until no column can be nearer.
    """
    axis = int(steps.argmin())
    far = WALK_REACH + 1
    limit = (WALK_REACH * steps[axis]) ** 2
    margin = (WALK_REACH * steps[axis] / steps).astype(int)
    margin[axis] = 0
    shape = [extent + 2 * m for extent, m in zip(target.shape, margin, strict=True)]
    gap = np.full(shape, far, dtype=np.uint8)
    gap[tuple(slice(m, m + n) for n, m in zip(target.shape, margin, strict=True))][target] = 0
    planes = np.moveaxis(gap, axis, 0)
    for order in (planes, planes[::-1]):
        for previous, plane in pairwise(order):
            np.minimum(plane, previous + 1, out=plane)
    squared_gap = (np.arange(far + 1) * steps[axis]) ** 2
    squared_gap[far] = np.inf

    columns = np.indices(2 * margin + 1).reshape(len(steps), -1) - margin[:, None]
    squared_column = ((columns * steps[:, None]) ** 2).sum(0)
    near = squared_column.argsort(kind="stable")
    near = near[squared_column[near] <= limit]
    shifts = np.array(gap.strides) @ columns  # bytes are voxels

    gap = gap.ravel()
    at = np.ravel_multi_index(tuple(queries + margin[:, None]), shape)
    squared = np.full(at.size, np.inf)
    todo, best = np.arange(at.size), squared.copy()
    for visited, column in enumerate(near):
        if visited % 8 == 7:
            squared[todo] = best
            going = best > squared_column[column]
            todo, at, best = todo[going], at[going], best[going]
            if not todo.size:
                break
        candidate = squared_gap.take(gap.take(at + shifts[column]))
        candidate += squared_column[column]
        np.minimum(best, candidate, out=best)
    squared[todo] = best
    squared[squared > limit] = np.inf
    return np.sqrt(squared)


def _percentile_95(ordered: Distances) -> float:
    """95th percentile of sorted values, linear between ranks, as `np.percentile`."""
    rank = 0.95 * (ordered.size - 1)
    low = int(rank)
    high = min(low + 1, ordered.size - 1)
    return float(ordered[low] + (rank - low) * (ordered[high] - ordered[low]))
