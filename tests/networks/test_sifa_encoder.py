"""SIFA's segmenter, layer by layer (methods-compared.md §11)."""

import functools

import pytest
import torch
from torch import nn

from sfdabench.checks import contracts
from sfdabench.models.sifa_encoder import SifaEncoder as Module
from sfdabench.models.sifa_encoder import _Residual
from sfdabench.networks.sifa_encoder import SifaEncoder


@pytest.mark.parametrize("fields", [{"width": 4}, {"width": 2, "dropout": 0.25}])
def test_contracts_hold(fields):
    entry = functools.partial(SifaEncoder, **fields)
    for contract in contracts("networks").values():
        assert not [*contract(entry)]


def test_convolutions_of_the_published_network():
    """One, two in each of 14 residual blocks, two at the end, and the two classifiers."""
    network = Module(1, 5, 16, 0.0)
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == 1 + 2 * 14 + 2 + 2
    widths = [m.out_channels for m in convolutions]
    assert widths[:9] == [16, 16, 16, 32, 32, 64, 64, 64, 64]
    assert widths[-4:] == [512, 512, 5, 5]
    assert [m.dilation for m in convolutions].count((2, 2)) == 4
    assert all(m.bias is None for m in convolutions)
    low, last = network.eval().features(torch.rand(1, 1, 256, 256))
    assert low.shape == last.shape == (1, 512, 32, 32)


def test_a_shortcut_is_padded_on_both_sides():
    block = _Residual(2, 6, 0.0).eval()
    nn.init.zeros_(block.layers[-1][-1].weight)  # so that the shortcut is left
    maps = torch.rand(1, 2, 4, 4)
    shown = block(maps)
    assert torch.equal(shown[:, 2:4], maps)
    assert shown[:, [0, 1, 4, 5]].abs().max() == 0


def test_weights_start_within_two_deviations():
    weights = torch.cat([p.flatten() for n, p in Module(1, 2, 4, 0.0).named_parameters()
                         if p.ndim == 4])  # fmt: skip
    assert weights.abs().max() <= 0.02
    assert 0.008 < weights.std() < 0.0095  # a normal of .01, cut at .02
