"""DeepLabV3+ on MobileNetV2 at output stride 16, as CBMT uses it.

DeepLabV3+: Chen et al., ECCV 2018, https://arxiv.org/abs/1802.02611.
MobileNetV2: Sandler et al., CVPR 2018, https://arxiv.org/abs/1801.04381.
CBMT: Tang et al., MICCAI 2023, https://github.com/lloongx/SFDA-CBMT (e28f3f7): `# code` below.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, cast

from sfdabench.core.fields import Fraction
from sfdabench.core.network import Network

if TYPE_CHECKING:
    from torch import nn

TORCHVISION_HEAD = ("features.18.", "classifier.")  # of its classifier, not of a segmenter


@dataclass(frozen=True)
class DeepLabV3PlusMobileNetV2(Network):
    """The three dropout rates, in the order in which the image meets them.

    Batch norm: nn.BatchNorm2d. The reference's synchronised one is no subclass of it, so that
    methods that look for batch norm find no layer there.
    """

    features: ClassVar[frozenset[str]] = frozenset({"batch_norm", "dropout", "penultimate"})

    dropout_pyramid: Fraction = 0.5  # code
    dropout_decoder: Fraction = 0.5  # code
    dropout_classifier: Fraction = 0.1  # code

    def build(self, *, channels: int, outputs: int) -> nn.Module:
        """A module from (B, channels, H, W) to logits (B, outputs, H, W), Kaiming-initialised."""
        from sfdabench.models.deeplabv3plus import DeepLabV3Plus

        rates = (self.dropout_pyramid, self.dropout_decoder, self.dropout_classifier)
        return DeepLabV3Plus(channels, outputs, rates)

    def load_backbone(self, module: nn.Module, weights: Path) -> None:
        """Fill the backbone from torchvision-named MobileNetV2 weights (.safetensors or .pth).

        torchvision's classifier head (features.18, classifier) is passed over by name. Raises
        BadInput naming the file, and the keys that are missing, unexpected or mis-shaped.
        """
        from sfdabench.models import weights as files

        backbone = cast("nn.Module", module.backbone)
        state = {
            name: value
            for name, value in files.read(weights).items()
            if not name.startswith(TORCHVISION_HEAD)
        }
        # Counters, not weights: files written before torch 0.4.1 have none.
        counters = {
            name: value
            for name, value in backbone.state_dict().items()
            if name.endswith("num_batches_tracked")
        }
        files.fill(backbone, counters | state, weights)
