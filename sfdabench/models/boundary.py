"""The head of BEAL, DPL and later methods: a boundary branch whose logit the classifier sees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from sfdabench.models.deeplabv3plus import DeepLabV3Plus
from sfdabench.models.resize import resize
from sfdabench.models.unet import UNet


class BoundaryHead(nn.Module):
    """Features -> the logit of "a boundary passes here", and the features with it as a channel.

    Two convolutions of 3 x 3 with batch norm, ReLU and dropout, and one of 1 x 1
    (methods-compared.md §0.2 d).
    """

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            *(
                nn.Conv2d(features, width, 3, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(),
            ),
            nn.Dropout(0.5),
            *(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()),
            nn.Dropout(0.1),
            nn.Conv2d(width, 1, 1),
        )

    def forward(self, features: Tensor) -> Tensor:
        """(B, F, h, w) -> (B, F + 1, h, w), the boundary's logit last."""
        return torch.cat((features, self.branch(features)), dim=1)


def mask_classifier(features: int, outputs: int) -> nn.Sequential:
    """The layers from the features of `BoundaryHead` to logits."""
    return nn.Sequential(
        nn.BatchNorm2d(features), nn.ReLU(), nn.Dropout(0.1), nn.Conv2d(features, outputs, 1)
    )


class BoundaryUNet(UNet):
    """`unet_small` with the boundary head on its last features."""

    def __init__(self, channels: int, outputs: int, widths: list[int]) -> None:
        super().__init__(channels, outputs, widths)
        self.boundary_head = BoundaryHead(widths[0], widths[0])
        self.classifier = mask_classifier(widths[0] + 1, outputs)  # type: ignore[assignment]

    def penultimate(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> features (B, width + 1, H, W), the boundary's logit last."""
        return self.boundary_head(super().penultimate(images))

    def boundary(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) -> logits (B, K, H, W), and those of the boundary (B, 1, H, W)."""
        features = self.penultimate(images)
        size = images.shape[-2], images.shape[-1]
        return self.classify(features, size), features[:, -1:].float()


class BoundaryDeepLab(DeepLabV3Plus):
    """`deeplabv3plus_mobilenetv2` without its decoder: the boundary head in its place.

    The head sees 304 channels at stride 4, 256 of the pyramid, enlarged, and 48 of low level.
    """

    def __init__(self, channels: int, outputs: int, dropout: float) -> None:
        super().__init__(channels, outputs, (dropout, 0.0, 0.0))
        self.decoder = nn.Identity()  # type: ignore[assignment]
        self.boundary_head = BoundaryHead(304, 256)
        self.classifier = mask_classifier(305, outputs)
        for part in (self.boundary_head, self.classifier):
            for layer in part.modules():
                if isinstance(layer, nn.Conv2d):
                    nn.init.kaiming_normal_(layer.weight)

    def penultimate(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> features (B, 305, H/4, W/4), the boundary's logit last."""
        low, high = self.backbone(images)
        fine = self.low_level(low)
        coarse = resize(self.pyramid(high), (fine.shape[-2], fine.shape[-1]))
        return self.boundary_head(torch.cat((coarse, fine), dim=1))

    def boundary(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) -> logits (B, K, H, W), and those of the boundary (B, 1, H, W)."""
        features, size = self.penultimate(images), (images.shape[-2], images.shape[-1])
        return self.classify(features, size), resize(features[:, -1:].float(), size)


class WithBranch(nn.Module):
    """A segmenter's logits beside those of a boundary branch on its penultimate features.

    The classifier does not see the branch. images (B, C, H, W) -> logits (B, K, H, W), and those of
    the boundary (B, 1, H, W).
    """

    def __init__(self, model: nn.Module, features: int) -> None:
        super().__init__()
        self._model = [model]  # not a module of its own: the segmenter is kept by who made it
        self.branch = BoundaryHead(features, features).branch

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        segmenter, size = cast(Any, self._model[0]), (images.shape[-2], images.shape[-1])
        features = segmenter.penultimate(images)
        return segmenter.classify(features, size), resize(self.branch(features), size)


def with_branch(model: nn.Module, shape: Sequence[int]) -> WithBranch:
    """A fresh branch for the features that a segmenter has of images (C, H, W)."""
    weight = next(model.parameters())
    with torch.no_grad():
        features = cast(Any, model).penultimate(torch.zeros(1, *shape, device=weight.device))
    return WithBranch(model, features.shape[1])
