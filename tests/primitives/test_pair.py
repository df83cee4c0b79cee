"""Self-ensembling's joint view: one geometry for image and map, an offset of the image only."""

import numpy as np
import pytest
import torch

from sfdabench.core.seeding import generator
from sfdabench.primitives import views


def rngs(count):
    return [generator("pair", sample) for sample in range(count)]


def photographs(count, size=40):
    return 255 * torch.rand(count, 2, size, size, generator=torch.Generator().manual_seed(0))


def displaced(monkeypatch, count, size, *, elastic=True):
    """Where each pixel is looked up, in pixels, (B, 2, H, W): x and y."""
    if not elastic:
        monkeypatch.setattr(views, "FINE_RMS", 0.0)
    y, x = torch.meshgrid(torch.arange(float(size)), torch.arange(float(size)), indexing="ij")
    where = torch.stack((x, y)).expand(count, 2, size, size)
    _, moved = views.anatomy_pair(torch.zeros(count, 1, size, size), where, rngs(count))
    monkeypatch.undo()
    return moved


def test_a_map_that_is_the_image_goes_where_it_goes(monkeypatch):
    monkeypatch.setattr(views, "OFFSET", 0.0)
    images = photographs(24)
    shown, moved = views.anatomy_pair(images, images, rngs(24))
    assert torch.equal(shown, moved)
    assert (shown - images).abs().flatten(1).mean(dim=1).min() > 1


def test_the_offset_is_of_the_image_only_and_in_its_standard_deviations():
    images = photographs(200, size=16)
    shown, moved = views.anatomy_pair(images, images, rngs(200))
    offset = shown - moved
    shares = offset.mean(dim=(2, 3)) / images.std(dim=(2, 3), correction=0)
    assert offset.std(dim=(2, 3)).max() < 1e-4
    assert torch.allclose(shares[:, 0], shares[:, 1], atol=1e-5)  # one draw for all channels
    assert -0.1 <= shares.min() < -0.09
    assert 0.09 < shares.max() <= 0.1


def test_a_flat_image_gets_no_offset():
    flat = torch.full((4, 1, 8, 8), 70.0)
    shown, _ = views.anatomy_pair(flat, flat, rngs(4))
    assert torch.allclose(shown, flat, atol=1e-3)


def test_rotation_scale_and_shift_are_the_papers(monkeypatch):
    size, count = 64, 200
    moved = displaced(monkeypatch, count, size, elastic=False)[:, :, 12:-12, 12:-12].double()
    y, x = np.mgrid[12 : size - 12, 12 : size - 12] + 0.5 - size / 2
    basis = np.stack((x.ravel(), y.ravel(), np.ones(x.size)), axis=1)
    flat = moved.flatten(2).permute(2, 0, 1).reshape(x.size, -1).numpy() + 0.5 - size / 2
    found, residual, *_ = np.linalg.lstsq(basis, flat, rcond=None)
    assert residual.max() < 1e-4  # it is affine
    (xx, xy, dx), (yx, yy, dy) = found.reshape(3, count, 2).transpose(2, 0, 1)
    angle, zoom = np.rad2deg(np.arctan2(yx, xx)), np.hypot(xx, yx)
    assert np.allclose(xx, yy, atol=1e-4)
    assert np.allclose(xy, -yx, atol=1e-4)
    for values, low, high in (
        (angle, -4.6, 4.6),
        (zoom, 0.98, 1.02),
        (dx / size, -0.03, 0.03),
        (dy / size, -0.03, 0.03),
    ):
        slack = 0.05 * (high - low)
        assert low - 1e-3 < values.min() < low + slack
        assert high - slack < values.max() < high + 1e-3


def test_elastic_is_the_smoothed_noise_of_its_definition_in_three_of_ten(monkeypatch):
    """U(-1, 1) noise a pixel, smoothed by U(3.5, 4) px of 200, times U(28, 30)."""
    from scipy.ndimage import gaussian_filter

    size, count = 200, 60
    shift = displaced(monkeypatch, count, size) - displaced(monkeypatch, count, size, elastic=False)
    inner = shift[:, :, 20:-20, 20:-20]  # where the repeated edge is not in sight
    strength = inner.square().sum(dim=1).mean(dim=(1, 2)).sqrt()
    on = strength > 0.1
    assert strength[~on].max() < 1e-3
    assert abs(on.float().mean() - 0.3) < 4 * (0.3 * 0.7 / count) ** 0.5
    rng = np.random.default_rng(0)
    reference = [
        rng.uniform(28, 30) * gaussian_filter(rng.uniform(-1, 1, (size, size)), rng.uniform(3.5, 4))
        for _ in range(10)
    ]
    expected = 2**0.5 * np.std([field[20:-20, 20:-20] for field in reference])
    assert expected == pytest.approx(1.76, rel=0.05)
    assert strength[on].mean().item() == pytest.approx(expected, rel=0.08)


def test_classes_that_exclude_each_other_still_add_up_to_one():
    maps = torch.randn(12, 4, 30, 30).softmax(dim=1)
    _, moved = views.anatomy_pair(photographs(12, size=30), maps, rngs(12))
    assert torch.allclose(moved.sum(dim=1), torch.ones(12, 30, 30), atol=1e-5)
    assert moved.min() >= 0


def test_inputs_stay_shapes_may_be_odd_and_a_sample_is_blind_to_its_batch():
    images, maps = photographs(6)[..., :29, :23], torch.rand(6, 5, 29, 23)
    before = images.clone(), maps.clone()
    shown, moved = views.anatomy_pair(images, maps, rngs(6))
    assert torch.equal(images, before[0])
    assert torch.equal(maps, before[1])
    assert shown.shape == images.shape
    assert moved.shape == maps.shape
    alone = views.anatomy_pair(images[4:5], maps[4:5], rngs(6)[4:5])
    assert torch.allclose(shown[4:5], alone[0], atol=0.02)
    assert torch.allclose(moved[4:5], alone[1], atol=1e-4)
