"""`unet_small` with an auxiliary head: for phantoms and tests of methods that compare two heads."""

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
class UNetDual(Network):
    """width: channels of the first level, doubled at each of `depth` halvings.

    "auxiliary": the module's `heads(images)` gives the main logits and those of a second
    classifier, on the level below the last one: coarser, and without the last skip.
    """

    features: ClassVar[frozenset[str]] = frozenset({"auxiliary", "batch_norm", "penultimate"})

    width: PositiveInt = 8  # as unet_small
    depth: PositiveInt = 3  # as unet_small

    def build(self, *, channels: int, outputs: int) -> nn.Module:
        """A module from (B, channels, H, W) to logits (B, outputs, H, W), any H and W."""
        from sfdabench.models.unet import DualUNet

        widths = [self.width * 2**level for level in range(self.depth + 1)]
        return DualUNet(channels, outputs, widths)

    def load_backbone(self, module: nn.Module, weights: Path) -> None:
        """Raise BadInput: nobody has published weights for it."""
        raise BadInput(f"backbone weights {weights}: unet_dual has no pretrained backbone")
