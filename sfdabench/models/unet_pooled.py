"""The modules of `unet_bn` and `unet_gn`: max-pooled down, skips concatenated on the way up."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class PooledUNet(nn.Module):
    """Blocks of convolutions, put together into a U-Net for images of any size.

    down: a block a level, the last one the bottom. enlarge, up: from the bottom up, what doubles
    the size, and the block after the concatenation with the skip.
    """

    def __init__(
        self,
        down: Iterable[nn.Module],
        enlarge: Iterable[nn.Module],
        up: Iterable[nn.Module],
        classifier: nn.Module,
    ) -> None:
        super().__init__()
        self.down = nn.ModuleList(down)
        self.enlarge = nn.ModuleList(enlarge)
        self.up = nn.ModuleList(up)
        self.classifier = classifier

    def penultimate(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> features (B, width, H, W)."""
        *levels, bottom = self.down
        maps, skips = images, []
        for block in levels:
            skips.append(block(maps))
            # rounded up: the doubled maps lie over the skip, and are cut where the side is odd
            maps = F.max_pool2d(skips[-1], 2, ceil_mode=True)
        maps = bottom(maps)
        for enlarge, block, skip in zip(self.enlarge, self.up, reversed(skips), strict=True):
            maps = enlarge(maps)[..., : skip.shape[-2], : skip.shape[-1]]
            maps = block(torch.cat((maps, skip), dim=1))
        return maps

    def classify(self, features: Tensor, size: tuple[int, int]) -> Tensor:
        """Penultimate features -> logits (B, K, *size); their size is that of the image."""
        return self.classifier(features)

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> logits (B, K, H, W)."""
        return self.classify(self.penultimate(images), (images.shape[-2], images.shape[-1]))


def batch_norm_unet(channels: int, outputs: int, width: int, depth: int) -> PooledUNet:
    """Widths doubled at each level, enlarged by transposed convolution as in the U-Net paper.

    That is deterministic on CUDA: kernel and stride are both 2, so no two taps meet in one
    pixel, which spares the checkerboard as well.
    """

    def layers(given: int, wanted: int) -> tuple[nn.Module, ...]:
        convolution = nn.Conv2d(given, wanted, 3, padding=1, bias=False)
        return convolution, nn.BatchNorm2d(wanted), nn.ReLU(inplace=True)

    widths = [width * 2**level for level in range(depth + 1)]
    steps = [*pairwise(widths)][::-1]
    return PooledUNet(
        down=(_twice(layers, *pair) for pair in pairwise((channels, *widths))),
        enlarge=(nn.ConvTranspose2d(wide, narrow, 2, stride=2) for narrow, wide in steps),
        up=(_twice(layers, 2 * narrow, narrow) for narrow, _ in steps),
        classifier=nn.Conv2d(width, outputs, 1),
    )


def group_norm_unet(
    channels: int, outputs: int, width: int, groups: int, dropout: float
) -> PooledUNet:
    """Two halvings to 4 * width channels and a third at that width; enlarged bilinearly."""

    def layers(given: int, wanted: int) -> tuple[nn.Module, ...]:
        convolution = nn.Conv2d(given, wanted, 3, padding=1)
        norm = nn.GroupNorm(groups, wanted)
        return convolution, nn.ReLU(inplace=True), norm, nn.Dropout2d(dropout)  # code: this order

    widths = [width, 2 * width, 4 * width, 4 * width]
    steps = [*pairwise(widths)][::-1]
    return PooledUNet(
        down=(_twice(layers, *pair) for pair in pairwise((channels, *widths))),
        enlarge=(_Double() for _ in steps),
        up=(_twice(layers, wide + narrow, narrow) for narrow, wide in steps),
        classifier=nn.Conv2d(width, outputs, 3, padding=1),
    )


def _twice(
    layers: Callable[[int, int], tuple[nn.Module, ...]], given: int, wanted: int
) -> nn.Sequential:
    return nn.Sequential(*layers(given, wanted), *layers(wanted, wanted))


class _Double(nn.Module):
    """Bilinear, twice the size, align_corners=False: 3/4 of the nearest, 1/4 of the next.

    Written out, because the gradient of the library's kernel has no fixed order on CUDA.
    """

    def forward(self, maps: Tensor) -> Tensor:
        return _double(_double(maps, 2), 3)


def _double(maps: Tensor, dim: int) -> Tensor:
    last = maps.shape[dim] - 1
    before = torch.cat((maps.narrow(dim, 0, 1), maps.narrow(dim, 0, last)), dim)
    after = torch.cat((maps.narrow(dim, 1, last), maps.narrow(dim, last, 1)), dim)
    pairs = (torch.lerp(maps, before, 0.25), torch.lerp(maps, after, 0.25))
    return torch.stack(pairs, dim + 1).flatten(dim, dim + 1)
