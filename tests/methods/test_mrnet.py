"""Rectifying's loss by hand, and where its gradient flows (methods-cross-modality.md §3.3)."""

import copy
import math

import pytest
import torch

from sfdabench.checks.toy import Toy, attempt, draw
from sfdabench.core.checkpoint import read
from sfdabench.core.errors import BadInput
from sfdabench.core.fields import override
from sfdabench.core.head import SOFTMAX
from sfdabench.methods.mrnet import MRNet, rectified
from sfdabench.models.weights import sha256

TOY = Toy(head=SOFTMAX)
QUICK = {"epochs": 2, "batch_size": 4}


def pixel(*values):
    return torch.tensor(values, dtype=torch.float64).view(1, -1, 1, 1)


def test_by_hand():
    mine, other, target = pixel(0.5, 0.5), pixel(0.8, 0.2), pixel(0.0, 1.0)
    divergence = 0.8 * math.log(0.8 / 0.5) + 0.2 * math.log(0.2 / 0.5)
    expected = math.log(2) * math.exp(-divergence) + divergence
    assert rectified(mine.log(), other.log(), target).item() == pytest.approx(expected)


def test_two_heads_that_agree_leave_the_cross_entropy():
    logits = torch.randn(2, 4, 5, 5)
    target = torch.zeros_like(logits)
    target[:, 2] = 1
    expected = torch.nn.functional.cross_entropy(logits, target)
    assert torch.allclose(rectified(logits, logits.clone(), target), expected)


def test_the_gradient_flows_through_the_divergence_into_both_heads():
    """By finite differences: with anything detached the two would differ."""
    torch.manual_seed(0)
    heads = [torch.randn(1, 3, 2, 2, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    target = torch.zeros(1, 3, 2, 2, dtype=torch.float64)
    target[:, 1] = 1
    assert torch.autograd.gradcheck(lambda a, b: rectified(a, b, target), heads)
    for gradient in torch.autograd.grad(rectified(*heads, target), heads):
        assert gradient.abs().min() > 1e-4


def test_the_divergence_discounts_the_label():
    """A wrong label costs a head less where the other one contradicts it."""
    target, sure = pixel(0.0, 1.0), pixel(4.0, -4.0)

    def pull(other):
        logits = sure.clone().requires_grad_()
        rectified(logits, other, target).backward()
        return logits.grad[0, 1].item()

    assert pull(sure.clone()) == pytest.approx(-1, abs=1e-3)
    apart = pixel(-4.0, 4.0)
    loss = rectified(sure, apart, target).item()
    divergence = rectified(sure, apart, torch.zeros_like(target)).item()
    assert divergence > 7
    assert loss - divergence < 1e-2


def test_the_first_step_by_an_oracle(tmp_path):
    """Labels in eval mode from both heads, the sum of both losses in train mode, plain descent."""
    method = MRNet(epochs=1, batch_size=9, scales=(1.0,), learning_rate=0.1)
    done = attempt(method, TOY, tmp_path)
    model, (images, _) = copy.deepcopy(done.start), draw(TOY, "target", 9, foreground=True)
    images = torch.from_numpy(images).float() / 127.5 - 1
    with torch.no_grad():
        main, auxiliary = model.eval().heads(images)
    target = torch.nn.functional.one_hot((main + auxiliary / 2).argmax(dim=1), 3)
    target = target.movedim(3, 1).float()
    main, auxiliary = model.train().heads(images)
    loss = rectified(main, auxiliary, target) + rectified(auxiliary, main, target) / 2
    loss.backward()
    after = done.deployed.weights()
    for name, weight in model.network.named_parameters():
        rate = 1.0 if name.partition(".")[0] in ("classifier", "auxiliary") else 0.1
        gradient = weight.grad + 5e-4 * weight
        expected = -rate * (gradient + 0.9 * gradient)  # Nesterov's look ahead
        moved = after[name] - done.start.weights()[name]
        assert torch.allclose(moved, expected, rtol=1e-3, atol=1e-5), name
        assert moved.abs().max() > 1e-4, name


def test_the_rate_rises_and_falls():
    method = MRNet(warm_up=0.1, power=1.0)
    rates = [method.rate(k, 100) for k in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == pytest.approx(0.91)
    assert rates[55] == pytest.approx(0.45)
    assert MRNet(warm_up=0.0).rate(0, 100) == 1


def test_what_the_labels_are_made_of(tmp_path):
    """Each of the choices leads to another model."""
    choices = [{}, {"scales": (1.0,)}, {"flip": True}, {"auxiliary_weight": 2.0}]
    hashes = {
        sha256(attempt(MRNet(**QUICK, **c), TOY, tmp_path / str(i)).deployed.weights())
        for i, c in enumerate(choices)
    }
    assert len(hashes) == len(choices)


def test_the_losses_fall_and_batch_norm_moves(tmp_path):
    done = attempt(MRNet(epochs=8, batch_size=4, learning_rate=1e-3), TOY, tmp_path)
    curves = read(tmp_path / "stage-0.safetensors")["curves"]
    assert curves["main"][-1] < curves["main"][0]
    assert curves["auxiliary"][-1] < curves["auxiliary"][0]
    assert max(curves["foreground"]) == pytest.approx(min(curves["foreground"]), abs=0.05)
    before, after = done.start.weights(), done.deployed.weights()
    for name in ("stem.1.weight", "stem.1.running_mean", "auxiliary.weight"):
        assert not torch.equal(before[name], after[name])


@pytest.mark.parametrize("scales", ["[]", "[0]", "[1, -1]"])
def test_scales_that_cannot_be_are_refused(scales):
    with pytest.raises(BadInput, match=r"--set scales=.*field 'scales' of mrnet"):
        override(MRNet(), {"scales": scales}, owner="mrnet")


def test_scales_from_text():
    assert override(MRNet(), {"scales": "[1, 1.5]"}, owner="mrnet").scales == (1.0, 1.5)
