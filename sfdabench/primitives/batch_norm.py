"""Batch norm on images the model was not trained on: its statistics, its scale and shift."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sfdabench.core.errors import RunFailed

Trainable = Literal["all", "affine"]


class Moments(NamedTuple):
    """Mean and variance of each channel of a layer, (C,) both."""

    mean: Tensor
    variance: Tensor


def batch_norm_layers(model: nn.Module) -> list[_BatchNorm]:
    """Every batch-norm layer that keeps running statistics."""
    return [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]


def running_moments(layer: _BatchNorm) -> Moments:
    """The layer's own running statistics, not a copy of them."""
    assert layer.running_mean is not None
    assert layer.running_var is not None
    return Moments(layer.running_mean, layer.running_var)


def select_trainable(model: nn.Module, trainable: Trainable) -> list[nn.Parameter]:
    """Freeze all but "all" parameters, or but batch norm's scale and shift; return the others.

    Raises RunFailed for "affine" of a model without batch norm.
    """
    model.requires_grad_(trainable == "all")
    if trainable == "all":
        return list(model.parameters())
    parameters = [p for layer in batch_norm_layers(model) for p in layer.parameters()]
    if not parameters:
        raise RunFailed("trainable=affine: the network has no batch norm; use trainable=all")
    for parameter in parameters:
        parameter.requires_grad_(True)
    return parameters


@torch.no_grad()
def reestimate(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Replace all running statistics by the mean over `batches`, each batch with equal weight.

    Nothing else of the model changes, and dropout stays off.
    """
    layers = batch_norm_layers(model)
    momenta = [layer.momentum for layer in layers]
    model.eval()
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # torch: the cumulative mean
        layer.train()
    for images in batches:
        model(images)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    model.eval()


@contextmanager
def batch_statistics(model: nn.Module) -> Iterator[None]:
    """Within it the batch's statistics normalise, and the running ones neither act nor move.

    The model is in eval mode otherwise, dropout included, and altogether so afterwards.
    """
    layers = batch_norm_layers(model)
    model.eval()
    for layer in layers:
        layer.train()
        layer.track_running_stats = False
    try:
        yield
    finally:
        for layer in layers:
            layer.track_running_stats = True
        model.eval()


@contextmanager
def mixed_statistics(
    layers: Sequence[_BatchNorm], source: Sequence[_BatchNorm], share: float
) -> Iterator[list[Moments]]:
    """Within it layers normalise by (1 - share) * batch + share * the source's running statistics.

    The gradient goes through the batch's part; variances are those of the population (OSUDA,
    equation 3). Yields the moments that each layer used last, detached, the source's until it has
    been called. One value a channel has no variance: the source's statistics serve alone there.
    """
    used = [running_moments(layer) for layer in source]
    for i, layer in enumerate(layers):
        # not a hook, which could only throw away what the layer had computed
        layer.__dict__["forward"] = _mixing(layer, i, used, running_moments(source[i]), share)
    try:
        yield used
    finally:
        for layer in layers:
            del layer.__dict__["forward"]


def _mixing(
    layer: _BatchNorm, position: int, used: list[Moments], source: Moments, share: float
) -> Callable[[Tensor], Tensor]:
    def forward(features: Tensor) -> Tensor:
        mean, variance = source
        values = features.to(mean.dtype)  # statistics of half-precision maps need more
        if values.numel() > values.shape[1]:
            batch = _moments(values)
            mean = torch.lerp(batch.mean, mean, share)
            variance = torch.lerp(batch.variance, variance, share)
        used[position] = Moments(mean.detach(), variance.detach())
        scale = layer.weight * (variance + layer.eps).rsqrt()
        shift = layer.bias - mean * scale
        shape = (1, -1) + (1,) * (features.dim() - 2)
        return torch.addcmul(shift.view(shape), values, scale.view(shape)).to(features.dtype)

    return forward


def _moments(features: Tensor) -> Moments:
    """(B, C, ...) -> mean and population variance of each channel."""
    across = [d for d in range(features.dim()) if d != 1]
    variance, mean = torch.var_mean(features, across, correction=0)
    return Moments(mean, variance)


@torch.no_grad()
def pool_statistics(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Replace all running statistics by mean and variance of all values in all `batches` together.

    One pass: what reaches a layer was normalised by its own batch's statistics in the layers
    before. Unlike `reestimate`, an image counts alike in any batch, and the variance holds how
    far the means of batches lie apart. Images are of one size. Where a batch has one value a
    channel, the layer's statistics as they were stand in for that batch.
    """
    layers = batch_norm_layers(model.eval())
    sums = [[torch.zeros_like(m, dtype=torch.float64) for m in running_moments(x)] for x in layers]
    count = 0
    with mixed_statistics(layers, layers, 0.0) as used:
        for images in batches:
            model(images)
            count += len(images)
            for (first, second), moments in zip(sums, used, strict=True):
                mean, variance = (moment.double() for moment in moments)
                first += len(images) * mean
                second += len(images) * (variance + mean**2)
    for layer, (first, second) in zip(layers, sums, strict=True):
        running = running_moments(layer)
        running.mean.copy_(first / count)
        running.variance.copy_(second / count - (first / count) ** 2)
