"""The modules of `sifa_encoder`."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sfdabench.models.resize import resize

DEVIATION = 0.01  # code, of the truncated normal that weights start from


class SifaEncoder(nn.Module):
    """SIFA's segmenter: residual blocks down to stride 8, and a classifier on their features.

    A second classifier sits on the features before the dilated blocks. From the code
    (methods-compared.md §11); `width` is 16 there, `dropout` a rate between convolution and norm.
    """

    def __init__(self, channels: int, outputs: int, width: int, dropout: float) -> None:
        super().__init__()
        w, rate = width, dropout
        self.first = nn.Sequential(_unit(channels, w, 7, rate), nn.ReLU(), _Residual(w, w, rate))
        self.second = _Residual(w, 2 * w, rate)
        self.third = nn.Sequential(_Residual(2 * w, 4 * w, rate), _Residual(4 * w, 4 * w, rate))
        self.fourth = nn.Sequential(
            *(_Residual(4 * w, 8 * w, rate), _Residual(8 * w, 8 * w, rate)),
            *(_Residual(8 * w, 16 * w, rate), *(_Residual(16 * w, 16 * w, rate) for _ in range(3))),
            *(_Residual(16 * w, 32 * w, rate), _Residual(32 * w, 32 * w, rate)),
        )
        self.latent = nn.Sequential(
            *(_Residual(32 * w, 32 * w, rate, dilation=2) for _ in range(2)),
            *(_unit(32 * w, 32 * w, 3, rate), nn.ReLU(), _unit(32 * w, 32 * w, 3, rate), nn.ReLU()),
        )
        self.classifier = nn.Conv2d(32 * w, outputs, 1, bias=False)
        self.auxiliary = nn.Conv2d(32 * w, outputs, 1, bias=False)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.trunc_normal_(layer.weight, 0.0, DEVIATION, -2 * DEVIATION, 2 * DEVIATION)

    def features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) -> what the auxiliary and what the main classifier take, at stride 8."""
        maps = images
        for level in (self.first, self.second, self.third):
            maps = F.max_pool2d(level(maps), 2, ceil_mode=True)
        low = self.fourth(maps)
        return low, self.latent(low)

    def penultimate(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> features (B, 32 * width, H/8, W/8), rounded up."""
        return self.features(images)[1]

    def classify(self, features: Tensor, size: tuple[int, int]) -> Tensor:
        """Penultimate features -> logits (B, K, *size), enlarged in float32."""
        return resize(self.classifier(features).float(), size)

    def classify_auxiliary(self, low: Tensor, size: tuple[int, int]) -> Tensor:
        """Features before the dilated blocks -> logits (B, K, *size), enlarged in float32."""
        return resize(self.auxiliary(low).float(), size)

    def heads(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) -> logits of the main and of the auxiliary head, (B, K, H, W) both."""
        size = images.shape[-2], images.shape[-1]
        low, last = self.features(images)
        return self.classify(last, size), self.classify_auxiliary(low, size)

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> logits (B, K, H, W)."""
        return self.classify(self.penultimate(images), (images.shape[-2], images.shape[-1]))


class _Residual(nn.Module):
    """Two convolutions beside a shortcut; where channels grow, it is padded with empty ones.

    Half of the empty channels come before the maps and half behind them.
    """

    def __init__(self, ins: int, outs: int, dropout: float, dilation: int = 1) -> None:
        super().__init__()
        self.missing = outs - ins
        self.layers = nn.Sequential(
            *(_unit(ins, outs, 3, dropout, dilation), nn.ReLU()),
            _unit(outs, outs, 3, dropout, dilation),
        )

    def forward(self, maps: Tensor) -> Tensor:
        before = self.missing // 2
        shortcut = F.pad(maps, (0, 0, 0, 0, before, self.missing - before))
        return torch.relu(self.layers(maps) + shortcut)


def _unit(ins: int, outs: int, side: int, dropout: float, dilation: int = 1) -> nn.Sequential:
    padding = dilation * (side // 2)
    return nn.Sequential(
        nn.Conv2d(ins, outs, side, padding=padding, dilation=dilation, bias=False),
        nn.Dropout(dropout),
        nn.BatchNorm2d(outs, eps=1e-3),
    )
