"""Losses that several papers share."""

from __future__ import annotations

from typing import Literal

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


def probabilities(logits: Tensor, head: str) -> Tensor:
    """(B, K, H, W) -> the same shape in 0..1, per channel (sigmoid) or over channels (softmax)."""
    return logits.sigmoid() if head == "sigmoid" else logits.softmax(dim=1)


def segmentation_loss(
    logits: Tensor, target: Tensor, head: str, keep: Tensor | None = None
) -> Tensor:
    """Mean cross-entropy of the head: binary per channel (sigmoid) or over channels (softmax).

    logits, target: (B, K, H, W), target in 0..1. keep: weight of each pixel, (B, 1, H, W), or
    (B, K, H, W) for sigmoid; where it keeps none the loss is zero, with a gradient of zero.
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
    probability, truth = probabilities(logits, head), target
    if head == "softmax":
        probability, truth = probability[:, 1:], truth[:, 1:]
    shared = (probability * truth).sum(dim=(0, 2, 3))
    total = (probability + truth).sum(dim=(0, 2, 3))
    return 1 - ((2 * shared + smoothing) / (total + smoothing)).mean()


def supervised_loss(logits: Tensor, target: Tensor, head: str, kind: str) -> Tensor:
    """The loss that a source recipe names: "cross_entropy", "dice", or the sum of both."""
    if kind == "dice":
        return dice_loss(logits, target, head)
    loss = segmentation_loss(logits, target, head)
    return loss + dice_loss(logits, target, head) if kind == "cross_entropy_dice" else loss


def consistency_loss(
    logits: Tensor, soft: Tensor, head: str, kind: Literal["mse", "cross_entropy", "dice"]
) -> Tensor:
    """How far a student's logits are from a teacher's probabilities, both (B, K, H, W).

    kind: "mse", the mean over pixels and channels; "cross_entropy" or "dice" with the soft map as
    the target. Neither of these is a distance: where the two agree, cross-entropy is least but not
    0, and Dice is not even least: it asks for a student surer than its teacher (Perone et al.,
    NeuroImage 2019, equations 7, 8 and 4, and §4.5; equation 8 has the sides swapped, not so code).
    """
    if kind == "mse":
        return F.mse_loss(probabilities(logits, head), soft)
    return supervised_loss(logits, soft, head, kind)
