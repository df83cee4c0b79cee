"""SIFA (AAAI 2019, TMI 2020), from its papers and methods-compared.md §11."""

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
class SIFA(Method):
    """Images are translated to the target, and the encoder that segments them also draws the source
    back from its features; judges align images, predictions and reconstructions.

    The defaults are the second version. The first one has no low level (`low_level=false`), dropout
    on the logits, a rate that falls, and a game on predictions that sets in later.
    decay: of the segmenter's rate at every second epoch. align_from, align_full: shares of the run
        between which the weight of the games on predictions rises.
    image_weight: of cycle and realism of the drawn source, in the encoder's loss.
        prediction_weight, low_prediction_weight: of fooling the judges of both heads' logits.
        reconstruction_weight: of drawing the target as if it were a source image there and back.
        low_task_weight: of the low head's own loss.
    task: on the heads, the code's balanced cross-entropy and Dice, or the source model's loss.

    Ours: training starts from the source model, on any network with two heads (one will do for the
    first version); one forward pass serves all losses of a step, where the code has seven; the
    decoder's dropout acts in training only.
    """

    epochs: PositiveInt = 267  # code, 20 000 steps of 8
    batch_size: PositiveInt = 8  # code, of either domain
    learning_rate: Positive = 2e-4  # code, of the segmenter
    translation_rate: Positive = 2e-4  # code, of translators and judges
    decay: Fraction = 1.0  # code; version 1 has 0.9
    weight_decay: NonNegative = 1e-4  # code
    low_level: bool = True  # TMI 2020
    dropout: Fraction = 0.0  # code; version 1 has 0.25
    task: Literal["balanced", "source"] = "balanced"  # code
    cycle: NonNegative = 10.0  # code
    image_weight: NonNegative = 0.1  # code
    prediction_weight: NonNegative = 0.1  # code
    low_prediction_weight: NonNegative = 0.01  # code
    reconstruction_weight: NonNegative = 0.1  # code
    low_task_weight: NonNegative = 0.1  # code
    align_from: Fraction = 0.0  # code; version 1 has 5 of 20 epochs
    align_full: Fraction = 0.0  # code; version 1 has 7 of 20
    width: PositiveInt = 32  # code, of the generator
    blocks: PositiveInt = 9  # code
    decoder_width: PositiveInt = 128  # code
    judge_width: PositiveInt = 64  # code

    paper = Paper(
        "Unsupervised bidirectional cross-modality adaptation via deeply synergistic image and "
        "feature alignment for medical image segmentation",
        "TMI 2020",
        "https://github.com/cchen-cc/SIFA",
    )
    phantom = {
        **{"epochs": 4, "batch_size": 4, "learning_rate": 1e-3, "translation_rate": 1e-3},
        **{"width": 8, "blocks": 2, "decoder_width": 16, "judge_width": 8},
    }
    smoke = {
        **{"epochs": 3, "batch_size": 4, "learning_rate": 1e-2, "translation_rate": 1e-2},
        **{"width": 4, "blocks": 1, "decoder_width": 4, "judge_width": 4},
    }

    @property
    def needs(self) -> Needs:
        """Source data; both heads and their features, or those of one."""
        return Needs(
            source_data=True,
            network=frozenset({"penultimate", *(["auxiliary"] if self.low_level else [])}),
        )

    def adapt(self, context: Context) -> nn.Module:
        """Three backward passes on the graph of one step, each into networks of its own."""
        import torch

        from sfdabench.primitives.bidirectional import Bidirectional
        from sfdabench.primitives.losses import (
            balanced_cross_entropy,
            squared_dice_loss,
            supervised_loss,
        )
        from sfdabench.primitives.views import SOURCE, identity

        head, model, view = context.head, context.model(), SOURCE[context.augmentation]
        shape: dict[str, Any] = {"low_level": self.low_level, "dropout": self.dropout}
        shape |= {"width": self.width, "blocks": self.blocks}
        shape |= {"decoder_width": self.decoder_width, "judge_width": self.judge_width}
        outputs = head.outputs(len(context.classes))
        nets = context.place(Bidirectional(model, context.source, context.target, outputs, **shape))

        def of_labels(logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
            if self.task == "source":
                return supervised_loss(logits, masks, head, context.source_loss)
            dice = squared_dice_loss(logits, masks, head, background=True)
            return balanced_cross_entropy(logits, masks, head) + dice

        segmenter = torch.optim.Adam(
            model.parameters(), self.learning_rate, weight_decay=self.weight_decay
        )
        generator, decoder, judges = (
            torch.optim.Adam(of.parameters(), self.translation_rate, betas=(0.5, 0.999))
            for of in (nets.generator, nets.decoder, nets.judges)
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(segmenter, lambda e: self.decay ** (e // 2))
        loop: dict[str, Any] = {"nets": nets, "segmenter": segmenter, "schedule": schedule}
        loop |= {"generator": generator, "decoder": decoder, "judges": judges}
        task_weights = (1.0, self.low_task_weight)
        fooling_weights = (self.prediction_weight, self.low_prediction_weight)
        start, rise = self.align_from * self.epochs, self.align_full - self.align_from
        rise = max(1.0, rise * self.epochs + 1)
        for epoch in context.epochs(self.epochs, deploy=model, **loop):
            model.train()
            share = min(1.0, max(0.0, (epoch - start + 1) / rise))
            target = context.target.endless(self.batch_size, plain=identity)
            for images, masks in context.source.pairs(self.batch_size, view):
                shown = next(target).plain
                s, t = nets.units(images, shown)
                drawn = nets.draw(model, images, shown)
                losses = nets.losses(drawn, s, t, self.cycle)
                heads = zip(task_weights, drawn.of_source, strict=False)
                losses["task"] = torch.stack([w * of_labels(m, masks) for w, m in heads]).sum()
                context.log(**losses)
                of_image = losses["cycle"] + losses["fooling_source"]
                again = self.reconstruction_weight * losses["reconstruction"]
                of_segmenter = losses["task"] + self.image_weight * of_image + again
                for name, weight in zip(nets.heads, fooling_weights, strict=False):
                    of_segmenter = of_segmenter + share * weight * losses[name]
                for optimiser, network, loss in (
                    (generator, nets.generator, losses["cycle"] + losses["fooling_target"]),
                    (segmenter, model, of_segmenter),
                    (decoder, nets.decoder, of_image),
                ):
                    optimiser.zero_grad()
                    loss.backward(inputs=[*network.parameters()], retain_graph=True)
                for optimiser in (generator, segmenter, decoder):
                    optimiser.step()
                verdicts = nets.judging(drawn, s, t)
                context.log(**verdicts)
                judges.zero_grad()
                torch.stack([*verdicts.values()]).sum().backward()
                judges.step()
            schedule.step()
        context.show(**nets.examples(model, context.source, context.target))
        return model
