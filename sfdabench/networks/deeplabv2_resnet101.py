"""DeepLabV2 on ResNet-101 at output stride 8, with a main and an auxiliary head.

DeepLabV2: Chen et al., TPAMI 2018, https://arxiv.org/abs/1606.00915.
ResNet: He et al., CVPR 2016, https://arxiv.org/abs/1512.03385.
Two heads: Tsai et al. (AdaptSegNet), CVPR 2018, https://arxiv.org/abs/1802.10349.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, cast

from sfdabench.core.fields import PositiveInt
from sfdabench.core.network import Network

if TYPE_CHECKING:
    from torch import Tensor, nn

TORCHVISION_HEAD = "fc."  # of its classifier, not of a segmenter


@dataclass(frozen=True)
class DeepLabV2ResNet101(Network):
    """`layers` blocks in each of the four stages; `width` channels after the stem, x 32 at the end.

    "auxiliary": the module's `heads(images)` gives the main logits and those of a second head on
    the third stage. Batch norm is trained as any other layer; a method that wants it frozen,
    freezes it.
    """

    features: ClassVar[frozenset[str]] = frozenset({"auxiliary", "batch_norm", "penultimate"})

    layers: tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt] = (3, 4, 23, 3)  # ResNet
    width: PositiveInt = 64  # ResNet

    def build(self, *, channels: int, outputs: int) -> nn.Module:
        """A module from (B, channels, H, W) to logits (B, outputs, H, W), any H and W above 8."""
        from sfdabench.models.deeplabv2 import DeepLabV2

        return DeepLabV2(channels, outputs, self.layers, self.width)

    def load_backbone(self, module: nn.Module, weights: Path) -> None:
        """Fill the backbone from torchvision-named ResNet weights (.safetensors or .pth).

        torchvision's classifier (fc) is passed over by name. Images of other than three channels
        get the mean filter over RGB, scaled so that equal channels give what an equal RGB gives.
        Raises BadInput naming the file, and the keys that are missing, unexpected or mis-shaped.
        """
        from sfdabench.models import weights as files

        backbone = cast("nn.Module", module.backbone)
        own = backbone.state_dict()
        state = {
            name: value
            for name, value in files.read(weights).items()
            if not name.startswith(TORCHVISION_HEAD)
        }
        stem, channels = state.get("conv1.weight"), own["conv1.weight"].shape[1]
        if stem is not None and stem.ndim == 4 and stem.shape[1] == 3:
            state["conv1.weight"] = _for_channels(stem, channels)
        # Counters, not weights: files written before torch 0.4.1 have none.
        counters = {n: value for n, value in own.items() if n.endswith("num_batches_tracked")}
        files.fill(backbone, counters | state, weights)


def _for_channels(stem: Tensor, channels: int) -> Tensor:
    """Filters (K, 3, h, w) of RGB -> (K, channels, h, w) with the same sum over the channels."""
    if channels == 3:
        return stem
    return stem.sum(dim=1, keepdim=True).expand(-1, channels, -1, -1) / channels
