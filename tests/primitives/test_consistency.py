"""Schedules and consistency losses, against hand-computed values (methods-cross-modality.md §6)."""

import math

import pytest
import torch
from torch import nn

from sfdabench.core.head import HEADS, SIGMOID, SOFTMAX
from sfdabench.primitives.losses import consistency_loss, dice_loss
from sfdabench.primitives.teacher import ramp_up, ramp_up_and_down, update_teacher, warm_ema


def logits(classes=3):
    return 3 * torch.randn(2, classes, 6, 5, generator=torch.Generator().manual_seed(0))


def test_first_averages_and_the_ceiling():
    assert [warm_ema(step, 0.99) for step in (1, 2, 3, 4)] == pytest.approx(
        [1 / 2, 2 / 3, 3 / 4, 0.8]
    )
    assert warm_ema(98, 0.99) == pytest.approx(98 / 99)
    assert warm_ema(99, 0.99) == pytest.approx(0.99)
    assert warm_ema(5000, 0.99) == 0.99


def test_a_warm_teacher_is_the_mean_of_its_start_and_every_student():
    teacher, student = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    nn.init.constant_(teacher.weight, 1)
    seen = []
    for step, value in enumerate((3.0, 8.0, 4.0), start=1):
        nn.init.constant_(student.weight, value)
        update_teacher(teacher, student, warm_ema(step, 0.99))
        seen.append(teacher.weight.item())
    assert seen == pytest.approx([2, 4, 4])


@pytest.mark.parametrize(
    ("epoch", "expected"), [(0, math.exp(-5)), (50, math.exp(-1.25)), (100, 1), (101, 1), (349, 1)]
)
def test_consistency_ramp_of_the_paper(epoch, expected):
    """exp(-5 (1 - min(e, 100) / 100)^2) over 350 epochs."""
    assert ramp_up(epoch / 350, 2 / 7) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("epoch", "expected"),
    [(0, math.exp(-5)), (25, math.exp(-1.25)), (50, 1), (125, 0.5 + 8**-0.5), (200, 0.5), (350, 0)],
)
def test_rate_of_the_paper(epoch, expected):
    """Up to epoch 50, then a cosine that is 0 at 350."""
    assert ramp_up_and_down(epoch / 350, 1 / 7) == pytest.approx(expected, abs=1e-12)


def test_ramps_of_no_length_and_of_the_whole_run():
    assert ramp_up(0.0, 0.0) == ramp_up_and_down(0.0, 0.0) == 1
    assert ramp_up_and_down(1.0, 1.0) == 1
    assert ramp_up_and_down(0.5, 1.0) == pytest.approx(math.exp(-1.25))


@pytest.mark.parametrize("head", HEADS.values(), ids=str)
def test_only_mse_is_zero_where_student_equals_teacher(head):
    student = logits()
    teacher = head.probabilities(student)
    assert consistency_loss(student, teacher, head, "mse") == 0
    for kind in ("cross_entropy", "dice"):
        assert consistency_loss(student, teacher, head, kind) > 0.01


@pytest.mark.parametrize("head", HEADS.values(), ids=str)
def test_dice_alone_prefers_a_student_surer_than_its_teacher(head):
    student = logits()
    teacher = head.probabilities(student)
    for kind, prefers in (("mse", False), ("cross_entropy", False), ("dice", True)):
        equal, surer = (consistency_loss(scale * student, teacher, head, kind) for scale in (1, 2))
        assert (surer < equal) == prefers, kind


@pytest.mark.parametrize("head", HEADS.values(), ids=str)
def test_cross_entropy_of_equals_is_their_entropy(head):
    student = logits()
    p = head.probabilities(student)
    entropy = -p * p.log() - ((1 - p) * (1 - p).log() if head == SIGMOID else 0)
    expected = entropy.mean() if head == SIGMOID else entropy.sum(dim=1).mean()
    loss = consistency_loss(student, p, head, "cross_entropy")
    assert torch.allclose(loss, expected, atol=1e-6)


def test_values_by_hand():
    student = torch.tensor([0.9, 0.2]).logit().view(1, 1, 1, 2)
    soft = torch.tensor([0.6, 0.4]).view(1, 1, 1, 2)
    expected = {
        "mse": (0.3**2 + 0.2**2) / 2,
        "cross_entropy": -sum(
            g * math.log(p) + (1 - g) * math.log(1 - p) for p, g in ((0.9, 0.6), (0.2, 0.4))
        )
        / 2,
        "dice": 1 - (2 * (0.54 + 0.08) + 1e-4) / (2.1 + 1e-4),
    }
    for kind, value in expected.items():
        loss = consistency_loss(student, soft, SIGMOID, kind)
        assert loss.item() == pytest.approx(value, rel=1e-5)


def test_mse_of_a_softmax_head_is_the_mean_over_channels_too():
    student = torch.tensor([0.7, 0.2, 0.1]).log().view(1, 3, 1, 1)
    soft = torch.tensor([0.5, 0.5, 0.0]).view(1, 3, 1, 1)
    loss = consistency_loss(student, soft, SOFTMAX, "mse")
    assert loss.item() == pytest.approx((0.04 + 0.09 + 0.01) / 3)


def test_dice_of_the_papers_own_example():
    """§4.5: for p = .9 the soft target .9 scores worse than the hard target 1."""
    student = torch.tensor(0.9).logit().view(1, 1, 1, 1)
    soft, hard = torch.full((1, 1, 1, 1), 0.9), torch.ones(1, 1, 1, 1)
    assert dice_loss(student, soft, SIGMOID).item() == pytest.approx(1 - 0.9, abs=1e-4)
    assert dice_loss(student, hard, SIGMOID).item() == pytest.approx(1 - 1.8 / 1.9, abs=1e-4)


def test_dice_is_of_the_batch_at_once():
    student = torch.tensor([0.9, 0.1]).logit().view(2, 1, 1, 1)
    truth = torch.tensor([1.0, 0.0]).view(2, 1, 1, 1)
    assert dice_loss(student, truth, SIGMOID).item() == pytest.approx(1 - 1.8 / 2, abs=1e-4)


@pytest.mark.parametrize("kind", ["mse", "cross_entropy", "dice"])
@pytest.mark.parametrize("head", HEADS.values(), ids=str)
def test_the_student_gets_a_gradient(head, kind):
    student = logits().requires_grad_()
    soft = head.probabilities(logits().flip(0))
    consistency_loss(student, soft, head, kind).backward()
    assert student.grad.abs().max() > 0
    assert student.grad.isfinite().all()
