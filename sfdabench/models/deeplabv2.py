"""The modules of `deeplabv2_resnet101`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sfdabench.models.resize import resize

EXPANSION = 4  # of the last convolution of a block
RATES = (6, 12, 18, 24)  # paper (DeepLabV2)


class DeepLabV2(nn.Module):
    """Main head on the fourth stage, auxiliary head on the third; logits enlarged to the image."""

    def __init__(
        self, channels: int, outputs: int, layers: tuple[int, int, int, int], width: int
    ) -> None:
        super().__init__()
        self.backbone = _ResNet(channels, layers, width)
        self.auxiliary = _Head(4 * width * EXPANSION, outputs)
        self.classifier = _Head(8 * width * EXPANSION, outputs)

    def heads(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) -> logits of the main and of the auxiliary head, (B, K, H, W) both."""
        size = images.shape[-2], images.shape[-1]
        third, fourth = self.features(images)
        return self.classify(fourth, size), self.classify_auxiliary(third, size)

    def features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) -> features of the third stage, for the auxiliary head, and of the fourth.

        (B, 16 * width, H/8, W/8), rounded up, and twice as wide.
        """
        return self.backbone(images)

    def classify_auxiliary(self, low: Tensor, size: tuple[int, int]) -> Tensor:
        """Features of the third stage -> logits (B, K, *size), enlarged in float32."""
        return resize(self.auxiliary(low).float(), size)

    def penultimate(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> features of the fourth stage (B, 32 * width, H/8, W/8), rounded up."""
        return self.backbone(images)[1]

    def classify(self, features: Tensor, size: tuple[int, int]) -> Tensor:
        """Penultimate features -> logits (B, K, *size), enlarged in float32."""
        return resize(self.classifier(features).float(), size)

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> logits (B, K, H, W) of the main head."""
        return self.classify(self.penultimate(images), (images.shape[-2], images.shape[-1]))


class _Head(nn.Module):
    """The sum of four dilated 3x3 convolutions: all four, which not every released code adds."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        branches = [nn.Conv2d(channels, outputs, 3, padding=rate, dilation=rate) for rate in RATES]
        for branch in branches:
            nn.init.normal_(branch.weight, std=0.01)  # code
        self.branches = nn.ModuleList(branches)

    def forward(self, maps: Tensor) -> Tensor:
        return torch.stack([branch(maps) for branch in self.branches]).sum(dim=0)


class _ResNet(nn.Module):
    """torchvision's parameter names and initialisation, without the classifier.

    The last two stages keep stride 8 and are dilated instead, as torchvision does for
    replace_stride_with_dilation=(False, True, True): the first block of a stage still has the
    dilation of the stage before it, so that its weights see what they saw with the stride.
    """

    def __init__(self, channels: int, layers: tuple[int, int, int, int], width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = _stage(width, width, layers[0])
        self.layer2 = _stage(4 * width, 2 * width, layers[1], stride=2)
        self.layer3 = _stage(8 * width, 4 * width, layers[2], dilations=(1, 2))
        self.layer4 = _stage(16 * width, 8 * width, layers[3], dilations=(2, 4))
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) -> third (B, 16 * width, H/8, W/8) and fourth stage, twice as wide."""
        maps = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        third = self.layer3(self.layer2(self.layer1(maps)))
        return third, self.layer4(third)


class _Bottleneck(nn.Module):
    """1x1, 3x3 with the stride and the dilation, 1x1; batch norm after each."""

    def __init__(self, channels: int, width: int, stride: int, dilation: int) -> None:
        super().__init__()
        wide = width * EXPANSION
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(
            width, width, 3, stride, padding=dilation, dilation=dilation, bias=False
        )
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, wide, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(wide)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module = nn.Identity()
        if stride > 1 or channels != wide:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels, wide, 1, stride, bias=False), nn.BatchNorm2d(wide)
            )

    def forward(self, maps: Tensor) -> Tensor:
        new = self.relu(self.bn1(self.conv1(maps)))
        new = self.relu(self.bn2(self.conv2(new)))
        return self.relu(self.bn3(self.conv3(new)) + self.downsample(maps))


def _stage(
    channels: int, width: int, blocks: int, stride: int = 1, dilations: tuple[int, int] = (1, 1)
) -> nn.Sequential:
    """`dilations`: of the first block and of the others."""
    first, other = dilations
    rest = (_Bottleneck(width * EXPANSION, width, 1, other) for _ in range(blocks - 1))
    return nn.Sequential(_Bottleneck(channels, width, stride, first), *rest)
