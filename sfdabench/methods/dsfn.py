"""DSFN (IJCAI 2020): our reading, from its abstract and methods-compared.md §13."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from sfdabench.core.fields import NonNegative, Positive, PositiveInt
from sfdabench.core.method import Method, Paper
from sfdabench.core.needs import Change, Needs

if TYPE_CHECKING:
    from torch import nn

    from sfdabench.core.context import Context


@dataclass(frozen=True)
class DSFN(Method):
    """One segmenter learns the source in both styles, and predicts a target image and its
    translation to the source; the two predictions are averaged.

    A reconstruction of ours: neither code nor full text could be found. From the abstract are the
    translations in both directions, the joint segmenter and the fusion of two predictions; losses
    and rates are those of SynSeg-Net, the game on predictions is AdaptSegNet's.
    fuse: which predictions are deployed; "target" is the segmenter alone.
    cycle, skip: as in cyclegan.
    """

    epochs: PositiveInt = 200  # ours: as synsegnet
    batch_size: PositiveInt = 4  # ours: as synsegnet
    learning_rate: Positive = 2e-4  # ours: as synsegnet, of all networks
    adversarial_weight: NonNegative = 1e-3  # ours: as adaoutput
    fuse: Literal["mean", "target", "translated"] = "mean"  # paper, abstract
    cycle: NonNegative = 10.0  # ours: as cyclegan
    pool: PositiveInt = 50  # ours: as cyclegan
    width: PositiveInt = 64  # ours: as cyclegan, of generators and judges
    blocks: PositiveInt = 9  # ours: as cyclegan
    skip: bool = False  # ours: as cyclegan

    paper = Paper(
        "Unsupervised domain adaptation with dual-scheme fusion network for medical image "
        "segmentation",
        "IJCAI 2020",
        "https://doi.org/10.24963/ijcai.2020/455",
    )
    phantom = {
        **{"epochs": 5, "learning_rate": 1e-3, "pool": 8, "width": 8, "blocks": 2, "skip": True},
    }
    smoke = {
        **{"epochs": 2, "learning_rate": 1e-2, "pool": 8, "width": 4, "blocks": 1},
        **{"adversarial_weight": 0.1},
    }

    @property
    def needs(self) -> Needs:
        """Source data; a translator in front of the network unless it is fused away."""
        changes: set[Change] = {"parameters", "statistics"}
        if self.fuse != "target":
            changes.add("input")
        return Needs(source_data=True, changes=frozenset(changes))

    def adapt(self, context: Context) -> nn.Module:
        """One optimiser for translators and segmenter, another for all judges."""
        import torch

        from sfdabench.models.composites import Averaged, Normalised
        from sfdabench.models.discriminators import OutputDiscriminator
        from sfdabench.primitives.adversarial import fooling, frozen, judging
        from sfdabench.primitives.losses import supervised_loss
        from sfdabench.primitives.translation import (
            CyclePair,
            Players,
            examples,
            generator_losses,
            judge_losses,
        )
        from sfdabench.primitives.views import SOURCE, identity

        head, view = context.head, SOURCE[context.augmentation]
        shape: dict[str, Any] = {"width": self.width, "blocks": self.blocks, "skip": self.skip}
        pair = context.place(CyclePair(context.source, context.target, pool=self.pool, **shape))
        judge = OutputDiscriminator(head.outputs(len(context.classes)), self.width)
        output = context.place(torch.nn.ModuleList([judge]))
        model = context.model()
        deploy = model
        if self.fuse == "mean":
            deploy = Averaged(model, pair.to_source, head)
        elif self.fuse == "translated":
            deploy = Normalised(model, pair.to_source)
        players = Players(pair, self.learning_rate, self.epochs, others=[model], judges=output)
        for _ in context.epochs(self.epochs, deploy=deploy, output=output, **players.state):
            model.train()
            target = context.target.endless(self.batch_size, plain=identity)
            for images, masks in context.source.pairs(self.batch_size, view):
                shown = next(target).plain
                s, t = pair.units(images, shown)
                losses, *drawn = generator_losses(pair, s, t, self.cycle, 0.0)
                translated = model(pair.to_target.wanted.from_unit(drawn[0]))
                for name, logits in (("translated", translated), ("source", model(images))):
                    losses[name] = supervised_loss(logits, masks, head, context.source_loss)
                source_maps = [head.probabilities(translated)]
                target_maps = [head.probabilities(model(shown))]
                with frozen(*output):
                    losses["fooling"] = fooling(output, target_maps, [self.adversarial_weight])
                context.log(**losses)
                players.translate(losses)
                verdicts = judge_losses(pair, s, t, *drawn)
                verdicts["judging_output"] = judging(output, source_maps, target_maps)
                context.log(**verdicts)
                players.judge(verdicts)
            players.end_epoch()
        context.show(**examples(pair, context.source, context.target))
        return deploy
