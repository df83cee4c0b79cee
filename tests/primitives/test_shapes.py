"""Boundary bands and spoilt maps (methods-compared.md §3 and 7)."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from sfdabench.primitives.shapes import boundary_band, jigsaw, soft_dice


def discs(side=64):
    y, x = np.mgrid[:side, :side]
    middle = np.hypot(y - 30, x - 34)
    touching = np.hypot(y - 2, x - 60)
    return torch.from_numpy(np.stack([middle < 20, touching < 12, middle < 0])[None]).float()


@pytest.mark.parametrize(("reach", "sigma"), [(1, 0.4), (5, 3.0)])
def test_bands_are_scipys_dilation_without_erosion_blurred(reach, sigma):
    masks = discs()
    band = np.zeros((64, 64), bool)
    for mask in masks[0].numpy() > 0:
        grown = ndimage.binary_dilation(mask, iterations=reach)
        band |= grown & ~ndimage.binary_erosion(mask, iterations=reach)
    expected = ndimage.gaussian_filter(band.astype(float), sigma)
    np.testing.assert_allclose(boundary_band(masks, reach, sigma)[0, 0], expected, atol=1e-6)


def test_the_published_band_peaks_at_nine_tenths():
    """10 pixels wide, blurred by 3, along a straight edge."""
    masks = torch.zeros(1, 1, 128, 128)
    masks[..., 64:] = 1
    line = boundary_band(masks, 5, 3.0)[0, 0, 64, :100]  # not the edge of the image
    assert float(line.max()) == pytest.approx(0.90, abs=0.005)
    assert (line > 0.5).sum() == 10


def test_maps_without_a_structure_have_no_boundary():
    assert boundary_band(torch.zeros(1, 2, 16, 16), 2, 1.0).abs().max() == 0
    # nothing lies outside, so a full map ends at the edge of the image
    full = boundary_band(torch.ones(1, 2, 16, 16), 2, 0.4)
    assert full[0, 0, 8, 8] == 0
    assert full[0, 0, 0, 8] > 0.9


def test_squares_come_from_the_same_map_and_move_all_channels_together():
    torch.manual_seed(0)
    masks = torch.arange(2 * 3 * 40 * 30.0).view(2, 3, 40, 30)
    spoilt = jigsaw(masks, 5, 0.05, 0.2)
    moved = (spoilt != masks).any(dim=1)
    assert 0.02 < moved.float().mean() < 0.9
    for image, clean in zip(spoilt, masks, strict=True):
        assert np.isin(image[0].numpy(), clean[0].numpy()).all()
        assert torch.equal(image[1] - image[0], clean[1] - clean[0])
    assert torch.equal(masks, torch.arange(2 * 3 * 40 * 30.0).view(2, 3, 40, 30))


@pytest.mark.parametrize(("share", "pixels"), [(0.0, 4), (0.1, 64), (0.9, 0)])
def test_sides_of_squares(share, pixels):
    """Twice the half-width, at least a pixel of it; at most the image, which changes nothing."""
    torch.manual_seed(0)
    masks = torch.rand(1, 1, 40, 40)
    changed = max(int((jigsaw(masks, 1, share, share) != masks).sum()) for _ in range(20))
    assert changed == pixels


def test_soft_dice_of_each_channel():
    p = torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.0, 0.0]]).view(1, 3, 1, 2)
    q = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 0.0]]).view(1, 3, 1, 2)
    assert soft_dice(p, q)[0].tolist() == pytest.approx([1, 0.5, 1], abs=1e-4)
