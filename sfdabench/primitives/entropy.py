"""Entropy of a prediction, as a loss without labels, and TENT's step with it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from sfdabench.core.head import Head
from sfdabench.primitives.batch_norm import batch_statistics
from sfdabench.primitives.losses import segmentation_loss
from sfdabench.primitives.pseudo_labels import hard_labels


def mean_entropy(logits: Tensor, head: Head, *, balanced: bool = False) -> Tensor:
    """Mean Shannon entropy in nats, of each channel's two outcomes (sigmoid) or of the classes.

    logits: (B, K, H, W). Entropy is the cross-entropy of a prediction with itself. Both sides of
    a sigmoid count: -p log p alone falls towards p = 0 from 1/e on, and erases small structures.
    balanced: every class that is predicted counts alike, not every pixel.
    """
    weight = _class_balance(logits, head) if balanced else None
    return segmentation_loss(logits, head.probabilities(logits), head, weight)


@torch.no_grad()
def _class_balance(logits: Tensor, head: Head) -> Tensor:
    """One over the share of the batch that a pixel's predicted class takes.

    (B, 1, H, W) for softmax; for sigmoid (B, K, H, W), each channel with the classes on and off.
    """
    labels, _ = hard_labels(logits, head, 0.5)
    share = labels.mean(dim=(0, 2, 3), keepdim=True)
    if head.exclusive:
        return torch.where(labels > 0, 1 / share, 0.0).sum(dim=1, keepdim=True)
    return torch.where(labels > 0, 1 / share, 1 / (1 - share))


def tent_step(
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    images: Tensor,
    head: Head,
    log: Callable[..., None],
) -> Tensor:
    """One update by entropy under batch statistics, dropout off; returns the logits before it.

    images: (B, C, H, W). log: called with the loss before the backward pass. Dropout is ours: the
    reference code has train mode, and networks without any.
    """
    with batch_statistics(model):
        logits = model(images)
    loss = mean_entropy(logits, head)
    log(loss=loss)
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    return logits.detach()
