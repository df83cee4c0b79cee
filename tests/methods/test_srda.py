"""SRDA's ratios and losses on values computed by hand (methods-compared.md §6)."""

import math

import pytest
import torch

from sfdabench.checks.toy import Toy, attempt
from sfdabench.core.errors import RunFailed
from sfdabench.core.head import SIGMOID, SOFTMAX
from sfdabench.methods.srda import SRDA
from sfdabench.primitives import priors


def pixels(*values):
    """One image, one problem: probabilities of each pixel -> (1, 1, C, 1, N)."""
    return torch.tensor(values).T.reshape(1, 1, len(values[0]), 1, len(values))


def test_the_ratio_weighs_unsure_pixels_more():
    ratio = priors.predicted_ratio(pixels((0.9, 0.1), (0.6, 0.4)))
    assert ratio.flatten().tolist() == pytest.approx([0.72, 0.28])
    alone = priors.predicted_ratio(pixels((0.2, 0.5, 0.3)))
    assert alone.flatten().tolist() == pytest.approx([0.2, 0.5, 0.3])


@pytest.mark.parametrize("direction", ["predicted", "prior"])
def test_the_divergence_is_0_where_the_ratio_is_the_known_one_and_only_there(direction):
    known = torch.tensor([[0.7, 0.2, 0.1]])
    assert float(priors.ratio_divergence(known[None], known, direction)) == pytest.approx(
        0, abs=1e-7
    )
    other = torch.tensor([[[0.5, 0.3, 0.2]]])
    a, b = (other.flatten(), known.flatten())
    if direction == "prior":
        a, b = b, a
    expected = sum(x * math.log(x / y) for x, y in zip(a.tolist(), b.tolist(), strict=True))
    value = float(priors.ratio_divergence(other, known, direction))
    assert value == pytest.approx(expected)
    assert value > 0.01


def test_ratios_and_weights_of_both_heads():
    ratio = {"cup": 0.1, "disc": 0.3}
    softmax = priors.known_ratio(ratio, ("cup", "disc"), SOFTMAX)
    assert softmax.tolist() == [pytest.approx([0.6, 0.1, 0.3])]
    sigmoid = priors.known_ratio(ratio, ("cup", "disc"), SIGMOID)
    assert sigmoid.tolist() == [pytest.approx([0.1, 0.9]), pytest.approx([0.3, 0.7])]
    prostate = priors.outcome_weights(torch.tensor([[0.946, 0.054]]))
    assert prostate.flatten().tolist() == pytest.approx([0.054, 0.946])


def test_outcomes_of_a_sigmoid_are_on_and_off():
    logits = torch.tensor([0.0, 2.0]).view(1, 2, 1, 1)
    p = priors.outcomes(logits, SIGMOID)
    assert p.shape == (1, 2, 2, 1, 1)
    on = 1 / (1 + math.exp(-2))
    assert p.flatten().tolist() == pytest.approx([0.5, 0.5, on, 1 - on])
    assert priors.outcomes(logits, SOFTMAX).shape == (1, 1, 2, 1, 1)


def test_the_entropy_weighs_outcomes():
    p = pixels((0.5, 0.5), (1.0, 0.0))
    value = float(priors.weighted_entropy(p, torch.tensor([[0.25, 0.75]])))
    assert value == pytest.approx(0.5 * math.log(2) / 2, abs=1e-6)


@pytest.mark.parametrize("head", [SIGMOID, SOFTMAX])
def test_all_background_has_a_finite_gradient(head):
    logits = torch.full((2, 3, 4, 4), -30.0)
    logits[:, 0] = 30.0 if head.exclusive else -30.0
    logits.requires_grad_()
    p = priors.outcomes(logits, head)
    names = ("a", "b", "c")[: 2 if head.exclusive else 3]
    known = priors.known_ratio(dict.fromkeys(names, 0.1), names, head)
    for direction in ("predicted", "prior"):
        loss = priors.weighted_entropy(p, known)
        loss = loss + priors.ratio_divergence(priors.predicted_ratio(p), known, direction)
        (gradient,) = torch.autograd.grad(loss, logits, retain_graph=True)
        assert gradient.isfinite().all()


@pytest.mark.parametrize(("share", "head"), [(0.0, SIGMOID), (0.0, SOFTMAX), (1.0, SIGMOID)])
def test_a_class_that_never_occurs_is_named(share, head):
    with pytest.raises(RunFailed, match=r"class 'cup' takes .* of the source's images"):
        priors.known_ratio({"disc": 0.1, "cup": share}, ("disc", "cup"), head)


def test_a_larger_ratio_draws_more_foreground(tmp_path):
    """The prior steers: the same start, with twice the share and with half of it."""
    shares = []
    for factor in (0.5, 2.0):

        class Told(SRDA):
            def adapt(self, context, factor=factor):
                for name, share in context.granted["class_ratio"].items():
                    context.granted["class_ratio"][name] = share * factor
                return super().adapt(context)

        fields = {"epochs": 40, "batch_size": 9, "learning_rate": 1e-2, "weight": 10.0}
        done = attempt(Told(**fields), Toy(), tmp_path / str(factor))
        shares.append(float(done.prediction.mean()))
    assert shares[1] > 1.3 * shares[0], shares
