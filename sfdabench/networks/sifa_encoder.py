"""The segmenter of SIFA, which the bounds of APL's Table 1 are of as well.

SIFA: Chen et al., AAAI 2019 and TMI 2020, https://github.com/cchen-cc/SIFA.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sfdabench.core.errors import BadInput
from sfdabench.core.fields import Fraction, PositiveInt
from sfdabench.core.network import Network

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class SifaEncoder(Network):
    """width: channels of the first level; 32 times as many at the end, at stride 8.

    dropout: a rate between convolution and batch norm; 0.25 in the first version.
    """

    width: PositiveInt = 16  # code
    dropout: Fraction = 0.0  # code, of the second version

    @property
    def features(self) -> frozenset[str]:  # type: ignore[override]
        """Dropout where it has a rate."""
        dropout = {"dropout"} if self.dropout else set()
        return frozenset({"auxiliary", "batch_norm", "penultimate", *dropout})

    def build(self, *, channels: int, outputs: int) -> nn.Module:
        """A module from (B, channels, H, W) to logits (B, outputs, H, W), any H and W."""
        from sfdabench.models.sifa_encoder import SifaEncoder as Module

        return Module(channels, outputs, self.width, self.dropout)

    def load_backbone(self, module: nn.Module, weights: Path) -> None:
        """Raise BadInput: nobody has published weights for it under names of ours."""
        raise BadInput(f"backbone weights {weights}: sifa_encoder has no pretrained backbone")
