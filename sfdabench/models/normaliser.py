"""The image normaliser of DAE (Karani et al., MedIA 2021), methods-compared.md §7."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sfdabench.models.part import Part


class Normaliser(Part):
    """A shallow residual network on images, as they are at first: its last convolution is zero.

    Three convolutions, each of the first two followed by exp(-x^2 / s^2) with a scale s of each
    channel; their output is added to the images (B, channels, H, W). Starting as the identity is
    ours: the paper trains it together with the segmenter on the source.

    width: channels inside. kernel: side of the filters, odd, so that the size is kept.
    Raises ValueError for an even kernel.
    """

    def __init__(self, channels: int, width: int = 16, kernel: int = 3) -> None:
        super().__init__()
        if kernel % 2 == 0:
            raise ValueError(f"kernel={kernel}: an even side moves the image; give an odd one")
        last = nn.Conv2d(width, channels, kernel, padding=kernel // 2)
        nn.init.zeros_(last.weight)
        assert last.bias is not None
        nn.init.zeros_(last.bias)
        self.layers = nn.Sequential(
            nn.Conv2d(channels, width, kernel, padding=kernel // 2),
            _Bell(width),
            nn.Conv2d(width, width, kernel, padding=kernel // 2),
            _Bell(width),
            last,
        )

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape, in the range of the images."""
        return images + self.layers(images)


class _Bell(nn.Module):
    """exp(-x^2 / s^2), each channel with a scale s of its own that is trained."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.empty(channels).normal_(0.2, 0.05).abs_())  # code

    def forward(self, maps: Tensor) -> Tensor:
        spread = self.scale.square().view(1, -1, 1, 1) + 1e-6
        return torch.exp(-maps.square() / spread)
