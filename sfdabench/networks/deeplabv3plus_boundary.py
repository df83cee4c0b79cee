"""DeepLabV3+ on MobileNetV2 with the boundary branch of BEAL and DPL.

BEAL: Wang et al., MICCAI 2019, https://github.com/emma-sjwang/BEAL.
DPL: Chen et al., MICCAI 2021, https://github.com/cchen-cc/SFDA-DPL; methods-compared.md §0.2 d.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from sfdabench.core.fields import Fraction
from sfdabench.core.network import Network

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class DeepLabV3PlusBoundary(Network):
    """dropout: of the pyramid; the branches have rates of their own.

    "boundary": the module's `boundary(images)` gives the logits and that of a boundary, which the
    classifier sees as one more feature.
    """

    features: ClassVar[frozenset[str]] = frozenset(
        {"batch_norm", "boundary", "dropout", "penultimate"}
    )

    dropout: Fraction = 0.5  # code

    def build(self, *, channels: int, outputs: int) -> nn.Module:
        """A module from (B, channels, H, W) to logits (B, outputs, H, W), Kaiming-initialised."""
        from sfdabench.models.boundary import BoundaryDeepLab

        return BoundaryDeepLab(channels, outputs, self.dropout)

    def load_backbone(self, module: nn.Module, weights: Path) -> None:
        """Fill the backbone from torchvision-named MobileNetV2 weights (.safetensors or .pth)."""
        from sfdabench.networks.deeplabv3plus_mobilenetv2 import DeepLabV3PlusMobileNetV2

        DeepLabV3PlusMobileNetV2().load_backbone(module, weights)
