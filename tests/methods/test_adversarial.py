"""Methods that play against a discriminator (methods-compared.md §0.3, 1 and 2)."""

import dataclasses
import itertools
import math

import pytest
import torch
from by_hand.harm import dice_on_the_source

from sfdabench.checks.toy import Toy, attempt
from sfdabench.core.checkpoint import read
from sfdabench.core.head import SIGMOID, SOFTMAX
from sfdabench.methods.adaoutput import AdaOutput
from sfdabench.methods.advent import AdvEnt
from sfdabench.methods.beal import BEAL
from sfdabench.methods.seat import SEAT
from sfdabench.models.discriminators import OutputDiscriminator
from sfdabench.primitives import adversarial
from sfdabench.primitives.losses import supervised_loss

SHORT = {"epochs": 2, "batch_size": 4, "width": 4}


@pytest.mark.parametrize(
    ("side", "left"), [((32, 32), (1, 1)), ((72, 64), (2, 2)), ((256, 512), (8, 16))]
)
def test_the_discriminator_halves_five_times(side, left):
    assert OutputDiscriminator(3, width=4)(torch.zeros(2, 3, *side)).shape == (2, 1, *left)


@pytest.mark.parametrize("side", [(24, 24), (29, 23), (1, 40)])
def test_smaller_maps_are_padded(side):
    judge, maps = OutputDiscriminator(2, width=4), torch.rand(1, 2, *side)
    padded = torch.zeros(1, 2, max(side[0], 32), max(side[1], 32))
    padded[..., : side[0], : side[1]] = maps
    assert torch.equal(judge(maps), judge(padded))


def test_the_published_discriminator_has_as_many_weights():
    """64, 128, 256, 512 and 1 channels behind 19 of street scenes, with biases."""
    count = sum(p.numel() for p in OutputDiscriminator(19).parameters())
    sizes = [19, 64, 128, 256, 512, 1]
    assert count == sum(16 * a * b + b for a, b in itertools.pairwise(sizes))


def test_entropy_maps_of_softmax_have_values_of_the_paper():
    even = torch.zeros(1, 5, 1, 1)
    assert adversarial.self_information(even, SOFTMAX).flatten().tolist() == pytest.approx(
        [0.2] * 5
    )
    half = torch.log(torch.tensor([0.5, 0.5, 1e-38, 1e-38, 1e-38])).view(1, 5, 1, 1)
    values = adversarial.self_information(half, SOFTMAX).flatten().tolist()
    assert values == pytest.approx([0.5 / math.log2(5)] * 2 + [0] * 3, abs=1e-6)


def test_entropy_maps_of_sigmoid_tell_surely_there_from_surely_not():
    logits = torch.tensor([0.0, 40.0, -40.0]).view(1, 3, 1, 1)
    maps = adversarial.self_information(logits, SIGMOID)
    assert maps.shape == (1, 6, 1, 1)
    assert maps.flatten().tolist() == pytest.approx([0.5, 0, 0, 0.5, 0, 0], abs=1e-6)
    p = torch.tensor([0.9]).logit().view(1, 1, 1, 1)
    on, off = adversarial.self_information(p, SIGMOID).flatten().tolist()
    assert (on, off) == pytest.approx((-0.9 * math.log2(0.9), -0.1 * math.log2(0.1)))


def test_the_gradient_of_a_certain_pixel_is_finite():
    logits = torch.tensor([[200.0, -200.0]]).view(1, 2, 1, 1).requires_grad_()
    for head in (SIGMOID, SOFTMAX):
        (gradient,) = torch.autograd.grad(adversarial.self_information(logits, head).sum(), logits)
        assert gradient.isfinite().all()


def test_what_nobody_can_tell_apart_costs_ln_2():
    def undecided(maps):
        return torch.zeros_like(maps[:, :1])

    maps = [torch.rand(2, 3, 4, 4)]
    assert float(adversarial.judging([undecided], maps, maps)) == pytest.approx(math.log(2))
    assert float(adversarial.fooling([undecided], maps, [0.5])) == pytest.approx(math.log(2) / 2)
    lsgan = adversarial.lsgan
    assert float(adversarial.judging([undecided], maps, maps, lsgan)) == 0.5
    assert float(adversarial.fooling([undecided], maps, [1.0], lsgan)) == 0.0


def test_the_judges_loss_trains_no_segmenter_and_the_segmenters_no_judge():
    judge = OutputDiscriminator(2, width=4)
    source, target = (torch.rand(1, 2, 32, 32, requires_grad=True) for _ in range(2))
    adversarial.judging([judge], [source], [target]).backward()
    assert source.grad is None
    assert target.grad is None
    assert all(p.grad is not None for p in judge.parameters())
    judge.zero_grad()
    with adversarial.frozen(judge):
        adversarial.fooling([judge], [target], [1.0]).backward()
    assert target.grad.abs().sum() > 0
    assert all(p.grad is None and p.requires_grad for p in judge.parameters())


def test_what_was_frozen_before_stays_so():
    judge = OutputDiscriminator(2, width=4)
    first = next(judge.parameters()).requires_grad_(False)
    with pytest.raises(ValueError, match="stop"), adversarial.frozen(judge):
        raise ValueError("stop")
    assert [p.requires_grad for p in judge.parameters()].count(False) == 1
    assert not first.requires_grad


@pytest.mark.parametrize("entry", [AdvEnt, AdaOutput])
def test_with_weight_0_it_is_source_training_with_target_forward_passes(entry, tmp_path):
    """Bit for bit: so nothing of the game leaks into the segmenter."""
    method = entry(**SHORT, optimiser="adam", learning_rate=1e-3, adversarial_weight=0.0)
    played = attempt(method, Toy(), tmp_path / "played").deployed

    class Plain(entry):
        def adapt(self, context):
            model = context.model().train()
            from sfdabench.primitives.fine_tuning import sgd_or_adam
            from sfdabench.primitives.views import SOURCE, identity

            optimiser = sgd_or_adam(model, "adam", 1e-3, 10.0)
            steps = 2 * context.source.steps(4)
            schedule = torch.optim.lr_scheduler.PolynomialLR(optimiser, steps, 0.9)
            for _ in context.epochs(2, deploy=model):
                target = context.target.endless(4, plain=identity)
                for images, masks in context.source.pairs(4, SOURCE[context.augmentation]):
                    loss = supervised_loss(model(images), masks, context.head, context.source_loss)
                    optimiser.zero_grad()
                    loss.backward()
                    with torch.no_grad():
                        model(next(target).plain)
                    optimiser.step()
                    schedule.step()
            return model

    plain = attempt(Plain(**SHORT), Toy(), tmp_path / "plain").deployed
    for name, value in plain.state_dict().items():
        assert torch.equal(value, played.state_dict()[name]), name


@pytest.mark.parametrize("entry", [AdvEnt, AdaOutput, BEAL, SEAT])
def test_with_weight_0_no_judge_leaves_a_trace(entry, tmp_path):
    """Bit for bit, however fast the judges learn."""
    weights = {f.name: 0.0 for f in dataclasses.fields(entry) if "adversarial" in f.name}
    fields = entry.smoke | weights
    states = [
        attempt(entry(**fields | {"judge_rate": rate}), Toy(), tmp_path / str(rate)).fingerprint
        for rate in (1e-3, 1.0)
    ]
    assert states[0] == states[1]


@pytest.mark.parametrize("entry", [AdvEnt, AdaOutput, BEAL, SEAT])
def test_a_target_that_is_the_source_is_not_harmed(entry, tmp_path, monkeypatch):
    """Where there is nothing to tell apart, the game must not cost what the source taught."""
    fields = entry.phantom | {"epochs": 10, "batch_size": 4, "width": 4}
    before, after = dice_on_the_source(entry(**fields), tmp_path, monkeypatch)
    assert after > before - 0.03
    assert len(read(tmp_path / "stage-0.safetensors")["curves"]["judging"]) == 10
