"""Predictions -> hard labels to train on, and the pixels that are sure enough."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from sfdabench.core.head import Head

IGNORE = 255  # in a label map: no class, not trained on


@torch.no_grad()
def hard_labels(logits: Tensor, head: Head, threshold: float) -> tuple[Tensor, Tensor]:
    """Pseudo labels (B, K, H, W) in {0, 1} and the pixels (B, 1, H, W) to keep.

    Sigmoid head: 1[p > threshold] per channel, every pixel kept (CBMT, equation 1). Softmax head:
    the winning class, kept where its probability is above the threshold.
    """
    probability = head.probabilities(logits)
    if head.exclusive:
        sureness, winner = head.decide(probability)
        return head.one_hot(winner, logits), (sureness > threshold).float()
    labels = head.masks(probability, threshold).float()
    return labels, torch.ones_like(labels[:, :1])


@torch.no_grad()
def mean_over_views(
    logits_of: Callable[[Tensor], Tensor],
    images: Tensor,
    head: Head,
    *,
    flip: bool = False,
    scales: Sequence[float] = (1.0,),
) -> Tensor:
    """Images (B, C, H, W) -> probabilities (B, K, H, W), the mean over views of the images.

    logits_of: a model, or what combines its heads. flip: each view mirrored left to right too.
    scales: of the views' sides; the logits of each are brought back to (H, W).
    """
    size, total = images.shape[-2:], []
    for scale in scales:
        sides = [max(1, round(scale * side)) for side in size]
        view = images if scale == 1 else _resized(images, sides)
        views = [view, view.flip(-1)] if flip else [view]
        for mirrored, shown in enumerate(views):
            maps = head.probabilities(_resized(logits_of(shown), size))
            total.append(maps.flip(-1) if mirrored else maps)
    return torch.stack(total).mean(dim=0)


def _resized(maps: Tensor, size: Sequence[int]) -> Tensor:
    if maps.shape[-2:] == tuple(size):
        return maps
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=True)


def sure_labels(probability: Tensor, head: Head, threshold: float) -> Tensor:
    """Probabilities (B, K, H, W) -> uint8 label maps, IGNORE where none reaches the threshold.

    Softmax head: the winning class (B, 1, H, W). Sigmoid head: 0 or 1 in each channel
    (B, K, H, W), sure where the likelier of the two reaches the threshold.
    """
    sureness, labels = head.decide(probability)
    return labels.to(torch.uint8).masked_fill_(sureness < threshold, IGNORE)


def training_target(labels: Tensor, logits: Tensor, head: Head) -> tuple[Tensor, Tensor]:
    """Label maps of `sure_labels` -> target in {0, 1}, as `logits`, and what of it to keep.

    The latter is 0 or 1, (B, 1, H, W) under a softmax head, (B, K, H, W) under a sigmoid head.
    """
    keep = labels != IGNORE
    known = labels.masked_fill(~keep, 0)
    return head.one_hot(known, logits), keep.float()


def class_thresholds(confidences: Sequence[Tensor], portion: float) -> Tensor:
    """For each class, the confidence that the surest `portion` of its pixels reach (CBST).

    confidences: for each class the probabilities (n_c,) of pixels that it wins. The value of rank
    floor(n_c * portion) from above, 1 where that rank is 0. Returns (C,).
    """
    thresholds = []
    for values in confidences:
        rank = int(len(values) * portion)
        # sorted, because CUDA has no deterministic `kthvalue`
        highest = values.sort(descending=True).values
        thresholds.append(highest[rank - 1] if rank else values.new_ones(()))
    return torch.stack(thresholds)


def class_balanced_labels(probability: Tensor, thresholds: Tensor) -> Tensor:
    """Probabilities (B, C, H, W) -> uint8 (B, 1, H, W): argmax of p_c / t_c (CBST).

    IGNORE where no class reaches its threshold.
    """
    relative, winner = (probability / thresholds.view(1, -1, 1, 1)).max(dim=1, keepdim=True)
    return winner.to(torch.uint8).masked_fill_(relative < 1, IGNORE)
