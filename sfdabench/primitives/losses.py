"""Losses that several papers share."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def weighted_bce(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """sum(weight * BCE) / sum(weight) over the whole batch, for sigmoid heads.

    logits, target: (B, K, H, W), target in 0..1; weight: that shape, or one that expands to it.
    A batch without any weight is an error of the caller: the result is NaN.
    """
    weight = weight.expand_as(logits)
    losses = F.binary_cross_entropy_with_logits(logits, target, weight, reduction="sum")
    return losses / weight.sum()
