"""Losses that several papers share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from sfdabench.core.head import Head


def weighted_bce(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """sum(weight * BCE) / sum(weight) over the whole batch, for sigmoid heads.

    logits, target: (B, K, H, W), target in 0..1; weight: that shape, or one that expands to it.
    A batch without any weight is an error of the caller: the result is NaN.
    """
    weight = weight.expand_as(logits)
    losses = F.binary_cross_entropy_with_logits(logits, target, weight, reduction="sum")
    return losses / weight.sum()


def segmentation_loss(
    logits: Tensor, target: Tensor, head: Head, keep: Tensor | None = None
) -> Tensor:
    """Mean cross-entropy of the head: binary per channel (sigmoid) or over channels (softmax).

    logits, target: (B, K, H, W), target in 0..1. keep: weight of each pixel, (B, 1, H, W), or
    (B, K, H, W) for sigmoid; where it keeps none the loss is zero, with a gradient of zero.
    """
    losses = head.cross_entropy(logits, target)
    if keep is None:
        return losses.mean()
    keep = keep.expand_as(losses)
    return (losses * keep).sum() / keep.sum().clamp(min=1)


def dice_loss(logits: Tensor, target: Tensor, head: Head, smoothing: float = 1e-4) -> Tensor:
    """One minus the soft Dice of the whole batch, mean over classes (background left out).

    logits, target: (B, K, H, W). Without squares in the denominator (Perone et al., NeuroImage
    2019, code); `smoothing` is added to both sides of the fraction.
    """
    probability = head.without_background(head.probabilities(logits))
    truth = head.without_background(target)
    shared = (probability * truth).sum(dim=(0, 2, 3))
    total = (probability + truth).sum(dim=(0, 2, 3))
    return 1 - ((2 * shared + smoothing) / (total + smoothing)).mean()


def squared_dice_loss(
    logits: Tensor, target: Tensor, head: Head, *, background: bool, smoothing: float = 0.0
) -> Tensor:
    """One minus the soft Dice of the whole batch, with squares in the denominator; mean of classes.

    logits, target: (B, K, H, W), target 0 or 1. SIFA's, with `background`, and SynSeg-Net's,
    without it and with a smoothing of 1e-7 (methods-compared.md §9, 11). Under a sigmoid there is
    no background to count.
    """
    probability = head.probabilities(logits)
    if not background:
        probability, target = head.without_background(probability), head.without_background(target)
    shared = (probability * target).sum(dim=(0, 2, 3))
    total = (probability.square() + target).sum(dim=(0, 2, 3))
    return 1 - (2 * (shared + smoothing) / (total + 1e-7)).mean()


def balanced_cross_entropy(logits: Tensor, target: Tensor, head: Head) -> Tensor:
    """Cross-entropy in which a class counts by one minus its share of the batch (SIFA, code).

    logits, target: (B, K, H, W), target 0 or 1. Probabilities below 0.005 count as that. The mean
    over pixels, and under a sigmoid over channels, each of which is on or off (ours).
    """
    p = head.probabilities(logits)
    if not head.exclusive:
        p, target = torch.cat((p, 1 - p), dim=1), torch.cat((target, 1 - target), dim=1)
    weight = 1 - target.mean(dim=(0, 2, 3), keepdim=True)
    losses = -(weight * target * p.clamp(0.005, 1).log()).sum(dim=1)
    return losses.mean() / (1 if head.exclusive else logits.shape[1])


def supervised_loss(logits: Tensor, target: Tensor, head: Head, kind: str) -> Tensor:
    """The loss that a source recipe names: "cross_entropy", "dice", or the sum of both."""
    if kind == "dice":
        return dice_loss(logits, target, head)
    loss = segmentation_loss(logits, target, head)
    return loss + dice_loss(logits, target, head) if kind == "cross_entropy_dice" else loss


def weighted_heads(
    heads: Sequence[Tensor], target: Tensor, weights: Sequence[float], head: Head, kind: str
) -> Tensor:
    """The sum of `supervised_loss` over the logits (B, K, H, W) of one head or two, weighted.

    weights: of the main and of the auxiliary head; that of a head that is not there is passed over.
    """
    pairs = zip(heads, weights, strict=False)
    return torch.stack([w * supervised_loss(m, target, head, kind) for m, w in pairs]).sum()


def consistency_loss(
    logits: Tensor, soft: Tensor, head: Head, kind: Literal["mse", "cross_entropy", "dice"]
) -> Tensor:
    """How far a student's logits are from a teacher's probabilities, both (B, K, H, W).

    kind: "mse", the mean over pixels and channels; "cross_entropy" or "dice" with the soft map as
    the target. Neither of these is a distance: where the two agree, cross-entropy is least but not
    0, and Dice is not even least: it asks for a student surer than its teacher (Perone et al.,
    NeuroImage 2019, equations 7, 8 and 4, and §4.5; equation 8 has the sides swapped, not so code).
    """
    if kind == "mse":
        return F.mse_loss(head.probabilities(logits), soft)
    return supervised_loss(logits, soft, head, kind)
