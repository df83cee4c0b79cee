"""Logits -> hard labels to train on, and the pixels that are sure enough."""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def hard_labels(logits: Tensor, head: str, threshold: float) -> tuple[Tensor, Tensor]:
    """Pseudo labels (B, K, H, W) in {0, 1} and the pixels (B, 1, H, W) to keep.

    Sigmoid head: 1[p > threshold] per channel, every pixel kept (CBMT, equation 1). Softmax head:
    the winning class, kept where its probability is above the threshold.
    """
    if head == "sigmoid":
        labels = (logits.sigmoid() > threshold).float()
        return labels, torch.ones_like(labels[:, :1])
    probability, winner = logits.softmax(dim=1).max(dim=1, keepdim=True)
    labels = torch.zeros_like(logits).scatter_(1, winner, 1.0)
    return labels, (probability > threshold).float()
