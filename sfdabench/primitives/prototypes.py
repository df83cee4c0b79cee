"""Pseudo labels that repeated predictions with dropout agree on, and that fit class prototypes.

From DPL (methods-fundus.md §7, methods-compared.md §4). Maps are (B, K, H, W).
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.dropout import _DropoutNd

from sfdabench.core.head import Head

Statistics = Literal["batch", "running"]


class Spread(NamedTuple):
    """What repeated predictions have in common, and how far they lie apart.

    mean: probabilities (B, K, H, W). deviation: unbiased standard deviation of the probabilities
    at a temperature, that shape. features: the mean of the penultimate ones (B, F, h, w).
    """

    mean: Tensor
    deviation: Tensor
    features: Tensor


@torch.no_grad()
def repeated_predictions(
    model: nn.Module,
    images: Tensor,
    head: Head,
    *,
    passes: int,
    temperature: float,
    statistics: Statistics,
    dropout: float,
) -> Spread:
    """Predict images (B, C, H, W) several times with dropout; needs "penultimate".

    statistics: of batch norm, those of these images or the running ones. The model is left in that
    mode, and its running statistics follow the batches as they do in training.
    dropout: ours, the probability with which a network that has no dropout of its own loses each
        penultimate feature; without it all passes would be equal.
    """
    layers = [m for m in model.modules() if isinstance(m, _DropoutNd)]
    model.train(statistics == "batch")
    for layer in layers:
        layer.train()
    segmenter, size = cast(Any, model), (images.shape[-2], images.shape[-1])
    total = mean = squares = features = torch.zeros(())
    for count in range(1, passes + 1):
        if layers or count == 1:  # else the features are the same in every pass
            seen = segmenter.penultimate(images)
        shown = seen if layers else F.dropout(seen, dropout)
        logits = segmenter.classify(shown, size)
        features = features + (shown - features) / count
        total = total + head.probabilities(logits)
        warm = head.probabilities(logits / temperature)
        gap = warm - mean  # Welford's: sums of squares would cancel
        mean = mean + gap / count
        squares = squares + gap * (warm - mean)
    return Spread(total / passes, (squares / (passes - 1)).sqrt(), features)


@torch.no_grad()
def fits_prototype(
    features: Tensor, label: Tensor, deviation: Tensor, p: Tensor, uncertainty: float
) -> Tensor:
    """Which pixels of a class (B, H, W) lie on the side of their label, as 0 or 1.

    features: (B, F, h, w). label: 0 or 1 (B, H, W). p, deviation: probability and how far repeated
    predictions lie apart, (B, H, W); a pixel is reliable where that is below `uncertainty`, at the
    size of the features.
    Over the whole batch two prototypes are made of reliable pixels, of the class weighted by p and
    of the rest by 1 - p; a pixel belongs to the nearer one. Without a reliable pixel of the class
    none belongs to it.
    """
    size = features.shape[-2:]
    y = F.interpolate(label[:, None].float(), size=size, mode="nearest")
    confidence, apart = (
        F.interpolate(maps[:, None], size=size, mode="bilinear", align_corners=True)
        for maps in (p, deviation)
    )
    r = (apart < uncertainty).float()
    of_class, of_rest = y * r * confidence, (1 - y) * r * (1 - confidence)
    if not of_class.sum() > 0:
        near = torch.zeros_like(y)
    elif not of_rest.sum() > 0:
        near = torch.ones_like(y)
    else:
        distances = [
            (features - _prototype(features, weight)).square().sum(dim=1, keepdim=True)
            for weight in (of_class, of_rest)
        ]
        near = (distances[0] < distances[1]).float()
    near = F.interpolate(near, size=label.shape[-2:], mode="nearest")[:, 0]
    return (near == label.float()).float()


def _prototype(features: Tensor, weight: Tensor) -> Tensor:
    """The weighted mean (1, F, 1, 1) of features (B, F, h, w); weight: (B, 1, h, w)."""
    total = (features * weight).sum(dim=(0, 2, 3), keepdim=True)
    return total / weight.sum()


@torch.no_grad()
def denoised_labels(
    spread: Spread, head: Head, *, threshold: float, uncertainty: float
) -> tuple[Tensor, Tensor]:
    """Labels (B, K, H, W) and which to keep: (B, K, H, W) for sigmoid, (B, 1, H, W) for softmax.

    A label is kept where the deviation is below `uncertainty` and the prototypes agree with it.
    Softmax is ours: the winner must exceed the threshold, its own deviation counts, and every
    class but the background must agree, each against all others.
    """
    p, deviation, features = spread
    if not head.exclusive:
        labels = (p > threshold).float()
        reliable = (deviation < uncertainty).float()
        fits = [
            fits_prototype(features, labels[:, k], deviation[:, k], p[:, k], uncertainty)
            for k in range(p.shape[1])
        ]
        return labels, reliable * torch.stack(fits, dim=1)
    confidence, winner = head.decide(p)
    labels = head.one_hot(winner, p)
    apart = deviation.gather(1, winner)[:, 0]
    keep = (apart < uncertainty).float() * (confidence[:, 0] > threshold).float()
    for k in range(1, p.shape[1]):
        keep = keep * fits_prototype(features, labels[:, k], apart, p[:, k], uncertainty)
    return labels, keep[:, None]
