"""U-Net with batch norm, 64 to 1024 channels: the off-the-shelf segmenter of OSUDA's source.

U-Net: Ronneberger et al., MICCAI 2015, https://arxiv.org/abs/1505.04597.
OSUDA: Liu et al., MICCAI 2021, https://arxiv.org/abs/2106.12497; no public code, and the
network is not described, so the widths are the U-Net paper's.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from sfdabench.core.errors import BadInput
from sfdabench.core.fields import PositiveInt
from sfdabench.core.network import Network

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class UNetBN(Network):
    """width: channels of the first level, doubled at each of `depth` halvings.

    Ours, to the U-Net paper: padded convolutions, so that the output has the size of the image,
    and batch norm after each.
    """

    features: ClassVar[frozenset[str]] = frozenset({"batch_norm", "penultimate"})

    width: PositiveInt = 64  # paper (U-Net)
    depth: PositiveInt = 4  # paper (U-Net)

    def build(self, *, channels: int, outputs: int) -> nn.Module:
        """A module from (B, channels, H, W) to logits (B, outputs, H, W), any H and W."""
        from sfdabench.models.unet_pooled import batch_norm_unet

        return batch_norm_unet(channels, outputs, self.width, self.depth)

    def load_backbone(self, module: nn.Module, weights: Path) -> None:
        """Raise BadInput: it is trained from scratch."""
        raise BadInput(f"backbone weights {weights}: unet_bn has no pretrained backbone")
