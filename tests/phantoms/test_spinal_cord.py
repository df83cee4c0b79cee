import numpy as np
import pytest
from scipy.ndimage import binary_dilation

from sfdabench.phantoms import spinal_cord
from sfdabench.phantoms.spinal_cord import GREY, SITES, WHITE

each = pytest.mark.parametrize("site", SITES.values(), ids=lambda site: site.name)


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


@each
def test_a_subject(site):
    image, masks = spinal_cord.subject(site, 0, 1)
    assert image.shape == site.shape
    assert image.dtype == np.float32
    assert image.min() >= 0
    assert masks.shape == (4, *site.shape)
    assert masks.dtype == np.uint8
    assert all(set(np.unique(mask)) == {0, GREY, WHITE} for mask in masks)


@each
def test_the_geometry_is_that_of_the_challenge(site):
    depth, *plane = site.shape
    assert 3 <= depth <= 20
    assert 2.5 <= site.spacing[0] <= 7.5
    assert all(0.25 <= step <= 0.5 for step in site.spacing[1:])
    assert all(n * step >= 55 for n, step in zip(plane, site.spacing[1:], strict=True))
    steps = np.abs(site.affine[:3, :3]).sum(0)
    assert sorted(steps) == sorted(site.spacing)


@each
def test_grey_matter_lies_inside_the_cord_and_outshines_it(site):
    for i in range(4):
        image, masks = spinal_cord.subject(site, 1, i)
        mask = masks[0]
        grey, white, rest = image[mask == GREY], image[mask == WHITE], image[mask == 0]
        assert grey.mean() > 1.03 * white.mean()
        assert 0.1 < len(grey) / (len(grey) + len(white)) < 0.45
        assert np.percentile(rest, 99) > grey.mean()
        rows = np.argwhere(mask > 0)[:, 1:] - (np.array(site.shape[1:]) - 1) / 2
        reach = np.abs(rows * site.spacing[1:]).max(0)
        assert (reach < 20).all()


@each
def test_raters_disagree_along_the_border(site):
    _, masks = spinal_cord.subject(site, 2, 0)
    cores = masks == GREY
    for i in range(4):
        for j in range(i):
            assert 0.6 < dice(cores[i], cores[j]) < 0.99
            assert 0.88 < dice(masks[i] > 0, masks[j] > 0) < 1


def test_the_fourth_rater_is_biased():
    sizes = np.zeros(4)
    for site in (SITES[1], SITES[2]):
        for i in range(8):
            masks = spinal_cord.subject(site, 3, i)[1]
            sizes += (masks == GREY).sum((1, 2, 3)) / (masks == GREY).sum()
    assert sizes[3] > 1.2 * sizes[:3].max()


def test_raters_do_not_change_the_image():
    first, masks = spinal_cord.subject(SITES[1], 4, 0, raters=0)
    assert masks.shape == (0, *SITES[1].shape)
    assert np.array_equal(first, spinal_cord.subject(SITES[1], 4, 0)[0])


def test_the_key_decides():
    first, again, other = (spinal_cord.subject(SITES[3], 5, i) for i in (0, 0, 1))
    assert np.array_equal(first[0], again[0])
    assert np.array_equal(first[1], again[1])
    assert not np.array_equal(first[0], other[0])


def fluid_over_grey(site):
    """Signal of the ring around the cord, relative to grey matter."""
    seen = []
    step = round(1 / site.spacing[1])
    for i in range(4):
        image, masks = spinal_cord.subject(site, 6, i)
        inner, outer = (
            binary_dilation(masks[0] > 0, np.ones((1, 3, 3)), iterations=n * step) for n in (1, 2)
        )
        seen.append(np.median(image[outer & ~inner]) / np.median(image[masks[0] == GREY]))
    return np.mean(seen)


def test_fluid_outshines_grey_matter_at_the_first_two_sites_only():
    ratio = {number: fluid_over_grey(site) for number, site in SITES.items()}
    assert min(ratio[1], ratio[2]) > 1.1 > ratio[3] > ratio[4]
    assert ratio[4] < 1
