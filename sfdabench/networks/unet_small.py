"""A small U-Net with batch norm, for phantoms and tests: seconds of training on two cores."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sfdabench.core.errors import BadInput
from sfdabench.core.fields import PositiveInt
from sfdabench.core.network import Network


@dataclass(frozen=True)
class UNetSmall(Network):
    """U-Net (Ronneberger et al., MICCAI 2015, https://arxiv.org/abs/1505.04597), reduced.

    width: channels of the first level, doubled at each of `depth` halvings; 0.12 M parameters.
    Ours: halves by strided convolution and doubles by repetition, both deterministic on CUDA.
    """

    features: ClassVar[frozenset[str]] = frozenset({"batch_norm", "penultimate"})

    width: PositiveInt = 8
    depth: PositiveInt = 3

    def build(self, *, channels: int, outputs: int) -> nn.Module:
        """A module from (B, channels, H, W) to logits (B, outputs, H, W), any H and W."""
        return _UNet(channels, outputs, [self.width * 2**level for level in range(self.depth + 1)])

    def load_backbone(self, module: nn.Module, weights: Path) -> None:
        """Raise BadInput: nobody has published weights for it."""
        raise BadInput(f"backbone weights {weights}: unet_small has no pretrained backbone")


class _UNet(nn.Module):
    def __init__(self, channels: int, outputs: int, widths: list[int]) -> None:
        super().__init__()
        self.stem = _block(channels, widths[0])
        self.down = nn.ModuleList(_block(a, b, stride=2) for a, b in pairwise(widths))
        self.up = nn.ModuleList(_block(b + a, a) for a, b in reversed([*pairwise(widths)]))
        self.classifier = nn.Conv2d(widths[0], outputs, 1)

    def penultimate(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> features (B, width, H, W)."""
        maps = self.stem(images)
        skips = []
        for block in self.down:
            skips.append(maps)
            maps = block(maps)
        for block, skip in zip(self.up, reversed(skips), strict=True):
            # to the size of the skip, which is not always twice the size: odd images
            maps = F.interpolate(maps, size=skip.shape[-2:], mode="nearest")
            maps = block(torch.cat((maps, skip), dim=1))
        return maps

    def classify(self, features: Tensor, size: tuple[int, int]) -> Tensor:
        """Penultimate features -> logits (B, K, *size); their size is that of the image."""
        return self.classifier(features)

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> logits (B, K, H, W)."""
        return self.classify(self.penultimate(images), (images.shape[-2], images.shape[-1]))


def _block(channels: int, width: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, stride, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        nn.Conv2d(width, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
    )
