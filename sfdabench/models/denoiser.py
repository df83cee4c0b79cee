"""The denoiser of label maps of DAE (Karani et al., MedIA 2021), methods-compared.md §7."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sfdabench.models.part import Part
from sfdabench.models.unet import block


class Denoiser(Part):
    """A U-Net from maps of the classes to logits of clean ones.

    Strided down and nearest up, with skips on all levels but the finest, so that noise is not
    copied through; the paper's is the same in 3D.

    outputs: K, channels of the maps. width: channels of the first level, doubled at each of `depth`
    halvings.
    """

    def __init__(self, outputs: int, width: int = 32, depth: int = 3) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(depth + 1)]
        self.stem = block(outputs, width)
        self.down = nn.ModuleList(block(a, b, stride=2) for a, b in pairwise(widths))
        self.up = nn.ModuleList(
            block(wide + (narrow if level else 0), narrow)
            for level, (narrow, wide) in reversed([*enumerate(pairwise(widths))])
        )
        self.last = nn.Conv2d(width, outputs, 1)

    def forward(self, maps: Tensor) -> Tensor:
        """(B, K, H, W) in 0..1 -> logits of that shape."""
        skips, seen = [maps], self.stem(maps)
        for layers in self.down:
            skips.append(seen)
            seen = layers(seen)
        for layers, skip in zip(self.up, reversed(skips), strict=False):
            seen = F.interpolate(seen, size=skip.shape[-2:], mode="nearest")
            seen = layers(seen if skip is skips[1] else torch.cat((seen, skip), dim=1))
        return self.last(seen)
