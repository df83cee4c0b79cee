"""BEAL's clean-up of masks: by hand, and on shapes whose score is known."""

import numpy as np
import pytest

from sfdabench.core import registry
from sfdabench.evaluate.postprocess import STEPS, largest_component, median_five_times
from sfdabench.evaluate.score import score_pair

BEAL = registry.load("protocols", "beal")


def circle(radius, side=400):
    y, x = np.mgrid[:side, :side] - side // 2
    return y**2 + x**2 < radius**2


@pytest.mark.parametrize("dataset", ["rimone_r3", "refuge", "drishti"])
@pytest.mark.parametrize(("radius", "expected"), [(95, 93.1), (50, 86.2)])
def test_a_perfect_mask_loses_what_the_erosion_takes(dataset, radius, expected):
    protocol, mask = BEAL.on(dataset), circle(radius)
    cleaned = mask
    for step in protocol.postprocess:
        cleaned = STEPS[step](cleaned)
    dice, _ = score_pair(cleaned, mask, protocol)["dice"]
    assert 100 * dice == pytest.approx(expected, abs=0.05)


def test_thresholds_of_drishti_alone_differ():
    assert BEAL.on("drishti").threshold_of("cup") == 0.1
    assert BEAL.on("rimone_r3").threshold_of("cup") == 0.75


def test_the_median_has_background_around_the_mask():
    """Scipy's own filter with zeros beyond the frame; a mask at the border is worn off there."""
    from scipy.ndimage import median_filter

    mask = np.random.default_rng(0).random((30, 30)) > 0.4
    expected = mask.astype(np.uint8)
    for _ in range(5):
        expected = median_filter(expected, 7, mode="constant", cval=0)
    assert (median_five_times(mask) == expected.astype(bool)).all()
    assert not median_five_times(np.ones((30, 30), bool))[0, 0]


def test_components_touch_at_corners():
    mask = np.zeros((6, 6), bool)
    mask[0, 0] = mask[1, 1] = mask[2, 2] = True
    mask[5, 4:6] = True
    assert largest_component(mask).sum() == 3
