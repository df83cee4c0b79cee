import math

import pytest
import torch
from torch import nn

from sfdabench.checks.toy import Toy, attempt
from sfdabench.core.checkpoint import read
from sfdabench.core.head import SIGMOID, SOFTMAX
from sfdabench.methods.entropy_minimisation import EntropyMinimisation

QUICK = {"epochs": 2, "batch_size": 9, "learning_rate": 1e-3}


def curves(folder):
    return read(folder / "stage-0.safetensors")["curves"]


def moved(done):
    before = dict(done.start.named_parameters())
    return {n for n, p in done.deployed.named_parameters() if not torch.equal(p, before[n])}


@pytest.mark.parametrize(("head", "outcomes"), [(SIGMOID, 2), (SOFTMAX, 4)], ids=str)
def test_normalised_is_a_share_of_the_largest_entropy(tmp_path, head, outcomes):
    """Three classes: four channels of a softmax, three questions of two answers of a sigmoid."""
    losses = {}
    for normalised in (True, False):
        folder = tmp_path / str(normalised)
        method = EntropyMinimisation(**QUICK, normalised=normalised)
        attempt(method, Toy(head=head, classes=3), folder)
        losses[normalised] = curves(folder)["loss"][0]
    assert losses[True] == pytest.approx(losses[False] / math.log(outcomes))
    assert 0 < losses[True] < 1


def test_all_weights_train_and_entropy_falls(tmp_path):
    method = EntropyMinimisation(epochs=6, batch_size=4, learning_rate=3e-3)
    done = attempt(method, Toy(), tmp_path)
    assert moved(done) == {name for name, _ in done.deployed.named_parameters()}
    loss = curves(tmp_path)["loss"]
    assert loss[-1] < 0.97 * loss[0]


def test_affine_leaves_convolutions_alone(tmp_path):
    done = attempt(EntropyMinimisation(**QUICK, trainable="affine"), Toy(), tmp_path)
    convolutions = {
        f"{name}.{part}"
        for name, module in done.deployed.named_modules()
        if isinstance(module, nn.Conv2d)
        for part in ("weight", "bias")
    }
    assert moved(done)
    assert not moved(done) & convolutions


def test_plain_entropy_loses_what_is_rare_and_balance_keeps_it(tmp_path):
    """The trap of methods-cross-modality.md §5.2.8."""
    shares = {}
    for balanced in (False, True):
        folder = tmp_path / str(balanced)
        quick = {"epochs": 8, "batch_size": 4, "learning_rate": 3e-3}
        attempt(EntropyMinimisation(**quick, balanced=balanced), Toy(), folder)
        shares[balanced] = curves(folder)["foreground"]
    assert shares[True][-1] > 1.1 * shares[False][-1], shares
