"""Segmentation networks of MONAI (Cardoso et al., 2022, https://arxiv.org/abs/2211.02701)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sfdabench.core.errors import BadInput
from sfdabench.core.fields import Fraction, PositiveInt
from sfdabench.core.network import Network

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class MonaiNet(Network):
    """`--source-set network=monai_net --source-set name=DynUNet`; needs `pip install monai`.

    name: which of MONAI's networks, in 2D. What a method may rely on is looked up in the network
        as it is built: batch norm where `norm` says so, dropout where there is a rate, penultimate
        features for all but UNet, whose last layers are no classifier.
    width: channels of the first level, doubled at each of `depth` halvings; "group" needs a
        multiple of 8. BasicUNet has four halvings, AttentionUnet batch norm.

    Raises BadInput for values that the network does not have.
    """

    name: Literal["UNet", "BasicUNet", "DynUNet", "SegResNet", "AttentionUnet"] = "BasicUNet"
    width: PositiveInt = 16
    depth: PositiveInt = 4
    norm: Literal["batch", "instance", "group"] = "batch"
    dropout: Fraction = 0.0

    def __post_init__(self) -> None:
        if self.name == "BasicUNet" and self.depth != 4:
            raise BadInput(f"depth={self.depth}: BasicUNet has 4 halvings; leave depth out")
        if self.name == "AttentionUnet" and self.norm != "batch":
            raise BadInput(f"norm={self.norm}: AttentionUnet has batch norm; leave norm out")
        if self.norm == "group" and self.width % 8:
            raise BadInput(f"width={self.width}: with norm=group it must be a multiple of 8")

    @property
    def features(self) -> frozenset[str]:  # type: ignore[override]
        """What the network has, found by building it."""
        return _features(self)

    def build(self, *, channels: int, outputs: int) -> nn.Module:
        """A module from (B, channels, H, W) to logits (B, outputs, H, W), any H and W.

        Raises BadInput where MONAI is not installed.
        """
        try:
            import monai.networks.nets  # noqa: F401
        except ModuleNotFoundError as error:
            raise BadInput(
                f"network monai_net: {error}; install MONAI with `pip install monai`"
            ) from error
        from sfdabench.models.monai_net import build

        size = self.width, self.depth
        return build(self.name, channels, outputs, *size, self.norm, self.dropout)

    def load_backbone(self, module: nn.Module, weights: Path) -> None:
        """Raise BadInput: none is published under names of ours."""
        raise BadInput(f"backbone weights {weights}: monai_net takes no pretrained backbone")


@cache
def _features(network: MonaiNet) -> frozenset[str]:
    from torch.nn.modules.batchnorm import _BatchNorm
    from torch.nn.modules.dropout import _DropoutNd

    module = network.build(channels=1, outputs=1)
    parts = [*module.modules()]
    has = {
        "batch_norm": any(isinstance(part, _BatchNorm) for part in parts),
        "dropout": any(isinstance(part, _DropoutNd) and part.p > 0 for part in parts),
        "penultimate": hasattr(module, "penultimate"),
    }
    return frozenset(name for name, there in has.items() if there)
