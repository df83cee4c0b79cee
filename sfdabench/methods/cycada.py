"""CyCADA (ICML 2018), from its paper and methods-compared.md §10."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from sfdabench.core.fields import Fraction, NonNegative, Positive, PositiveInt
from sfdabench.core.method import Method, Paper
from sfdabench.core.needs import Needs

if TYPE_CHECKING:
    from torch import nn

    from sfdabench.core.context import Context


@dataclass(frozen=True)
class CyCADA(Method):
    """The segmenter learns from translated source images, which must keep what the source model
    saw in them; then its scores on the target are made to pass for those on the translations.

    Three loops: translators, segmenter, scores.
    semantic: weight of what the source model, kept as it is, must still see in a translation; it
        is weak on the target, so 0 leaves this out, as the paper's segmentation experiments do.
    align_epochs, align_rate, align_weight: of the third loop, in which the segmenter plays only
        while its judge was right in more than `gate` of its last hundred steps.
    cycle, skip, heads: as in cyclegan.

    Ours: the last epoch is deployed; the code ends the third loop after an epoch in which the gate
    stayed closed. It has `cycle` 1, at which organs on 64 pixels wander.
    """

    translation_epochs: PositiveInt = 200  # ours: as cyclegan; code 75, of digits
    translation_batch: PositiveInt = 1  # ours: as cyclegan
    translation_rate: Positive = 2e-4  # ours: as cyclegan
    cycle: NonNegative = 10.0  # ours: as cyclegan
    semantic: NonNegative = 1.0  # paper §3
    pool: PositiveInt = 50  # code
    width: PositiveInt = 64  # code, of generators and judges
    blocks: PositiveInt = 9  # code
    skip: bool = False  # code
    epochs: PositiveInt = 100  # ours: as cyclegan
    batch_size: PositiveInt = 8  # ours: as cyclegan
    learning_rate: Positive = 1e-3  # ours: as cyclegan
    heads: Literal["main", "both"] = "main"  # ours: every network has it
    auxiliary_weight: NonNegative = 0.1  # ours: as advent
    align_epochs: PositiveInt = 10  # ours; code 100 000 steps of 1 image
    align_rate: Positive = 1e-5  # code
    align_weight: NonNegative = 0.1  # code
    align_width: PositiveInt = 512  # code, of the judge of scores
    gate: Fraction = 0.6  # code

    paper = Paper(
        "CyCADA: Cycle-consistent adversarial domain adaptation",
        "ICML 2018",
        "https://github.com/jhoffman/cycada_release",
    )
    phantom = {
        **{"translation_epochs": 4, "translation_batch": 4, "translation_rate": 1e-3, "pool": 8},
        **{"width": 8, "blocks": 2, "skip": True, "epochs": 2, "batch_size": 4},
        **{"align_epochs": 2, "align_rate": 1e-4, "align_width": 64},
    }
    smoke = {
        **{"translation_epochs": 2, "translation_batch": 4, "translation_rate": 1e-2, "gate": 0.3},
        **{"width": 4, "blocks": 1, "epochs": 1, "align_epochs": 2, "align_rate": 1e-2},
    }

    @property
    def needs(self) -> Needs:
        """Source data, and a second head where it trains both."""
        network = frozenset({"auxiliary"} if self.heads == "both" else ())
        return Needs(source_data=True, network=network)

    def adapt(self, context: Context) -> nn.Module:
        """The source comes under the task's augmentation, the target as it is."""
        import torch

        from sfdabench.models.discriminators import PixelDiscriminator
        from sfdabench.primitives.adversarial import Gate, fooling_pixels, frozen, judging_pixels
        from sfdabench.primitives.fine_tuning import all_heads
        from sfdabench.primitives.losses import weighted_heads
        from sfdabench.primitives.translation import (
            CyclePair,
            Players,
            examples,
            generator_losses,
            judge_losses,
            semantic_loss,
        )
        from sfdabench.primitives.views import SOURCE, identity

        view, size = SOURCE[context.augmentation], self.translation_batch
        shape: dict[str, Any] = {"width": self.width, "blocks": self.blocks, "skip": self.skip}
        pair = context.place(CyclePair(context.source, context.target, pool=self.pool, **shape))
        players = Players(pair, self.translation_rate, self.translation_epochs)
        source_model = context.model().requires_grad_(False)
        for _ in context.epochs(self.translation_epochs, deploy=None, **players.state):
            target = context.target.endless(size, plain=identity)
            for images, _ in context.source.pairs(size, view):
                shown = next(target).plain
                s, t = pair.units(images, shown)
                losses, *drawn = generator_losses(pair, s, t, self.cycle, 0.0)
                if self.semantic:
                    meaning = semantic_loss(pair, source_model, images, shown, drawn, context.head)
                    losses["semantic"] = self.semantic * meaning
                context.log(**losses)
                players.translate(losses)
                verdicts = judge_losses(pair, s, t, *drawn)
                context.log(**verdicts)
                players.judge(verdicts)
            players.end_epoch()
        context.show(**examples(pair, context.source, context.target))
        model = context.model()

        def supervised(images: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
            logits, weights = all_heads(model, images, self.heads), (1.0, self.auxiliary_weight)
            task = weighted_heads(logits, masks, weights, context.head, context.source_loss)
            context.log(task=task)
            return task

        adam = torch.optim.Adam(model.parameters(), self.learning_rate)
        for _ in context.epochs(self.epochs, deploy=model, optimiser=adam):
            model.train()
            for images, masks in context.source.pairs(self.batch_size, view):
                adam.zero_grad()
                supervised(pair.translate(images), masks).backward()
                adam.step()

        judge = PixelDiscriminator(context.head.outputs(len(context.classes)), self.align_width)
        context.place(judge)
        recipe: dict[str, Any] = {"lr": self.align_rate, "momentum": 0.99, "weight_decay": 5e-4}
        sgd, judge_sgd = (torch.optim.SGD(of.parameters(), **recipe) for of in (model, judge))
        state: dict[str, Any] = {"judge": judge, "sgd": sgd, "judge_sgd": judge_sgd}
        gate = Gate(self.gate)
        for _ in context.epochs(self.align_epochs, deploy=model, gate=gate, **state):
            model.train()
            target = context.target.endless(self.batch_size, plain=identity)
            for images, masks in context.source.pairs(self.batch_size, view):
                translated = pair.translate(images)
                of_target = model(next(target).plain)
                judging, right = judging_pixels(judge, model(translated).detach(), of_target)
                context.log(judging_scores=judging)
                judge_sgd.zero_grad()
                judging.backward()
                judge_sgd.step()
                if gate.opens(right):
                    with frozen(judge):
                        fooled = self.align_weight * fooling_pixels(judge, of_target)
                    context.log(fooling_scores=fooled)
                    sgd.zero_grad()
                    fooled.backward()
                    sgd.step()
                    sgd.zero_grad()
                    supervised(translated, masks).backward()
                    sgd.step()
        return model
