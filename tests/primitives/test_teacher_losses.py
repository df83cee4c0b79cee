import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sfdabench.primitives.losses import weighted_bce
from sfdabench.primitives.teacher import update_teacher
from sfdabench.run.allocator import keep_freed_memory


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


def test_allocator_is_glibc_only(monkeypatch):
    monkeypatch.setattr("sys.platform", "darwin")
    assert keep_freed_memory() is False


def test_allocator_here_says_what_it_did():
    import platform

    assert keep_freed_memory() == (platform.libc_ver()[0] == "glibc")
