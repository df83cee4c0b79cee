"""Discriminators: networks that tell from a map which domain it comes from."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

LEAST = 32  # pixels a side: of a smaller map, five halvings leave nothing


class OutputDiscriminator(nn.Module):
    """Five convolutions of 4 x 4, each halving the map; without any norm.

    From the codes of AdaptSegNet and ADVENT (methods-compared.md §0.3). Weights are those of
    torch's default. A smaller map is padded with zeros, at the bottom and at the right, to LEAST.

    channels: of the maps. width: channels behind the first convolution; each further one but the
    last doubles them.
    """

    def __init__(self, channels: int, width: int = 64) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for ins, outs in pairwise((channels, width, 2 * width, 4 * width, 8 * width)):
            layers += [nn.Conv2d(ins, outs, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(8 * width, 1, 4, stride=2, padding=1))

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, H, W) -> logits (B, 1, H / 32, W / 32), each of one part of the map."""
        height, width = maps.shape[-2:]
        missing = (0, max(0, LEAST - width), 0, max(0, LEAST - height))
        return self.layers(F.pad(maps, missing))
