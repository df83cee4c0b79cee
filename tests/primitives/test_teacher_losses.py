import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sfdabench.confine.allocator import keep_freed_memory
from sfdabench.core.head import HEADS, SIGMOID, SOFTMAX
from sfdabench.primitives.losses import (
    dice_loss,
    segmentation_loss,
    supervised_loss,
    weighted_bce,
)
from sfdabench.primitives.teacher import update_teacher


def pair():
    torch.manual_seed(0)
    student = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    teacher = copy.deepcopy(student)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(1)
    student[1].running_mean.fill_(5)
    return teacher.requires_grad_(False), student


def test_teacher_is_the_moving_average_of_parameters_only():
    teacher, student = pair()
    expected = [
        0.98 * t + 0.02 * s.detach()
        for t, s in zip(teacher.parameters(), student.parameters(), strict=True)
    ]
    before = copy.deepcopy(student.state_dict())
    update_teacher(teacher, student, 0.98)
    for parameter, value in zip(teacher.parameters(), expected, strict=True):
        assert torch.allclose(parameter, value, atol=1e-6)
    assert teacher[1].running_mean.eq(0).all()
    assert all(torch.equal(before[name], v) for name, v in student.state_dict().items())


@pytest.mark.parametrize(("ema", "source"), [(1.0, 0), (0.0, 1)])
def test_ends_of_the_average(ema, source):
    models = pair()
    wanted = [p.detach().clone() for p in models[source].parameters()]
    update_teacher(*models, ema)
    assert all(torch.equal(p, w) for p, w in zip(models[0].parameters(), wanted, strict=True))


def test_teacher_of_another_network():
    teacher, student = pair()
    with pytest.raises(ValueError, match="teacher has 2 parameters, student 4"):
        update_teacher(teacher[1], student, 0.9)


def test_weighted_bce_is_its_formula():
    logits = torch.randn(2, 2, 5, 5, dtype=torch.float64, requires_grad=True)
    target = torch.rand(2, 2, 5, 5).round().double()
    weight = torch.rand(2, 2, 5, 5).double()
    p = logits.sigmoid()
    losses = -(target * p.log() + (1 - target) * (1 - p).log())
    loss = weighted_bce(logits, target, weight)
    assert torch.allclose(loss, (weight * losses).sum() / weight.sum())
    # normalised: a common factor of the weights changes nothing
    assert torch.allclose(loss, weighted_bce(logits, target, 7 * weight))
    loss.backward()
    assert logits.grad.abs().min() > 0


def test_weight_of_one_is_plain_bce_and_small_shapes_expand():
    logits, target = torch.randn(2, 2, 5, 5), torch.rand(2, 2, 5, 5)
    plain = F.binary_cross_entropy_with_logits(logits, target)
    assert torch.allclose(weighted_bce(logits, target, torch.ones(1)), plain)
    per_channel = torch.tensor([0.25, 1.0]).view(1, 2, 1, 1)
    full = weighted_bce(logits, target, per_channel.expand_as(logits).clone())
    assert torch.allclose(weighted_bce(logits, target, per_channel), full)


def test_saturated_logits_stay_finite():
    logits = torch.tensor([1e4, -1e4]).view(1, 2, 1, 1).requires_grad_()
    weighted_bce(logits, torch.tensor([0.0, 1.0]).view(1, 2, 1, 1), torch.ones(1)).backward()
    assert logits.grad.isfinite().all()


def test_dice_loss_by_hand():
    """Probabilities of one half everywhere: 2 * G/2 / (N/2 + G), over the whole batch."""
    target = torch.zeros(2, 1, 4, 4)
    target[0, 0, :2] = 1  # 8 of 32 pixels
    loss = dice_loss(torch.zeros(2, 1, 4, 4), target, SIGMOID, smoothing=0)
    assert loss.item() == pytest.approx(1 - 2 * 4 / (16 + 8))


def test_dice_loss_leaves_the_background_out():
    target = torch.zeros(1, 3, 2, 2)
    target[0, 0, 0], target[0, 1, 1, 0], target[0, 2, 1, 1] = 1, 1, 1
    perfect = 60 * target - 30
    assert dice_loss(perfect, target, SOFTMAX).item() == pytest.approx(0, abs=1e-5)
    swapped = perfect[:, [0, 2, 1]]  # the background is right, both classes are wrong
    assert dice_loss(swapped, target, SOFTMAX).item() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("head", HEADS.values(), ids=str)
def test_supervised_loss_is_the_one_that_the_recipe_names(head):
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 5, 5)
    target = F.one_hot(torch.randint(0, 3, (2, 5, 5)), 3).permute(0, 3, 1, 2).float()
    entropy = segmentation_loss(logits, target, head)
    dice = dice_loss(logits, target, head)
    assert supervised_loss(logits, target, head, "cross_entropy") == entropy
    assert supervised_loss(logits, target, head, "dice") == dice
    assert supervised_loss(logits, target, head, "cross_entropy_dice") == entropy + dice


def test_allocator_is_glibc_only(monkeypatch):
    monkeypatch.setattr("sys.platform", "darwin")
    assert keep_freed_memory() is False


def test_allocator_here_says_what_it_did():
    import platform

    assert keep_freed_memory() == (platform.libc_ver()[0] == "glibc")
