import numpy as np
import torch
from torch import nn

from sfdabench.core import registry
from sfdabench.core.context import Clock, Stream
from sfdabench.evaluate.predict import evaluating, predict, seal, unseal
from sfdabench.prepare.arrays import Geometry

PROTOCOLS = {name: registry.load("protocols", name) for name in ("strict", "cbmt")}


class Bright(nn.Module):
    """Logits that say: foreground where the first channel is bright."""

    def forward(self, images):
        return images[:, :1] * 20


def stream(size=16):
    images = np.zeros((2, 3, size, size), np.uint8)
    images[0, :, 4:8, 4:8] = 255
    return Stream(
        name="test",
        images=images,
        ids=("a", "b"),
        device=torch.device("cpu"),
        seed=0,
        clock=Clock(),
    )


def test_masks_go_back_to_the_authors_grid():
    places = [Geometry((64, 80), (10, 20, 32))] * 2
    masks = predict(Bright(), stream(), places, "sigmoid", PROTOCOLS)
    assert masks["cbmt"][0].shape == (1, 16, 16)
    assert masks["cbmt"][0].sum() == 16
    strict = masks["strict"][0][0]
    assert strict.shape == (64, 80)
    rows, columns = np.where(strict)
    assert (rows.min(), rows.max()) == (18, 25)  # 10 + 4 * 2 .. 10 + 8 * 2 - 1
    assert (columns.min(), columns.max()) == (28, 35)
    assert not masks["strict"][1].any()


def test_softmax_channel_zero_is_background():
    class Three(nn.Module):
        def forward(self, images):
            bright = images[:, :1]
            return torch.cat([-bright, bright, torch.full_like(bright, -5)], dim=1)

    masks = predict(Three(), stream(), [Geometry((16, 16), (0, 0, 16))] * 2, "softmax", PROTOCOLS)
    assert masks["cbmt"][0].shape == (2, 16, 16)
    assert masks["cbmt"][0][0].sum() == 16
    assert not masks["cbmt"][0][1].any()


def test_prediction_leaves_modes_clock_and_randomness_alone():
    model = nn.Sequential(nn.Conv2d(3, 1, 1), nn.BatchNorm2d(1), nn.Dropout(0.5)).train()
    model[1].eval()
    before = model[1].running_mean.clone(), torch.get_rng_state()
    test = stream()
    test.clock.start(0, 3)
    predict(model, test, [Geometry((16, 16), (0, 0, 16))] * 2, "sigmoid", PROTOCOLS)
    assert [m.training for m in model] == [True, False, True]
    assert torch.equal(model[1].running_mean, before[0])
    assert torch.equal(torch.get_rng_state(), before[1])
    assert test.clock.epoch == 3
    assert test.clock.passes == 0


def test_modes_come_back_after_an_error():
    model = nn.Dropout(0.5).train()
    try:
        with evaluating(model):
            raise KeyError
    except KeyError:
        pass
    assert model.training


def test_sealed_masks_come_back(tmp_path):
    rng = np.random.default_rng(0)
    masks = {"strict": [rng.random((2, 9, 13)) > 0.5, rng.random((2, 5, 7)) > 0.5]}
    seal(tmp_path / "e.npz", masks)
    back = unseal(tmp_path / "e.npz")
    assert all((a == b).all() for a, b in zip(masks["strict"], back["strict"], strict=True))
