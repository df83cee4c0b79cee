"""The teacher of a mean-teacher method: an exponential moving average of the student."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


@torch.no_grad()
def update_teacher(teacher: nn.Module, student: nn.Module, ema: float) -> None:
    """Move it: ema * teacher + (1 - ema) * student, parameters only (CBMT, equation 4).

    Buffers are left alone: the teacher's batch-norm statistics come from its own forward passes.
    """
    mine: list[Tensor] = list(teacher.parameters())
    theirs: list[Tensor] = list(student.parameters())
    if len(mine) != len(theirs):
        raise ValueError(f"teacher has {len(mine)} parameters, student {len(theirs)}")
    torch._foreach_lerp_(mine, theirs, 1 - ema)


def warm_ema(step: int, ceiling: float) -> float:
    """min(1 - 1 / (step + 1), ceiling): the mean of all students so far, until it is long enough.

    step: from 1; the first values are 1/2, 2/3, 3/4 (Perone et al., NeuroImage 2019, code).
    """
    return min(1 - 1 / (step + 1), ceiling)


def ramp_up(progress: float, length: float) -> float:
    """exp(-5 (1 - m)^2), m = progress / length, 1 from there on (Perone et al., equation 5).

    progress: n / epochs in epoch n, counted from 1. length: share of the run that the ramp takes.
    """
    return math.exp(-5 * (1 - progress / length) ** 2) if progress < length else 1.0


def ramp_up_and_down(progress: float, length: float) -> float:
    """`ramp_up`, then a cosine that is 0 at the end of the run (equations 5 and 6).

    As the code has it; the paper divides by all epochs, and would end above 0.
    """
    if progress <= length:
        return ramp_up(progress, length)
    return (math.cos(math.pi * (progress - length) / (1 - length)) + 1) / 2
