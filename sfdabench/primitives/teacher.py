"""The teacher of a mean-teacher method: an exponential moving average of the student."""

from __future__ import annotations

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
