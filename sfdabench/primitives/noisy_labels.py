"""Pseudo labels that a second prediction contradicts, by confident learning (Northcutt et al., JAIR
2021), as we read U-D4R (methods-compared.md §5). Maps are (N, K, H, W).
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from sfdabench.core.head import Head

STILL = 1e-3  # a threshold that moves less has settled
MOST_ROUNDS = 20
SMOOTH = 0.8  # MTCL, code


def settled_threshold(p: Tensor) -> float:
    """A cut half-way between the mean probability above it and the one below it.

    From 0.5 on, in at most MOST_ROUNDS rounds; where all pixels lie on one side it stays.
    """
    cut = 0.5
    for _ in range(MOST_ROUNDS):
        above = p > cut
        if above.all() or not above.any():
            return cut
        before, cut = cut, float((p[above].double().mean() + p[~above].double().mean()) / 2)
        if abs(cut - before) < STILL:
            break
    return cut


def contradicted(label: Tensor, p: Tensor) -> Tensor:
    """Where confident learning finds a label noisy, as 0 or 1; label 0 or 1, p its probability.

    Of each label the mean probability is what a pixel must reach to count as one of that kind; a
    pixel that reaches the other's and not its own is noisy.
    """
    on = label > 0
    if on.all() or not on.any():
        return torch.zeros_like(p)
    least_on, least_off = p[on].double().mean(), (1 - p[~on]).double().mean()
    is_on, is_off = p >= least_on, 1 - p >= least_off
    return torch.where(on, is_off & ~is_on, is_on & ~is_off).to(p.dtype)


@torch.no_grad()
def corrected_labels(
    single: Tensor,
    mean: Tensor,
    head: Head,
    correction: Literal["uncertainty", "smooth", "hard"],
) -> tuple[Tensor, Tensor]:
    """Soft labels (N, K, H, W), and the share of labels that were found noisy.

    single: the probabilities that labels are cut from. mean: those that may contradict them. The
    sums over all pixels are taken in float64, class by class.
    """
    labels, noise = torch.empty_like(mean), []
    for k in range(mean.shape[1]):
        p = mean[:, k]
        y = (single[:, k] > settled_threshold(single[:, k])).to(p.dtype)
        n = contradicted(y, p)
        amount = {
            "uncertainty": 1 - _binary_entropy(p),
            "smooth": torch.full_like(p, SMOOTH),
            "hard": torch.ones_like(p),
        }[correction]
        labels[:, k] = y + n * (1 - 2 * y) * amount
        noise.append(n.mean())
    if head.exclusive:
        total = labels.sum(dim=1, keepdim=True)
        labels = torch.where(total > 0, labels / total.clamp(min=1e-6), mean)
    return labels, torch.stack(noise).mean()


def _binary_entropy(p: Tensor) -> Tensor:
    """In 0..1, 1 at p = 1/2."""
    return -(torch.special.xlogy(p, p) + torch.special.xlogy(1 - p, 1 - p)) / math.log(2)
