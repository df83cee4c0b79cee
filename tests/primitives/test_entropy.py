import math

import pytest
import torch
from torch import nn

from sfdabench.core.head import HEADS, SIGMOID, SOFTMAX
from sfdabench.primitives.batch_norm import select_trainable
from sfdabench.primitives.entropy import mean_entropy, tent_step

LN2 = math.log(2)


def sigmoid_logits(*probabilities):
    """One image, one channel."""
    p = torch.tensor(probabilities, dtype=torch.float64).view(1, 1, 1, -1)
    return (p / (1 - p)).log()


def softmax_logits(*pixels):
    """One image; each pixel a tuple of probabilities."""
    return torch.tensor(pixels, dtype=torch.float64).log().T.reshape(1, len(pixels[0]), 1, -1)


def binary(p):
    return -p * math.log(p) - (1 - p) * math.log(1 - p)


def test_no_opinion_is_the_largest_entropy():
    assert mean_entropy(torch.zeros(2, 3, 4, 4), SIGMOID).item() == pytest.approx(LN2)
    assert mean_entropy(torch.zeros(2, 5, 4, 4), SOFTMAX).item() == pytest.approx(math.log(5))


def test_by_hand():
    found = mean_entropy(sigmoid_logits(0.2, 0.9), SIGMOID)
    assert found.item() == pytest.approx((binary(0.2) + binary(0.9)) / 2)
    found = mean_entropy(softmax_logits((0.5, 0.25, 0.25), (0.8, 0.1, 0.1)), SOFTMAX)
    second = -0.8 * math.log(0.8) - 0.2 * math.log(0.1)
    assert found.item() == pytest.approx((1.5 * LN2 + second) / 2)


def test_gradient_of_both_sides():
    """-x p (1 - p); at p = .4 the one-sided -p log p would rise towards 0 and push to 1."""
    logits = sigmoid_logits(0.4, 0.6, 0.9).requires_grad_()
    mean_entropy(logits, SIGMOID).backward()
    p = logits.detach().sigmoid()
    assert torch.allclose(logits.grad, -logits.detach() * p * (1 - p) / 3)
    assert logits.grad.flatten()[0] > 0 > logits.grad.flatten()[1]


@pytest.mark.parametrize("head", HEADS.values(), ids=str)
def test_saturated_logits_stay_finite(head):
    logits = torch.tensor([1e4, -1e4]).view(1, 2, 1, 1).requires_grad_()
    loss = mean_entropy(logits, head)
    loss.backward()
    assert loss.item() == 0
    assert logits.grad.isfinite().all()


def test_balanced_is_the_mean_of_the_means_of_classes():
    rest = (binary(0.1) + binary(0.2) + binary(0.3)) / 3
    found = mean_entropy(sigmoid_logits(0.1, 0.2, 0.3, 0.6), SIGMOID, balanced=True)
    assert found.item() == pytest.approx((rest + binary(0.6)) / 2)

    # the third class is predicted nowhere
    background, other = (0.7, 0.2, 0.1), (0.3, 0.6, 0.1)
    plain = [mean_entropy(softmax_logits(p), SOFTMAX).item() for p in (background, other)]
    logits = softmax_logits(background, background, background, other)
    found = mean_entropy(logits, SOFTMAX, balanced=True)
    assert found.item() == pytest.approx(sum(plain) / 2)


def test_balanced_over_channels_of_a_sigmoid():
    """On and off of every channel count alike, of those that occur: three here."""
    off, mixed = sigmoid_logits(0.1, 0.4), sigmoid_logits(0.2, 0.7)
    found = mean_entropy(torch.cat((off, mixed), dim=1), SIGMOID, balanced=True)
    expected = ((binary(0.1) + binary(0.4)) / 2 + binary(0.2) + binary(0.7)) / 3
    assert found.item() == pytest.approx(expected)


def test_share_of_foreground():
    assert SIGMOID.foreground_share(sigmoid_logits(0.1, 0.6, 0.4, 0.2)).item() == 0.25
    logits = softmax_logits((0.6, 0.2, 0.2), (0.1, 0.2, 0.7), (0.2, 0.5, 0.3), (0.4, 0.3, 0.3))
    assert SOFTMAX.foreground_share(logits).item() == 0.5


def test_step_of_tent():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Conv2d(4, 2, 1)
    )
    images, before = torch.randn(5, 3, 6, 6), {k: v.clone() for k, v in model.state_dict().items()}
    normalised = torch.batch_norm(
        model[0](images), model[1].weight, model[1].bias, None, None, True, 0.0, 1e-5, False
    )
    expected = model[4](normalised.relu()).detach()
    optimiser = torch.optim.Adam(select_trainable(model, "affine"), 1e-2)
    logged = []
    logits = tent_step(model, optimiser, images, SIGMOID, lambda loss: logged.append(loss.item()))
    assert torch.allclose(logits, expected, atol=1e-6)  # no dropout, and before the update
    assert logged == [mean_entropy(logits, SIGMOID).item()]
    moved = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert moved == {"1.weight", "1.bias"}
    for _ in range(5):
        logits = tent_step(model, optimiser, images, SIGMOID, lambda loss: None)
    assert mean_entropy(logits, SIGMOID).item() < logged[0]
