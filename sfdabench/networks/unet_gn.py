"""U-Net with group norm and dropout, of 15 convolutions, for grey matter of the spinal cord.

Perone et al., NeuroImage 2019, https://arxiv.org/abs/1811.06042.
Its code: https://github.com/neuropoly/domainadaptation, `# code` below.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from sfdabench.core.errors import BadInput
from sfdabench.core.fields import Fraction, PositiveInt
from sfdabench.core.network import Network

if TYPE_CHECKING:
    from torch import nn

GROUPS = 32  # code


@dataclass(frozen=True)
class UNetGN(Network):
    """width: channels of the first level; the two levels below have 2 and 4 times as many.

    Up to 32 channels wide, each channel of the first level is a group of its own.
    """

    features: ClassVar[frozenset[str]] = frozenset({"dropout", "penultimate"})

    width: PositiveInt = 64  # code
    dropout: Fraction = 0.5  # code: of whole channels

    def build(self, *, channels: int, outputs: int) -> nn.Module:
        """A module from (B, channels, H, W) to logits (B, outputs, H, W), any H and W.

        Raises BadInput for a width that the groups do not divide.
        """
        from sfdabench.models.unet_pooled import group_norm_unet

        groups = min(GROUPS, self.width)
        if self.width % groups:
            raise BadInput(
                f"unet_gn: width {self.width} does not divide into {groups} groups; "
                f"give a multiple of {GROUPS}, or less than that"
            )
        return group_norm_unet(channels, outputs, self.width, groups, self.dropout)

    def load_backbone(self, module: nn.Module, weights: Path) -> None:
        """Raise BadInput: it is trained from scratch."""
        raise BadInput(f"backbone weights {weights}: unet_gn has no pretrained backbone")
