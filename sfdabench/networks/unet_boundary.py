"""`unet_small` with a boundary branch: for phantoms and tests of methods that learn boundaries."""

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
class UNetBoundary(Network):
    """width: channels of the first level, doubled at each of `depth` halvings.

    "boundary": the module's `boundary(images)` gives the logits and that of a boundary, which the
    classifier sees as one more feature (methods-compared.md §0.2 d).
    """

    features: ClassVar[frozenset[str]] = frozenset(
        {"batch_norm", "boundary", "dropout", "penultimate"}
    )

    width: PositiveInt = 8  # as unet_small
    depth: PositiveInt = 3  # as unet_small

    def build(self, *, channels: int, outputs: int) -> nn.Module:
        """A module from (B, channels, H, W) to logits (B, outputs, H, W), any H and W."""
        from sfdabench.models.boundary import BoundaryUNet

        widths = [self.width * 2**level for level in range(self.depth + 1)]
        return BoundaryUNet(channels, outputs, widths)

    def load_backbone(self, module: nn.Module, weights: Path) -> None:
        """Raise BadInput: nobody has published weights for it."""
        raise BadInput(f"backbone weights {weights}: unet_boundary has no pretrained backbone")
