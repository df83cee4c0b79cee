"""TENT online: predictions come before the update, and each batch is predicted once."""

import copy

import pytest
import torch
from torch import nn

from sfdabench.checks.toy import Killed, Toy, attempt
from sfdabench.methods.tent_online import TentOnline
from sfdabench.models.segmenter import OnlineSegmenter, Segmenter
from sfdabench.networks.unet_small import UNetSmall
from sfdabench.primitives.batch_norm import batch_statistics, select_trainable
from sfdabench.primitives.entropy import tent_step


def online(model):
    optimiser = torch.optim.Adam(select_trainable(model, "affine"), 1e-2)

    def learn(images):
        return tent_step(model, optimiser, images, "sigmoid", lambda **losses: None)

    return OnlineSegmenter(model, learn, batch_size=2)


def test_it_predicts_then_learns():
    torch.manual_seed(0)
    model = Segmenter(UNetSmall(width=4, depth=1).build(channels=3, outputs=2)).eval()
    before = copy.deepcopy(model)
    images = torch.randn(4, 3, 16, 16)
    deployed = online(model)
    with torch.inference_mode():
        first = deployed(images[:2])
        second = deployed(images[:2])
    with torch.no_grad(), batch_statistics(before):
        assert torch.equal(first, before(images[:2]))
    assert not torch.equal(first, second)
    assert not first.requires_grad


def test_only_scale_and_shift_move():
    torch.manual_seed(0)
    model = Segmenter(UNetSmall(width=4, depth=1).build(channels=3, outputs=2)).eval()
    before = copy.deepcopy(model.state_dict())
    with torch.inference_mode():
        online(model)(torch.randn(2, 3, 16, 16))
    moved = {name for name, value in model.state_dict().items() if not value.equal(before[name])}
    norms = {n for n, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert moved
    assert moved <= {f"{norm}.{part}" for norm in norms for part in ("weight", "bias")}


def test_the_contract_on_kills_does_kill_it(tmp_path):
    for batch in range(3):
        with pytest.raises(Killed):
            attempt(TentOnline(batch_size=4), Toy(count=9), tmp_path, kill_after=batch)
    attempt(TentOnline(batch_size=4), Toy(count=9), tmp_path, kill_after=3)
