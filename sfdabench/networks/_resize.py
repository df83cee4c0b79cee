"""Bilinear resizing whose gradient is deterministic on CUDA as well."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F


def resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, C, h, w) -> (B, C, *size), bilinear with align_corners=True, same dtype.

    On CUDA as two matrix products: the gradient of the library's kernel adds in no fixed order
    there, and its deterministic substitute is an indexed sum of four times the pixels.
    """
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    if not maps.is_cuda:
        return F.interpolate(maps, size=size, mode="bilinear", align_corners=True)
    rows = _matrix(maps.shape[-2], size[0], maps.device, maps.dtype)
    columns = _matrix(maps.shape[-1], size[1], maps.device, maps.dtype)
    with torch.autocast(maps.device.type, enabled=False):
        return rows @ maps @ columns.T


@lru_cache(maxsize=64)
def _matrix(given: int, wanted: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """(wanted, given): each row holds the weights of the two nearest of the given samples."""
    step = (given - 1) / (wanted - 1) if wanted > 1 else 0.0
    with torch.inference_mode(False):  # the cache outlives the caller's mode
        position = torch.arange(wanted, dtype=torch.float64) * step
        distance = (position[:, None] - torch.arange(given, dtype=torch.float64)).abs()
        return (1 - distance).clamp_(min=0).to(device, dtype)
