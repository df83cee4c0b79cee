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


def segmentation_loss(
    logits: Tensor, target: Tensor, head: str, keep: Tensor | None = None
) -> Tensor:
    """Mean cross-entropy of the head: binary per channel (sigmoid) or over channels (softmax).

    logits, target: (B, K, H, W), target in 0..1. keep: (B, 1, H, W), weight of each pixel; where
    it keeps none the loss is zero, with a gradient of zero.
    """
    if head == "sigmoid":
        losses = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    else:
        losses = -(target * F.log_softmax(logits, dim=1)).sum(dim=1, keepdim=True)
    if keep is None:
        return losses.mean()
    keep = keep.expand_as(losses)
    return (losses * keep).sum() / keep.sum().clamp(min=1)


def dice_loss(logits: Tensor, target: Tensor, head: str, smoothing: float = 1e-4) -> Tensor:
    """One minus the soft Dice of the whole batch, mean over classes (background left out).

    logits, target: (B, K, H, W). Without squares in the denominator (Perone et al., NeuroImage
    2019, code); `smoothing` is added to both sides of the fraction.
    """
    probability = logits.sigmoid() if head == "sigmoid" else logits.softmax(dim=1)[:, 1:]
    truth = target if head == "sigmoid" else target[:, 1:]
    shared = (probability * truth).sum(dim=(0, 2, 3))
    total = (probability + truth).sum(dim=(0, 2, 3))
    return 1 - ((2 * shared + smoothing) / (total + smoothing)).mean()


def supervised_loss(logits: Tensor, target: Tensor, head: str, kind: str) -> Tensor:
    """The loss that a source recipe names: "cross_entropy", "dice", or the sum of both."""
    if kind == "dice":
        return dice_loss(logits, target, head)
    loss = segmentation_loss(logits, target, head)
    return loss + dice_loss(logits, target, head) if kind == "cross_entropy_dice" else loss
