"""Threshold: off-line pseudo labels of the sure pixels (Lee 2013), row one of APL's Table 2."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sfdabench.core.fields import Fraction, NonNegative, Positive, PositiveInt
from sfdabench.core.method import Method, Paper
from sfdabench.core.needs import Needs

if TYPE_CHECKING:
    from torch import Tensor, nn

    from sfdabench.core.context import Context


@dataclass(frozen=True)
class Threshold(Method):
    """The start model labels the target once; the pixels that it is sure of train it.

    Lee's labels are taken anew at every step, with a weight that grows; APL says only that a
    threshold is set by hand. Ours: one round, APL's optimiser and budget (methods-cross-modality
    §3.1), no augmentation, batch norm as in the start model. Under a sigmoid head each channel is
    sure or not on its own.
    threshold: a pixel is ignored where no class is as likely as this; no class has a quota, so
        small ones vanish first.
    flip: labels from the mean over an image and its mirror image.
    """

    epochs: PositiveInt = 10  # ours: as APL
    batch_size: PositiveInt = 8  # ours: as APL
    learning_rate: Positive = 2.5e-4  # ours: as APL
    head_factor: Positive = 10.0  # ours: as APL
    power: NonNegative = 0.9  # ours: as APL
    threshold: Fraction = 0.9  # ours: APL does not say
    flip: bool = False  # ours: in a body left is not right

    paper = Paper(
        "Pseudo-label: the simple and efficient semi-supervised learning method for deep neural "
        "networks",
        "ICML workshop 2013",
        "no public code",
    )
    needs = Needs(changes=frozenset({"parameters"}))
    phantom = {"epochs": 5}
    smoke = {"epochs": 2, "batch_size": 4}

    def adapt(self, context: Context) -> nn.Module:
        """Label, then train; both in eval mode."""
        import torch

        from sfdabench.primitives.fine_tuning import encoder_and_heads, momentum_sgd
        from sfdabench.primitives.losses import segmentation_loss
        from sfdabench.primitives.pseudo_labels import mean_over_views, sure_labels, training_target
        from sfdabench.primitives.views import identity

        model, head = context.model(), context.head

        def sure(images: Tensor) -> Tensor:
            maps = mean_over_views(model, images, head, flip=self.flip)
            return sure_labels(maps, head, self.threshold)

        batches = context.target.batches(self.batch_size, shuffle=False, plain=identity)
        labels = torch.cat([sure(batch.plain) for batch in batches])
        encoder, heads = encoder_and_heads(model)
        optimiser = momentum_sgd(encoder, heads, self.learning_rate, self.head_factor)
        steps = self.epochs * context.target.steps(self.batch_size)
        schedule = torch.optim.lr_scheduler.PolynomialLR(optimiser, steps, self.power)
        for _ in context.epochs(self.epochs, deploy=model, optimiser=optimiser, schedule=schedule):
            for batch in context.target.batches(self.batch_size, plain=identity):
                logits = model(batch.plain)
                target, keep = training_target(labels[batch.index], logits, head)
                loss = segmentation_loss(logits, target, head, keep)
                context.log(loss=loss)
                context.track(kept=keep.mean())
                optimiser.zero_grad()
                loss.backward(inputs=[*encoder, *heads])
                optimiser.step()
                schedule.step()
        return model
