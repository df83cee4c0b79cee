"""What is known of shapes: the band that a structure's boundary takes, and how to spoil a map.

From BEAL and DAE (methods-compared.md §3 and 7).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


@torch.no_grad()
def boundary_band(masks: Tensor, reach: int, sigma: float) -> Tensor:
    """How near a boundary is: masks (B, K, H, W), 0 or 1 -> (B, 1, H, W) in 0..1.

    Pixels within `reach` of the edge of any class, on either side, by steps along rows and columns;
    then blurred by a Gaussian of `sigma` pixels, reflected at the edges. Outside the image is
    nothing, so a structure that touches its edge has a boundary there.
    """
    outer = _grown(masks, reach)
    rest = F.pad(1 - masks, (reach,) * 4, value=1.0)
    inner = 1 - _grown(rest, reach)[..., reach:-reach, reach:-reach]
    band = (outer * (1 - inner)).amax(dim=1, keepdim=True)
    rows, columns = (_blur(side, sigma).to(masks.device) for side in masks.shape[-2:])
    return (rows @ band.double() @ columns.T).to(masks.dtype)


def jigsaw(masks: Tensor, squares: int, smallest: float, largest: float) -> Tensor:
    """Overwrite squares of each map by what lies elsewhere in it; (B, K, H, W) -> the same shape.

    squares: at most as many an image, at least one. smallest, largest: half of a square's side, as
    shares of the image's shorter one; at least a pixel. Draws come from torch's generator.
    """
    height, width = masks.shape[-2:]
    side, spoilt = min(height, width), masks.clone()
    for image, clean in zip(spoilt, masks, strict=True):
        for _ in range(int(torch.randint(1, squares + 1, ()))):
            share = smallest + (largest - smallest) * float(torch.rand(()))
            edge = min(side, 2 * max(1, round(share * side)))
            (y, x), (v, u) = (
                [int(torch.randint(length - edge + 1, ())) for length in (height, width)]
                for _ in range(2)
            )
            image[:, y : y + edge, x : x + edge] = clean[:, v : v + edge, u : u + edge]
    return spoilt


def soft_dice(p: Tensor, soft: Tensor) -> Tensor:
    """Dice of each image and channel, (B, K), between maps (B, K, H, W) in 0..1; 1 where both are
    empty.
    """
    shared, total = (p * soft).sum(dim=(2, 3)), (p + soft).sum(dim=(2, 3))
    return (2 * shared + 1e-4) / (total + 1e-4)


def _grown(masks: Tensor, steps: int) -> Tensor:
    """Dilated by a cross of 3 pixels, `steps` times."""
    for _ in range(steps):
        tall = F.max_pool2d(masks, (3, 1), 1, (1, 0))
        wide = F.max_pool2d(masks, (1, 3), 1, (0, 1))
        masks = torch.maximum(tall, wide)
    return masks


@lru_cache(maxsize=8)
def _blur(side: int, sigma: float) -> Tensor:
    """The matrix that blurs a line of `side` pixels; the Gaussian ends at 4 sigma."""
    from scipy.ndimage import gaussian_filter1d

    return torch.from_numpy(gaussian_filter1d(np.eye(side), sigma, axis=0))
