"""Segmenters of MONAI: their networks for images of any size, and with their last layer apart."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F


class Whole(nn.Module):
    """A network of MONAI's as it is: images (B, C, H, W) -> logits (B, K, H, W).

    multiple: what the sides of an image must be multiples of; others are continued by zeros at the
    bottom and at the right, and the logits cut.
    """

    def __init__(self, body: nn.Module, multiple: int) -> None:
        super().__init__()
        self.body, self.multiple = body, multiple

    def _run(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        enlarged = F.pad(images, (0, -width % self.multiple, 0, -height % self.multiple))
        return self.body(enlarged)[..., :height, :width]

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> logits (B, K, H, W)."""
        return self._run(images)


class Classified(Whole):
    """A network of MONAI's whose last layer, a convolution of 1 x 1, stands apart.

    body: the network without it. classifier: that layer.
    """

    def __init__(self, body: nn.Module, classifier: nn.Module, multiple: int) -> None:
        super().__init__(body, multiple)
        self.classifier = classifier

    def penultimate(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> features (B, F, H, W)."""
        return self._run(images)

    def classify(self, features: Tensor, size: tuple[int, int]) -> Tensor:
        """Penultimate features -> logits (B, K, *size); their size is that of the image."""
        return self.classifier(features)

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> logits (B, K, H, W)."""
        return self.classifier(self._run(images))


def build(
    name: str, channels: int, outputs: int, width: int, depth: int, norm: str, dropout: float
) -> Whole:
    """The network of this name; see `networks.monai_net` for the rest."""
    from monai.networks import nets

    widths = [width * 2**level for level in range(depth + 1)]
    layer: Any = {"group": ("group", {"num_groups": 8})}.get(norm, (norm, {"affine": True}))
    multiple = 2**depth
    if name == "UNet":
        body = nets.UNet(
            *(2, channels, outputs, widths, [2] * depth),
            num_res_units=2,
            norm=layer,
            dropout=dropout,
        )
        return Whole(body, multiple)
    if name == "BasicUNet":
        body = nets.BasicUNet(
            2, channels, outputs, features=(*widths, width), norm=layer, dropout=dropout
        )
        return _apart(body, body, "final_conv", multiple)
    if name == "DynUNet":
        body = nets.DynUNet(
            *(2, channels, outputs, [3] * (depth + 1), [1, *[2] * depth], [2] * depth),
            filters=widths,
            dropout=dropout or None,
            norm_name=layer,
        )
        return _apart(body, body.output_block, "conv", multiple)
    if name == "SegResNet":
        body = nets.SegResNet(
            *(2, width, channels, outputs),
            dropout_prob=dropout or None,
            norm=layer,
            blocks_down=(1,) * (depth + 1),
            blocks_up=(1,) * depth,
            upsample_mode="deconv",  # the others' gradients have no fixed order on CUDA
        )
        return _apart(body, body.conv_final, "2", multiple)
    body = nets.AttentionUnet(2, channels, outputs, widths, [2] * depth, dropout=dropout)
    return _apart(body, body.model, "2", multiple)


def _apart(body: nn.Module, owner: nn.Module, name: str, multiple: int) -> Classified:
    """Take the last layer, which its owner has under that name, out of the network."""
    classifier = getattr(owner, name)
    setattr(owner, name, nn.Identity())
    return Classified(body, classifier, multiple)
