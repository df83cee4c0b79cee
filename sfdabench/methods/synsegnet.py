"""SynSeg-Net (TMI 2019), from its paper and methods-compared.md §9."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from sfdabench.core.fields import NonNegative, Positive, PositiveInt
from sfdabench.core.method import Method, Paper
from sfdabench.core.needs import Needs

if TYPE_CHECKING:
    from torch import nn

    from sfdabench.core.context import Context


@dataclass(frozen=True)
class SynSegNet(Method):
    """The segmenter and two translators learn together: the segmenter from translated source
    images, and the translator that drew them from the segmenter's loss.

    loss: of the segmenter, the code's Dice or the source model's. segmentation: its weight.
    cycle, identity, skip: as in cyclegan.
    heads: "both" trains the auxiliary head too; it needs a network that has one.

    Ours: the segmenter is the suite's, and starts from the source model; the code's ends in a tanh,
    under which five classes never get more than 0.65. Batch norm follows translated images only,
    and predicts real ones: `synsegnet+adabn` mends that.
    """

    epochs: PositiveInt = 200  # code, passes over the source
    batch_size: PositiveInt = 4  # code, of either domain
    learning_rate: Positive = 2e-4  # code, of all networks
    loss: Literal["dice", "source"] = "dice"  # code
    segmentation: NonNegative = 1.0  # code
    cycle: NonNegative = 10.0  # code
    identity: NonNegative = 0.0  # code
    pool: PositiveInt = 50  # code
    width: PositiveInt = 64  # code, of generators and judges
    blocks: PositiveInt = 9  # code
    skip: bool = False  # code
    heads: Literal["main", "both"] = "main"  # ours: every network has it
    auxiliary_weight: NonNegative = 0.1  # ours: as advent

    paper = Paper(
        "SynSeg-Net: synthetic segmentation without target modality ground truth",
        "TMI 2019",
        "https://github.com/MASILab/SynSeg-Net",
    )
    phantom = {
        **{"epochs": 5, "learning_rate": 1e-3, "pool": 8, "width": 8, "blocks": 2, "skip": True},
    }
    smoke = {
        **{"epochs": 2, "learning_rate": 1e-2, "pool": 8, "width": 4, "blocks": 1},
    }

    @property
    def needs(self) -> Needs:
        """Source data, and a second head where it trains both."""
        network = frozenset({"auxiliary"} if self.heads == "both" else ())
        return Needs(source_data=True, network=network)

    def adapt(self, context: Context) -> nn.Module:
        """One optimiser for translators and segmenter, another for the judges."""
        import torch

        from sfdabench.primitives.fine_tuning import all_heads
        from sfdabench.primitives.losses import squared_dice_loss, supervised_loss
        from sfdabench.primitives.translation import (
            CyclePair,
            Players,
            examples,
            generator_losses,
            judge_losses,
        )
        from sfdabench.primitives.views import SOURCE, identity

        def of_head(logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
            if self.loss == "source":
                return supervised_loss(logits, masks, context.head, context.source_loss)
            return squared_dice_loss(logits, masks, context.head, background=False, smoothing=1e-7)

        model, view = context.model(), SOURCE[context.augmentation]
        shape: dict[str, Any] = {"width": self.width, "blocks": self.blocks, "skip": self.skip}
        shape |= {"pool": self.pool, "padding": 2}
        pair = context.place(CyclePair(context.source, context.target, **shape))
        players = Players(pair, self.learning_rate, self.epochs, others=[model])
        for _ in context.epochs(self.epochs, deploy=model, **players.state):
            model.train()
            target = context.target.endless(self.batch_size, plain=identity)
            for images, masks in context.source.pairs(self.batch_size, view):
                s, t = pair.units(images, next(target).plain)
                losses, *drawn = generator_losses(pair, s, t, self.cycle, self.identity)
                logits = all_heads(model, pair.to_target.wanted.from_unit(drawn[0]), self.heads)
                weights = (1.0, self.auxiliary_weight)
                of_heads = [w * of_head(m, masks) for m, w in zip(logits, weights, strict=False)]
                losses["segmentation"] = self.segmentation * torch.stack(of_heads).sum()
                context.log(**losses)
                players.translate(losses)
                verdicts = judge_losses(pair, s, t, *drawn)
                context.log(**verdicts)
                players.judge(verdicts)
            players.end_epoch()
        context.show(**examples(pair, context.source, context.target))
        return model
