"""The part that tells sizes of structures from features, for SRDA's first version."""

from __future__ import annotations

from torch import Tensor, nn

from sfdabench.models.part import Part


class Gauge(Part):
    """A linear layer from features, averaged over an image, to logits of the classes' shares.

    features: F. outputs: K, as many as the head has channels.
    """

    def __init__(self, features: int, outputs: int) -> None:
        super().__init__()
        self.layer = nn.Linear(features, outputs)

    def forward(self, means: Tensor) -> Tensor:
        """(B, F) -> (B, K)."""
        return self.layer(means)
