from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from sfdabench.core import registry
from sfdabench.core.head import SOFTMAX
from sfdabench.core.streams import Clock, Stream
from sfdabench.evaluate.predict import evaluating, predict
from sfdabench.evaluate.sealed import MaskSpec
from sfdabench.prepare.arrays import Prepared, PreparedCase
from sfdabench.prepare.planes import Geometry

TASK = registry.load("tasks", "refuge2drishti")
ONE = replace(TASK, classes={"cup": (2,)})
TWO = replace(TASK, classes={"a": (1,), "b": (2,)}, head=SOFTMAX)
PROTOCOLS = {name: registry.load("protocols", name) for name in ("strict", "cbmt")}


class Bright(nn.Module):
    """Logits that say: foreground where the first channel is bright."""

    def forward(self, images):
        return images[:, :1] * 20


def split(shape=(16, 16), box=(0, 0, 16, 16), planes=(1, 1)):
    place = Geometry(shape, box)
    cases = [
        PreparedCase(
            *("ab"[i], count, 16, place, None),
            packed=0,
            first_pixel=256 * sum(planes[:i]),
            first_byte=0,
        )
        for i, count in enumerate(planes)
    ]
    return Prepared(Path(), None, tuple(cases), "uint8", (3, 16, 16))


def masks_of(model, split, task, protocols=PROTOCOLS):
    return list(predict(model, stream(), split, MaskSpec.of(task, protocols)))


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
    one, other = masks_of(Bright(), split((64, 80), (10, 20, 32, 32)), ONE)
    assert one["cbmt"].shape == (1, 16, 16)
    assert one["cbmt"].sum() == 16
    strict = one["strict"][0]
    assert strict.shape == (64, 80)
    rows, columns = np.where(strict)
    assert (rows.min(), rows.max()) == (18, 25)  # 10 + 4 * 2 .. 10 + 8 * 2 - 1
    assert (columns.min(), columns.max()) == (28, 35)
    assert not other["strict"].any()


def test_a_box_may_reach_beyond_the_frame():
    (one, _) = masks_of(Bright(), split((12, 20), (-2, 2, 16, 16)), ONE)
    rows, columns = np.where(one["strict"][0])
    assert one["strict"].shape == (1, 12, 20)
    assert (rows.min(), rows.max()) == (2, 5)
    assert (columns.min(), columns.max()) == (6, 9)


def test_planes_become_volumes():
    (volume,) = masks_of(Bright(), split((2, 16, 16), planes=(2,)), ONE)
    assert volume["strict"].shape == (1, 2, 16, 16)
    assert volume["strict"].sum(axis=(0, 2, 3)).tolist() == [16, 0]


def test_regions_are_unions_of_classes():
    class Two(nn.Module):
        def forward(self, images):
            bright = images[:, :1] * 20
            return torch.cat([bright, -bright], dim=1)

    task = replace(TASK, regions={"all": ("cup", "disc"), "disc": ("disc",)})
    one, _ = masks_of(Two(), split(), task)
    assert one["strict"].sum(axis=(1, 2)).tolist() == [256, 240]


def test_train_mode_is_repeatable_and_leaves_the_model_alone():
    model = nn.Sequential(nn.Conv2d(3, 1, 1), nn.BatchNorm2d(1), nn.Dropout(0.5)).eval()
    before = model[1].running_mean.clone(), torch.get_rng_state()
    lively = {"dpl": replace(PROTOCOLS["cbmt"], mode="train", threshold=0.5)}
    one, two = (masks_of(model, split(), ONE, lively) for _ in range(2))
    assert all((a["dpl"] == b["dpl"]).all() for a, b in zip(one, two, strict=True))
    assert torch.equal(model[1].running_mean, before[0])
    assert torch.equal(torch.get_rng_state(), before[1])
    assert not model.training


def test_softmax_channel_zero_is_background():
    class Three(nn.Module):
        def forward(self, images):
            bright = images[:, :1]
            return torch.cat([-bright, bright, torch.full_like(bright, -5)], dim=1)

    one, _ = masks_of(Three(), split(), TWO)
    assert one["cbmt"].shape == (2, 16, 16)
    assert one["cbmt"][0].sum() == 16
    assert not one["cbmt"][1].any()


def test_prediction_leaves_modes_clock_and_randomness_alone():
    model = nn.Sequential(nn.Conv2d(3, 1, 1), nn.BatchNorm2d(1), nn.Dropout(0.5)).train()
    model[1].eval()
    before = model[1].running_mean.clone(), torch.get_rng_state()
    test = stream()
    test.clock.start(0, 3)
    list(predict(model, test, split(), MaskSpec.of(ONE, PROTOCOLS)))
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
