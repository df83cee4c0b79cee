"""A network entry: its hyper-parameters, and how to build it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn


@dataclass(frozen=True)
class Network:
    """Fields are the hyper-parameters.

    features: what a method may rely on, such as "batch_norm", "dropout", "penultimate".
    revision: raised when the numbers of a built-in network change.
    """

    features: ClassVar[frozenset[str]] = frozenset()
    revision: ClassVar[int] = 1

    def build(self, *, channels: int, outputs: int) -> nn.Module:
        """A module from (B, channels, H, W) to logits (B, outputs, H, W), freshly initialised."""
        raise NotImplementedError

    def load_backbone(self, module: nn.Module, weights: Path) -> None:
        """Fill the backbone of `module` from a local file; BadInput where it has none."""
        raise NotImplementedError
