"""Translators: networks that draw an image of one domain as if it came from the other."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sfdabench.core.precision import Lowered
from sfdabench.models.discriminators import start_normal
from sfdabench.models.part import Part

Range = Sequence[Sequence[float]]  # the low ends and the high ends, one of each a channel


class ResnetGenerator(Lowered):
    """CycleGAN's generator: two halvings, residual blocks, two doublings, tanh at the end.

    Images (B, channels, H, W) and the result lie in -1..1. Instance norm and ReLU behind every
    convolution but the last; weights start from N(0, 0.02), biases from 0 (methods-compared.md
    §0.3). An image whose sides are no multiple of 4 is enlarged by its edge and cut again.

    width: channels behind the first convolution. blocks: how many residual ones.
    skip: SIFA's, tanh(network(x) + x), so that it starts near the identity.
    sifa: the rest of SIFA's generator: zeros along the edges, instance norm with scale and shift,
        and a ReLU behind the sum of a block.
    """

    def __init__(
        self,
        channels: int,
        width: int = 64,
        blocks: int = 9,
        *,
        skip: bool = False,
        sifa: bool = False,
    ) -> None:
        super().__init__()
        self.skip = skip
        reflect = not sifa

        norm = partial(_norm_relu, sifa=sifa)
        self.layers = nn.Sequential(
            *(_Convolution(channels, width, 7, reflect), *norm(width)),
            *(nn.Conv2d(width, 2 * width, 3, 2, 1), *norm(2 * width)),
            *(nn.Conv2d(2 * width, 4 * width, 3, 2, 1), *norm(4 * width)),
            *(
                _Residual(
                    nn.Sequential(
                        *(_Convolution(4 * width, 4 * width, 3, reflect), *norm(4 * width)),
                        *(_Convolution(4 * width, 4 * width, 3, reflect), norm(4 * width)[0]),
                    ),
                    rectified=sifa,
                )
                for _ in range(blocks)
            ),
            *(nn.ConvTranspose2d(4 * width, 2 * width, 3, 2, 1, 1), *norm(2 * width)),
            *(nn.ConvTranspose2d(2 * width, width, 3, 2, 1, 1), *norm(width)),
            _Convolution(width, channels, 7, reflect),
        )
        start_normal(self)

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        height, width = images.shape[-2:]
        enlarged = _repeat_edge(_repeat_edge(images, -height % 4, 2), -width % 4, 3)
        drawn = self.run(self.layers, enlarged)[..., :height, :width]
        return torch.tanh(drawn + images if self.skip else drawn)


class UnitRange(nn.Module):
    """Maps each channel linearly so that its range is -1..1, and back; outside it is cut off.

    Raises ValueError for a channel whose range is empty.
    """

    low: Tensor
    high: Tensor

    def __init__(self, limits: Range) -> None:
        super().__init__()
        low, high = (torch.tensor(ends, dtype=torch.float32).view(1, -1, 1, 1) for ends in limits)
        if not (high > low).all():
            raise ValueError(f"an image range from {list(limits[0])} to {list(limits[1])} is empty")
        self.register_buffer("low", low)
        self.register_buffer("high", high)

    def to_unit(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape, in -1..1."""
        return (2 * (images - self.low) / (self.high - self.low) - 1).clamp(-1, 1)

    def from_unit(self, images: Tensor) -> Tensor:
        """(B, C, H, W) in -1..1 -> the same shape, in the range."""
        return (images + 1) / 2 * (self.high - self.low) + self.low


class Translator(Part):
    """Images of one domain, in its own range -> the like of the other domain's, in that range.

    Standardised volumes have no bounds, and a tanh cannot draw beyond -1..1; so each domain has a
    range of its own.

    given, wanted: range of the images that come in, and of those that come out: the low ends and
        the high ends, one of each a channel.
    width, blocks, skip, sifa: of `ResnetGenerator`.
    """

    def __init__(
        self,
        given: Range,
        wanted: Range,
        *,
        width: int = 64,
        blocks: int = 9,
        skip: bool = False,
        sifa: bool = False,
    ) -> None:
        super().__init__()
        self.given, self.wanted = UnitRange(given), UnitRange(wanted)
        self.generator = ResnetGenerator(len(given[0]), width, blocks, skip=skip, sifa=sifa)

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        return self.wanted.from_unit(self.generator(self.given.to_unit(images)))


class ImageDecoder(Lowered):
    """SIFA's decoder: features of the segmenter's encoder and the image -> the other domain's like.

    Result and image lie in -1..1: tanh(image + decoded), with instance norm and ReLU behind every
    convolution but the last (methods-compared.md §11). Weights start from N(0, 0.02), those of the
    blocks from N(0, 0.01).

    features: channels of the encoder's maps. channels: of the image. stride: how many times smaller
        the maps are: 1, 2, 4 or 8, one doubling for each power of two.
    width: channels inside; 128 in the code. dropout: inside the residual blocks; ours is that it
        acts in training only.
    """

    def __init__(
        self, features: int, channels: int, stride: int, width: int = 128, dropout: float = 0.25
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(features, width, 3, 1, 1), *_norm_relu(width)]
        for _ in range(4):
            block = nn.Sequential(
                *(nn.Conv2d(width, width, 3, 1, 1), nn.Dropout(dropout), *_norm_relu(width)),
                *(nn.Conv2d(width, width, 3, 1, 1), nn.Dropout(dropout), _norm_relu(width)[0]),
            )
            layers.append(_Residual(block, rectified=True))
        ins = width
        for outs in [max(1, width // factor) for factor in (2, 2, 4)][: stride.bit_length() - 1]:
            layers += [nn.ConvTranspose2d(ins, outs, 3, 2, 1, 1), *_norm_relu(outs)]
            ins = outs
        self.layers = nn.Sequential(*layers, nn.Conv2d(ins, channels, 7, 1, 3))
        start_normal(self)
        for layer in layers:
            if isinstance(layer, _Residual):
                start_normal(layer, 0.01)

    def forward(self, features: Tensor, images: Tensor) -> Tensor:
        """Features (B, F, h, w) and images (B, C, H, W) -> (B, C, H, W)."""
        decoded = self.run(self.layers, features)
        height, width = images.shape[-2:]
        missing = (max(0, height - decoded.shape[-2]), max(0, width - decoded.shape[-1]))
        enlarged = _repeat_edge(_repeat_edge(decoded, missing[0], 2), missing[1], 3)
        return torch.tanh(images + enlarged[..., :height, :width])


class _Residual(nn.Module):
    """Adds what its layers make of the maps to the maps. rectified: a ReLU follows the sum."""

    def __init__(self, layers: nn.Module, *, rectified: bool) -> None:
        super().__init__()
        self.layers, self.rectified = layers, rectified

    def forward(self, maps: Tensor) -> Tensor:
        total = maps + self.layers(maps)
        return F.relu(total) if self.rectified else total


class _Convolution(nn.Conv2d):
    """A convolution that keeps the size, its input continued by its mirror image or by zeros."""

    def __init__(self, ins: int, outs: int, side: int, reflect: bool) -> None:
        super().__init__(ins, outs, side, padding=0 if reflect else side // 2)
        self.margin = side // 2 if reflect else 0

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(reflected(input, self.margin) if self.margin else input)


def reflected(maps: Tensor, margin: int) -> Tensor:
    """Continue (B, C, H, W) by its mirror image on all four sides, without repeating the edge.

    By copies on CUDA: the gradient of the library's padding adds in no fixed order there.
    """
    if not maps.is_cuda:
        return F.pad(maps, (margin,) * 4, mode="reflect")
    for dim in (2, 3):
        size = maps.shape[dim]
        before = maps.narrow(dim, 1, margin).flip(dim)
        after = maps.narrow(dim, size - 1 - margin, margin).flip(dim)
        maps = torch.cat((before, maps, after), dim)
    return maps


def _repeat_edge(maps: Tensor, count: int, dim: int) -> Tensor:
    """Repeat the last row (dim 2) or column (dim 3) `count` times."""
    if not count:
        return maps
    last = maps.narrow(dim, maps.shape[dim] - 1, 1)
    return torch.cat((maps, *(last,) * count), dim)


def _norm_relu(width: int, *, sifa: bool = True) -> list[nn.Module]:
    eps = 1e-6 if sifa else 1e-5
    return [nn.InstanceNorm2d(width, eps=eps, affine=sifa), nn.ReLU(inplace=True)]
