"""What published evaluations do to a mask before scoring: BEAL's steps (methods-fundus.md §1).

Each step takes and gives one boolean plane (H, W).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np


def median_five_times(mask: np.ndarray) -> np.ndarray:
    """A 7x7 median, five times over, of a mask with background around it."""
    from scipy.ndimage import uniform_filter

    for _ in range(5):
        # of zeros and ones, the median is 1 where the mean is above one half
        mask = uniform_filter(mask.astype(np.float64), 7, mode="constant") > 0.5
    return mask


def erode_diamond(mask: np.ndarray) -> np.ndarray:
    """Erosion by a diamond of radius 7."""
    from scipy.ndimage import binary_erosion, generate_binary_structure, iterate_structure

    diamond = iterate_structure(generate_binary_structure(2, 1), 7)
    return binary_erosion(mask, diamond, border_value=1)


def largest_component(mask: np.ndarray) -> np.ndarray:
    """The largest of the components, whose pixels may touch at corners; of equals the first."""
    from scipy.ndimage import label

    parts, count = label(mask, np.ones((3, 3), int))
    if count < 2:
        return mask
    return parts == 1 + np.bincount(parts.ravel())[1:].argmax()


def fill_holes(mask: np.ndarray) -> np.ndarray:
    """Background that does not reach the border becomes foreground."""
    from scipy.ndimage import binary_fill_holes

    return binary_fill_holes(mask)


STEPS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "median_five_times": median_five_times,
    "erode_diamond": erode_diamond,
    "largest_component": largest_component,
    "fill_holes": fill_holes,
}
