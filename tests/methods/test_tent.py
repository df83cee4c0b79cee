import copy

import pytest
import torch

from sfdabench.checks.toy import Toy, attempt, draw
from sfdabench.core.checkpoint import read
from sfdabench.methods.tent import Tent
from sfdabench.primitives.batch_norm import batch_norm_layers, batch_statistics, reestimate
from sfdabench.primitives.entropy import mean_entropy


def target(head="sigmoid"):
    images, _ = draw(Toy(head=head), "target", 9, foreground=True)
    return torch.from_numpy(images).float() / 127.5 - 1


def curves(folder):
    return read(folder / "stage-0.safetensors")["curves"]


def test_only_scale_and_shift_of_batch_norm_move(tmp_path):
    done = attempt(Tent(epochs=2, batch_size=4), Toy(), tmp_path)
    mine = {id(p) for layer in batch_norm_layers(done.deployed) for p in layer.parameters()}
    start = dict(done.start.named_parameters())
    for name, parameter in done.deployed.named_parameters():
        assert torch.equal(parameter, start[name]) == (id(parameter) not in mine), name


def test_statistics_are_reestimated_after_the_last_step(tmp_path):
    done = attempt(Tent(batch_size=9), Toy(), tmp_path)
    expected = copy.deepcopy(done.deployed)
    reestimate(expected, [target()])
    for mine, theirs in zip(
        batch_norm_layers(done.deployed), batch_norm_layers(expected), strict=True
    ):
        assert torch.allclose(mine.running_mean, theirs.running_mean, atol=1e-5)
        assert torch.allclose(mine.running_var, theirs.running_var, rtol=1e-4)


@pytest.mark.parametrize("head", ["sigmoid", "softmax"])
def test_loss_is_the_entropy_under_batch_statistics(tmp_path, head):
    done = attempt(Tent(batch_size=9), Toy(head=head), tmp_path)
    start = copy.deepcopy(done.start)
    with torch.no_grad(), batch_statistics(start):
        expected = mean_entropy(start(target(head)), head)
    assert curves(tmp_path)["loss"] == pytest.approx([expected.item()], rel=1e-4)


@pytest.mark.parametrize("head", ["sigmoid", "softmax"])
def test_entropy_falls(tmp_path, head):
    attempt(Tent(epochs=6, batch_size=4, learning_rate=1e-2), Toy(head=head), tmp_path)
    loss = curves(tmp_path)["loss"]
    assert loss[-1] < 0.97 * loss[0]
