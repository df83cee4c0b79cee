"""CycleGAN (ICCV 2017) as domain adaptation, from its paper and methods-compared.md §8."""

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
class CycleGAN(Method):
    """The segmenter learns from source images that were translated to look like the target's.

    First two translators are trained, then the segmenter. Nobody published a recipe of the second
    step; it is ours, and starts from the source model.
    cycle, identity: weights of the two distances; `identity` is a share of `cycle`.
    skip: SIFA's translator, which starts near the identity.
    heads: "both" trains the auxiliary head too; it needs a network that has one.

    Where target images often lack a structure that the source's show, translators learn to delete
    it, and the segmenter to draw what is not there.
    """

    translation_epochs: PositiveInt = 200  # code, passes over the source
    translation_batch: PositiveInt = 1  # code, of either domain
    translation_rate: Positive = 2e-4  # code
    cycle: NonNegative = 10.0  # code
    identity: NonNegative = 0.0  # ours; the code has 0.5, which keeps colours
    pool: PositiveInt = 50  # code
    width: PositiveInt = 64  # code, of generators and judges
    blocks: PositiveInt = 9  # code
    skip: bool = False  # code
    epochs: PositiveInt = 100  # ours, of the segmenter
    batch_size: PositiveInt = 8  # ours
    learning_rate: Positive = 1e-3  # ours
    heads: Literal["main", "both"] = "main"  # ours: every network has it
    auxiliary_weight: NonNegative = 0.1  # ours: as advent

    paper = Paper(
        "Unpaired image-to-image translation using cycle-consistent adversarial networks",
        "ICCV 2017",
        "https://github.com/junyanz/pytorch-CycleGAN-and-pix2pix",
    )
    phantom = {
        **{"translation_epochs": 4, "translation_batch": 4, "translation_rate": 1e-3, "pool": 8},
        **{"width": 8, "blocks": 2, "skip": True, "epochs": 2, "batch_size": 4},
    }
    smoke = {
        **{"translation_epochs": 2, "translation_batch": 4, "translation_rate": 1e-2, "pool": 8},
        **{"width": 4, "blocks": 1, "epochs": 2, "batch_size": 4},
    }

    @property
    def needs(self) -> Needs:
        """Source data, and a second head where it trains both."""
        network = frozenset({"auxiliary"} if self.heads == "both" else ())
        return Needs(source_data=True, network=network)

    def adapt(self, context: Context) -> nn.Module:
        """The translators see the source under the task's augmentation, the target as it is."""
        import torch

        from sfdabench.primitives.fine_tuning import all_heads
        from sfdabench.primitives.losses import weighted_heads
        from sfdabench.primitives.translation import (
            CyclePair,
            Players,
            examples,
            generator_losses,
            judge_losses,
        )
        from sfdabench.primitives.views import SOURCE, identity

        view, size = SOURCE[context.augmentation], self.translation_batch
        shape: dict[str, Any] = {"width": self.width, "blocks": self.blocks, "skip": self.skip}
        pair = context.place(CyclePair(context.source, context.target, pool=self.pool, **shape))
        players = Players(pair, self.translation_rate, self.translation_epochs)
        for _ in context.epochs(self.translation_epochs, deploy=None, **players.state):
            target = context.target.endless(size, plain=identity)
            for images, _ in context.source.pairs(size, view):
                s, t = pair.units(images, next(target).plain)
                losses, *drawn = generator_losses(pair, s, t, self.cycle, self.identity)
                context.log(**losses)
                players.translate(losses)
                verdicts = judge_losses(pair, s, t, *drawn)
                context.log(**verdicts)
                players.judge(verdicts)
            players.end_epoch()
        context.show(**examples(pair, context.source, context.target))
        model = context.model()
        optimiser = torch.optim.Adam(model.parameters(), self.learning_rate)
        for _ in context.epochs(self.epochs, deploy=model, optimiser=optimiser):
            model.train()
            for images, masks in context.source.pairs(self.batch_size, view):
                logits = all_heads(model, pair.translate(images), self.heads)
                weights = (1.0, self.auxiliary_weight)
                task = weighted_heads(logits, masks, weights, context.head, context.source_loss)
                context.log(task=task)
                optimiser.zero_grad()
                task.backward()
                optimiser.step()
        return model
