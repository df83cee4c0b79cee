"""The modules of `unet_small` and `unet_dual`."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sfdabench.models.resize import resize


class UNet(nn.Module):
    """U-Net with batch norm, strided down and nearest up; `widths` from the first level down."""

    def __init__(self, channels: int, outputs: int, widths: list[int]) -> None:
        super().__init__()
        self.stem = block(channels, widths[0])
        self.down = nn.ModuleList(block(a, b, stride=2) for a, b in pairwise(widths))
        self.up = nn.ModuleList(block(b + a, a) for a, b in reversed([*pairwise(widths)]))
        self.classifier = nn.Conv2d(widths[0], outputs, 1)

    def last_levels(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) -> (B, 2 * width, H/2, W/2), rounded up, and features (B, width, H, W)."""
        maps = below = self.stem(images)
        skips = []
        for block in self.down:
            skips.append(maps)
            maps = block(maps)
        for block, skip in zip(self.up, reversed(skips), strict=True):
            below = maps
            # to the size of the skip, which is not always twice the size: odd images
            maps = F.interpolate(maps, size=skip.shape[-2:], mode="nearest")
            maps = block(torch.cat((maps, skip), dim=1))
        return below, maps

    def penultimate(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> features (B, width, H, W)."""
        return self.last_levels(images)[1]

    def classify(self, features: Tensor, size: tuple[int, int]) -> Tensor:
        """Penultimate features -> logits (B, K, *size); their size is that of the image."""
        return self.classifier(features)

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> logits (B, K, H, W)."""
        return self.classify(self.penultimate(images), (images.shape[-2], images.shape[-1]))


class DualUNet(UNet):
    """With an auxiliary classifier on the level below the last one, enlarged to the image."""

    def __init__(self, channels: int, outputs: int, widths: list[int]) -> None:
        super().__init__(channels, outputs, widths)
        self.auxiliary = nn.Conv2d(widths[1], outputs, 1)

    def heads(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) -> logits of the main and of the auxiliary head, (B, K, H, W) both."""
        size = images.shape[-2], images.shape[-1]
        low, last = self.features(images)
        return self.classify(last, size), self.classify_auxiliary(low, size)

    def features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) -> the two that the auxiliary and the main classifier take."""
        return self.last_levels(images)

    def classify_auxiliary(self, low: Tensor, size: tuple[int, int]) -> Tensor:
        """Features of the level below the last -> logits (B, K, *size), enlarged in float32."""
        return resize(self.auxiliary(low).float(), size)


def block(channels: int, width: int, stride: int = 1) -> nn.Sequential:
    """Two 3 x 3 convolutions with batch norm and ReLU; the stride is the first one's."""
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, stride, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        nn.Conv2d(width, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
    )
