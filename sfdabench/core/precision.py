"""Networks that methods build beside the segmenter, in the precision of a run."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

Precision = Literal["float32", "bfloat16"]


class Lowered(nn.Module):
    """A network whose layers run in `precision`, under autocast; it gives float32 all the same."""

    precision: Precision = "float32"

    def run(self, layers: nn.Module, maps: Tensor) -> Tensor:
        """What the layers make of the maps, as float32."""
        if self.precision == "float32":
            return layers(maps)
        with torch.autocast(maps.device.type, dtype=getattr(torch, self.precision)):
            return layers(maps).float()


def lower(module: nn.Module, precision: Precision) -> None:
    """Let every `Lowered` network in a module run in this precision."""
    for part in module.modules():
        if isinstance(part, Lowered):
            part.precision = precision
