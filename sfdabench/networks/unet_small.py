"""A small U-Net with batch norm, for phantoms and tests: seconds of training on two cores."""

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
class UNetSmall(Network):
    """U-Net (Ronneberger et al., MICCAI 2015, https://arxiv.org/abs/1505.04597), reduced.

    width: channels of the first level, doubled at each of `depth` halvings; 0.12 M parameters.
    Ours: halves by strided convolution and doubles by repetition, both deterministic on CUDA.
    """

    features: ClassVar[frozenset[str]] = frozenset({"batch_norm", "penultimate"})

    width: PositiveInt = 8
    depth: PositiveInt = 3

    def build(self, *, channels: int, outputs: int) -> nn.Module:
        """A module from (B, channels, H, W) to logits (B, outputs, H, W), any H and W."""
        from sfdabench.models.unet import UNet

        return UNet(channels, outputs, [self.width * 2**level for level in range(self.depth + 1)])

    def load_backbone(self, module: nn.Module, weights: Path) -> None:
        """Raise BadInput: nobody has published weights for it."""
        raise BadInput(f"backbone weights {weights}: unet_small has no pretrained backbone")
