"""The square around the optic disc: from a mask for source frames, from the image for targets."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from sfdabench.core.errors import DataFault

GRID = 96  # rows, about, of the copy that is searched
DISC = 0.17  # diameter of a disc as a share of the frame's height: REFUGE 0.17, RIM-ONE r3 0.26


def crop_box(
    height: int, width: int, centre: tuple[float, float], side: int
) -> tuple[int, int, int]:
    """(top, left, side) of the square around `centre` (row, column), moved inside the frame.

    Raises DataFault where the square is larger than the frame.
    """
    if not 0 < side <= min(height, width):
        raise DataFault(
            f"a disc crop of {side} px does not fit a frame of {height}x{width} px (height x "
            "width): give the authors' full frames, or crops in the ROI layout"
        )
    top, left = (
        min(max(round(middle - side / 2), 0), length - side)
        for middle, length in zip(centre, (height, width), strict=True)
    )
    return top, left, side


def centre_from_label(label: np.ndarray) -> tuple[float, float]:
    """Centroid (row, column) of the disc (rim and cup) in a label map (H, W)."""
    rows, columns = np.nonzero(label)
    if not len(rows):
        raise DataFault("the mask holds no disc, so the frame cannot be cropped around it")
    return float(rows.mean()), float(columns.mean())


def locate_disc(image: np.ndarray) -> tuple[float, float]:
    """Centre (row, column) of the optic disc in a full RGB frame (3, H, W), 0..255; no label.

    A disc is the place that is brighter and yellower than its ring at the scale of a disc (spots
    of exudate are smaller, and uneven light changes no hue), and that dark vessels run through
    from top to bottom. The centroid of the bright region there is its centre.
    """
    step = -(-image.shape[1] // GRID)
    rows, columns = (length // step * step for length in image.shape[1:])
    blocks = image[:2, :rows, :columns].reshape(2, rows // step, step, columns // step, step)
    red, green = np.asarray(blocks.mean((2, 4)), np.float32)
    height, width = red.shape
    reach = DISC * height
    seen = red > 0.15 * np.percentile(red, 95)
    seen = ndimage.binary_erosion(seen, iterations=max(1, height // 40))
    light = (0.5 * red + green) * green / np.maximum(red, 1)
    even = light / np.maximum(_masked_blur(light, seen, 2 * reach), 1e-3)

    disc = np.zeros_like(even)
    for radius in (0.4 * reach, 0.6 * reach, 0.8 * reach):
        contrast = _masked_blur(even, seen, 0.6 * radius) - _masked_blur(even, seen, 1.6 * radius)
        disc = np.maximum(disc, contrast)
    narrow, wide = (ndimage.gaussian_filter1d(green, sigma, axis=1) for sigma in (0.8, 4))
    vessels = np.clip((wide - narrow) / np.maximum(wide, 1), 0, 0.3) * seen
    crowd = ndimage.gaussian_filter(vessels, (0.9 * reach, 0.35 * reach))
    score = np.where(seen, disc * (0.4 + crowd / max(crowd.max(), 1e-6)), -1)

    row, column = np.unravel_index(score.argmax(), score.shape)
    y, x = np.ogrid[:height, :width]
    near = seen & ((y - row) ** 2 + (x - column) ** 2 < reach**2)
    centre = float(row), float(column)
    if near.any():
        smooth = ndimage.gaussian_filter(even, 1)
        middle = (smooth[near].min() + smooth[near].max()) / 2
        weight = np.where(near, np.maximum(smooth - middle, 0), 0)
        if weight.any():
            total = weight.sum()
            centre = float((weight * y).sum() / total), float((weight * x).sum() / total)
    return (centre[0] + 0.5) * step, (centre[1] + 0.5) * step


def _masked_blur(values: np.ndarray, mask: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian mean over the pixels of `mask` only, so that the black border does not count."""
    weight = ndimage.gaussian_filter(mask.astype(np.float32), sigma, mode="constant", truncate=3)
    total = ndimage.gaussian_filter(values * mask, sigma, mode="constant", truncate=3)
    return total / np.maximum(weight, 1e-3)
