"""The modules of `deeplabv3plus_mobilenetv2`; `# code` is the reference named there."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sfdabench.models import winograd as _winograd
from sfdabench.models.resize import convolve_resized, resize

# expansion, channels, repetitions, stride, dilation. Code: the stage of 160 has stride 1 instead
# of 2, and only the stage after it is dilated.
STAGES = (
    (1, 16, 1, 1, 1),
    (6, 24, 2, 2, 1),
    (6, 32, 3, 2, 1),
    (6, 64, 4, 2, 1),
    (6, 96, 3, 1, 1),
    (6, 160, 3, 1, 1),
    (6, 320, 1, 1, 2),
)
LOW_LEVEL = 3  # index in `features` of the last block with 24 channels, at stride 4


class DeepLabV3Plus(nn.Module):
    """DeepLabV3+ with the decoder of CBMT; `dropout` are the three rates.

    channels_last: on CPUs without AVX-512 the library's gradient of a 3x3 convolution's weights
    is four times slower in that layout, measured with torch 2.13 on AVX2.
    """

    channels_last = torch.backends.cpu.get_cpu_capability() == "AVX512"

    def __init__(self, channels: int, outputs: int, dropout: tuple[float, float, float]) -> None:
        super().__init__()
        self.backbone = _MobileNetV2(channels)
        self.pyramid = _Pyramid(320, 256, dropout[0])
        self.low_level = _conv_norm_relu(24, 48, 1)
        self.decoder = nn.Sequential(
            nn.Sequential(_Merge(256, 48, 256), nn.BatchNorm2d(256), nn.ReLU(inplace=True)),
            _Dropout(dropout[1]),
            nn.Sequential(_Convolution(256, 256), nn.BatchNorm2d(256), nn.ReLU(inplace=True)),
        )
        self.classifier = nn.Sequential(_Dropout(dropout[2]), nn.Conv2d(256, outputs, 1))
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight)

    def penultimate(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> features (B, 256, H/4, W/4), before the last dropout."""
        low, high = self.backbone(images)
        return self.decoder((self.pyramid(high), self.low_level(low)))

    def classify(self, features: Tensor, size: tuple[int, int]) -> Tensor:
        """Penultimate features -> logits (B, K, *size), enlarged in float32."""
        return resize(self.classifier(features).float(), size)

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> logits (B, K, H, W)."""
        return self.classify(self.penultimate(images), (images.shape[-2], images.shape[-1]))


class _MobileNetV2(nn.Module):
    """torchvision's parameter names, without the classifier and the layer of 1280 before it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [_conv_norm_relu6(channels, 32, 3, stride=2, padding=1)]
        width = 32
        for expansion, wider, repetitions, stride, dilation in STAGES:
            for repetition in range(repetitions):
                first = stride if repetition == 0 else 1
                layers.append(_InvertedResidual(width, wider, expansion, first, dilation))
                width = wider
        self.features = nn.Sequential(*layers)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) -> 24 channels at stride 4, and 320 at stride 16."""
        low = self.features[: LOW_LEVEL + 1](images)
        return low, self.features[LOW_LEVEL + 1 :](low)


class _InvertedResidual(nn.Module):
    """Expand, filter each channel, project.

    Code: the input is padded before it is expanded (torchvision pads inside the depthwise
    convolution). The padding then takes part in the batch statistics of the expansion and is
    no longer zero when it is filtered; the same weights give other values along the border.
    """

    def __init__(
        self, channels: int, width: int, expansion: int, stride: int, dilation: int
    ) -> None:
        super().__init__()
        hidden = channels * expansion
        self.padding = (dilation,) * 4
        self.residual = stride == 1 and channels == width
        expand = [_conv_norm_relu6(channels, hidden, 1)] if expansion > 1 else []
        self.conv = nn.Sequential(
            *expand,
            _conv_norm_relu6(hidden, hidden, 3, stride=stride, dilation=dilation, groups=hidden),
            nn.Conv2d(hidden, width, 1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, maps: Tensor) -> Tensor:
        new = self.conv(F.pad(maps, self.padding))
        return maps + new if self.residual else new


class _Pyramid(nn.Module):
    """Atrous spatial pyramid pooling: 1x1, three dilated 3x3, and the mean of the image."""

    def __init__(self, channels: int, width: int, dropout: float) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            [_conv_norm_relu(channels, width, 1)]
            + [_conv_norm_relu(channels, width, 3, dilation) for dilation in (6, 12, 18)]
        )
        self.pooled = nn.Sequential(
            nn.Conv2d(channels, width, 1, bias=False),
            _PooledBatchNorm2d(width),
            nn.ReLU(inplace=True),
        )
        self.project = nn.Sequential(_conv_norm_relu(5 * width, width, 1), _Dropout(dropout))

    def forward(self, maps: Tensor) -> Tensor:
        # mean, not adaptive pooling: the gradient of that has no fixed order on CUDA
        pooled = self.pooled(maps.mean(dim=(2, 3), keepdim=True))
        branches = [branch(maps) for branch in self.branches]
        return self.project(torch.cat((*branches, pooled.expand_as(branches[0])), dim=1))


class _Dropout(nn.Dropout):
    """nn.Dropout that draws 16 random bits a value on the CPU, where torch draws a double.

    The library draws serially there (on other CPUs than Intel's), a tenth of a training step; the
    rate is met to within 2 ** -17, and the mask does not depend on the memory layout.
    """

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or self.p in (0, 1) or input.is_cuda:
            return super().forward(input)
        words = torch.empty(-(-input.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
        bits = words.view(torch.int16)[: input.numel()].view(input.shape)
        keep = (bits >= round(self.p * 2**16) - 2**15).to(input.dtype)
        return input * keep.mul_(1 / (1 - self.p))


class _Convolution(nn.Conv2d):
    """3x3 convolution by Winograd's filtering where that pays: float32 on the CPU.

    direct: as the library computes it, for comparisons.
    """

    direct = False

    def __init__(self, channels: int, width: int) -> None:
        super().__init__(channels, width, 3, padding=1, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        return self._convolve(input, self.weight)

    def _convolve(self, maps: Tensor, weight: Tensor) -> Tensor:
        lower = maps.dtype.itemsize < 4 or torch.is_autocast_enabled(maps.device.type)
        if self.direct or lower or maps.is_cuda:
            return F.conv2d(maps, weight, padding=1)
        return _winograd.convolve(maps, weight)


class _Merge(_Convolution):
    """3x3 convolution of coarse maps, enlarged to the size of fine ones, on top of these.

    What the convolution makes of the coarse maps is enlarged instead of the maps themselves: the
    same sum in another order, without a convolution of 256 channels at stride 4. `folded` off
    computes both as the library does.
    """

    folded = True

    def __init__(self, coarse: int, fine: int, width: int) -> None:
        super().__init__(coarse + fine, width)
        self.coarse = coarse

    def forward(self, maps: tuple[Tensor, Tensor]) -> Tensor:  # type: ignore[override]
        coarse, fine = maps
        size = fine.shape[-2], fine.shape[-1]
        if not self.folded:
            merged = torch.cat((resize(coarse, size), fine), dim=1)
            return F.conv2d(merged, self.weight, padding=1)
        enlarged = convolve_resized(coarse, self.weight[:, : self.coarse], size)
        return enlarged + self._convolve(fine, self.weight[:, self.coarse :])


class _PooledBatchNorm2d(nn.BatchNorm2d):
    """Batch norm of one value a channel and image.

    Ours: a batch of one image has no variance there and torch raises; the layer then uses its
    running statistics, or without any leaves its bias. So a short last batch is no error.
    """

    def forward(self, input: Tensor) -> Tensor:
        single = input.numel() == input.shape[1]
        if single and self.running_mean is None:
            return input * 0 + self.bias.view(1, -1, 1, 1)
        if single and self.training:
            return F.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        return super().forward(input)


def _conv_norm_relu(channels: int, width: int, kernel: int, dilation: int = 1) -> nn.Sequential:
    padding = dilation * (kernel // 2)
    return nn.Sequential(
        nn.Conv2d(channels, width, kernel, padding=padding, dilation=dilation, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
    )


def _conv_norm_relu6(
    channels: int,
    width: int,
    kernel: int,
    *,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
    groups: int = 1,
) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(
            channels, width, kernel, stride, padding, dilation=dilation, groups=groups, bias=False
        ),
        nn.BatchNorm2d(width),
        nn.ReLU6(inplace=True),
    )
