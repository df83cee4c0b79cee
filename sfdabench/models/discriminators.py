"""Discriminators: networks that tell from a map, or an image, which domain it comes from."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

from sfdabench.core.precision import Lowered

LEAST = 32  # pixels a side: of a smaller map, five halvings leave nothing


class OutputDiscriminator(Lowered):
    """Five convolutions of 4 x 4, each halving the map; without any norm.

    From the codes of AdaptSegNet, ADVENT and BEAL (methods-compared.md §0.3). A smaller map is
    padded with zeros, at the bottom and at the right, to LEAST.

    channels: of the maps. width: channels behind the first convolution; each further one but the
    last doubles them. padding, bias: of the convolutions. normal: weights start from N(0, 0.02) and
    biases from 0, in place of torch's default.
    """

    def __init__(
        self,
        channels: int,
        width: int = 64,
        *,
        padding: int = 1,
        bias: bool = True,
        normal: bool = False,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for ins, outs in pairwise((channels, width, 2 * width, 4 * width, 8 * width, 1)):
            layers += [nn.Conv2d(ins, outs, 4, 2, padding, bias=bias), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers[:-1])
        if normal:
            start_normal(self)

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, H, W) -> logits (B, 1, h, w), each of one part of the map; h is some H / 32."""
        return self.run(self.layers, _at_least(maps))


class PatchDiscriminator(Lowered):
    """Judges overlapping patches of 70 x 70 pixels, as pix2pix and CycleGAN do.

    Five convolutions of 4 x 4, the first three of stride 2, with instance norm behind the inner
    ones; weights start from N(0, 0.02), biases from 0 (methods-compared.md §0.3). A smaller image
    is padded with zeros to LEAST.

    channels: of the images. outputs: verdicts a patch; SIFA asks two questions of one network.
    width: channels behind the first convolution. padding: 1 in CycleGAN, 2 in SynSeg-Net and SIFA.
    affine: instance norm has a scale and a shift, and the convolutions no bias, as in SIFA.
    """

    def __init__(
        self,
        channels: int,
        width: int = 64,
        *,
        outputs: int = 1,
        padding: int = 1,
        affine: bool = False,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [
            nn.Conv2d(channels, width, 4, 2, padding, bias=not affine),
            nn.LeakyReLU(0.2),
        ]
        for factor, stride in ((1, 2), (2, 2), (4, 1)):
            ins, outs = factor * width, 2 * factor * width
            layers += [
                nn.Conv2d(ins, outs, 4, stride, padding, bias=not affine),
                nn.InstanceNorm2d(outs, eps=1e-6 if affine else 1e-5, affine=affine),
                nn.LeakyReLU(0.2),
            ]
        layers.append(nn.Conv2d(8 * width, outputs, 4, 1, padding, bias=not affine))
        self.layers = nn.Sequential(*layers)
        start_normal(self)

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> logits (B, outputs, h, w), each of one patch; h is some H / 8."""
        return self.run(self.layers, _at_least(images))


class PixelDiscriminator(Lowered):
    """Judges each pixel of a map by itself, as CyCADA does: three convolutions of 1 x 1.

    channels: of the maps. width: channels behind the first convolution, half of it behind the
    second. outputs: verdicts a pixel.
    """

    def __init__(self, channels: int, width: int = 512, *, outputs: int = 2) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Conv2d(channels, width, 1), nn.Dropout2d(0.5), nn.ReLU()),  # code: this order
            *(nn.Conv2d(width, width // 2, 1), nn.Dropout2d(0.5), nn.ReLU()),
            nn.Conv2d(width // 2, outputs, 1),
        )

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, H, W) -> logits (B, outputs, H, W)."""
        return self.run(self.layers, maps)


def start_normal(module: nn.Module, deviation: float = 0.02) -> None:
    """Draw the weights of all convolutions from N(0, deviation) and set their biases to 0."""
    for layer in module.modules():
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.normal_(layer.weight, 0.0, deviation)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def _at_least(maps: Tensor) -> Tensor:
    height, width = maps.shape[-2:]
    return F.pad(maps, (0, max(0, LEAST - width), 0, max(0, LEAST - height)))
