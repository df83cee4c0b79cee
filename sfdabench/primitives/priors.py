"""Class ratios that are known beforehand, and how far a prediction is from them.

From SRDA and AdaMI (methods-compared.md §6). A head's decisions are problems of their own: softmax
has one among all classes; under a sigmoid each channel is on or off, which is ours. Maps of
outcomes are (B, P, C, H, W) with P problems of C outcomes, ratios (P, C) or (B, P, C).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from sfdabench.core.errors import RunFailed
from sfdabench.core.head import Head

LEAST = 1e-10  # code: what a logarithm is taken of is above it
Direction = Literal["predicted", "prior"]


def outcomes(logits: Tensor, head: Head) -> Tensor:
    """Logits (B, K, H, W) -> probabilities: softmax (B, 1, K, H, W), sigmoid (B, K, 2, H, W)."""
    p = head.probabilities(logits)
    return p[:, None] if head.exclusive else torch.stack((p, 1 - p), dim=2)


def known_ratio(class_ratio: Mapping[str, float], classes: Sequence[str], head: Head) -> Tensor:
    """Share of an image that each class takes -> ratios (P, C) in the order of `outcomes`.

    Raises RunFailed for a class that never occurs, or that is all there is: no divergence from
    such a ratio is finite.
    """
    shares = [class_ratio[name] for name in classes]
    rest = [1 - sum(shares)] if head.exclusive else [1 - share for share in shares]
    for name, share, other in zip(classes, shares, rest * len(shares), strict=False):
        if not (share > 0 and other > 0):
            raise RunFailed(
                f"class '{name}' takes {share:g} of the source's images, so its ratio says nothing "
                "of the target; leave the class out of the task, or take another method"
            )
    if head.exclusive:
        return torch.tensor([[*rest, *shares]])
    return torch.tensor([[share, 1 - share] for share in shares])


def true_ratio(masks: Tensor, head: Head) -> Tensor:
    """Share of each image that its outcomes take: masks (B, K, H, W) -> ratios (B, P, C)."""
    shares = masks.mean(dim=(2, 3))
    return shares[:, None] if head.exclusive else torch.stack((shares, 1 - shares), dim=2)


def predicted_ratio(p: Tensor) -> Tensor:
    """Outcomes (B, P, C, H, W) -> their ratios (B, P, C), as SRDA's code has them.

    A mean over pixels in which each counts by one over its largest probability: unsure pixels
    count up to C times more. The gradient flows through these weights too.
    """
    shares = (p / p.amax(dim=2, keepdim=True)).sum(dim=(3, 4))
    return shares / shares.sum(dim=2, keepdim=True)


def ratio_divergence(predicted: Tensor, known: Tensor, direction: Direction) -> Tensor:
    """Kullback-Leibler divergence of the predicted (B, P, C) and the known ratio, the mean.

    known: (P, C), or of each image (B, P, C).

    direction: "predicted" is sum that log(that / tau) (AdaMI), "prior" sum tau log(tau / that).
    """
    known = known.expand_as(predicted)
    first, second = (predicted, known) if direction == "predicted" else (known, predicted)
    gap = (first + LEAST).log() - (second + LEAST).log()
    return (first * gap).sum(dim=2).mean()


def outcome_weights(known: Tensor) -> Tensor:
    """One over each ratio (P, C), scaled to a sum of 1 over the outcomes of a problem."""
    return (1 / known) / (1 / known).sum(dim=1, keepdim=True)


def weighted_entropy(p: Tensor, weights: Tensor) -> Tensor:
    """Mean over pixels and problems of sum_c nu_c (-p_c log p_c), in nats; weights nu: (P, C)."""
    surprise = -p * (p + LEAST).log()
    return (weights[None, :, :, None, None] * surprise).sum(dim=2).mean()
