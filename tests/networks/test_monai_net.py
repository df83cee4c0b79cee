"""MONAI's networks as segmenters."""

import functools
import sys

import pytest
import torch

from sfdabench.checks import contracts, networks
from sfdabench.core.errors import BadInput
from sfdabench.models.segmenter import Segmenter
from sfdabench.networks.monai_net import MonaiNet
from sfdabench.primitives.fine_tuning import encoder_and_heads

OTHERS = ["UNet", "DynUNet", "SegResNet", "AttentionUnet"]  # BasicUNet is the entry's default
WITH = {"batch_norm", "penultimate"}


@pytest.mark.parametrize("name", OTHERS)
def test_every_network_holds_the_contracts(name):
    entry = functools.partial(MonaiNet, name=name, width=8)
    for contract in contracts("networks").values():
        assert not [*contract(entry)]


@pytest.mark.parametrize(
    ("fields", "features"),
    [
        ({}, WITH),
        ({"name": "UNet"}, {"batch_norm"}),
        ({"name": "UNet", "norm": "instance"}, set()),
        ({"name": "UNet", "dropout": 0.2}, {"batch_norm", "dropout"}),
        *(({"name": name}, WITH) for name in OTHERS[1:]),
        ({"name": "SegResNet", "norm": "group", "dropout": 0.1}, {"dropout", "penultimate"}),
        ({"name": "DynUNet", "norm": "instance"}, {"penultimate"}),
    ],
)
def test_features_are_those_of_the_network_that_is_built(fields, features):
    entry = MonaiNet(**fields, width=8)
    assert entry.features == features
    assert not [*networks.check_features_are_what_it_declares(lambda: entry)]


def test_its_last_layer_is_the_head_that_methods_train_faster():
    model = Segmenter(MonaiNet(name="SegResNet", width=8, depth=2).build(channels=1, outputs=3))
    _, heads = encoder_and_heads(model)
    assert [p.shape for p in heads] == [(3, 8, 1, 1), (3,)]


def test_logits_are_those_of_monai_with_the_same_weights():
    from monai.networks.nets import BasicUNet

    theirs = BasicUNet(2, 3, 2, features=(8, 16, 32, 64, 128, 8), norm="batch").eval()
    ours = MonaiNet(name="BasicUNet", width=8).build(channels=3, outputs=2).eval()
    for mine, its in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True):
        mine.copy_(its)
    images = torch.rand(2, 3, 32, 48)
    with torch.no_grad():
        assert torch.equal(ours(images), theirs(images))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "BasicUNet", "depth": 3}, "depth=3: BasicUNet has 4"),
        ({"name": "AttentionUnet", "norm": "group"}, "norm=group: AttentionUnet has batch norm"),
        (
            {"name": "UNet", "norm": "group", "width": 12},
            "width=12: .* multiple of 8",
        ),
    ],
)
def test_values_that_a_network_does_not_have_are_refused(fields, message):
    with pytest.raises(BadInput, match=message):
        MonaiNet(**fields)


def test_without_monai_the_message_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "monai", None)
    monkeypatch.setitem(sys.modules, "monai.networks.nets", None)
    with pytest.raises(BadInput, match="pip install monai"):
        MonaiNet(width=8).build(channels=1, outputs=1)
