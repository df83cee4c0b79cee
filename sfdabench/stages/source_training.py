"""Source training: a network learns the source's labels, and the best epoch on its own test split
is kept (methods-fundus.md §5: CBMT's training).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sfdabench.core.stage import SourceStage
from sfdabench.core.task import Training

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

    from sfdabench.core.context import SourceContext
    from sfdabench.core.head import Head
    from sfdabench.core.streams import LabelledStream


@dataclass(frozen=True, kw_only=True)
class SourceTraining(Training, SourceStage):
    """Adam with the recipe's loss and a rate that changes every epoch.

    An auxiliary head learns the same with a weight of its own.
    """

    smoke = {"epochs": 2, "batch_size": 4, "validate_every": 1}

    def train(self, context: SourceContext) -> nn.Module:
        """Return the model of the selected epoch; notes the epoch and its validation Dice."""
        import torch

        from sfdabench.primitives.losses import supervised_loss
        from sfdabench.primitives.views import training_view

        model = context.model()
        optimiser = torch.optim.Adam(
            model.parameters(),
            lr=self.learning_rate,
            betas=(self.beta1, self.beta2),
            weight_decay=self.weight_decay,
        )
        schedule = self._schedule(optimiser)
        view = training_view(self.augmentation, context.source.size)
        best = copy.deepcopy(model)
        best_seen = torch.tensor([-1.0, -1.0])  # Dice, epoch
        epochs = context.epochs(
            self.epochs,
            deploy=model,
            optimiser=optimiser,
            schedule=schedule,
            best=best,
            best_seen=best_seen,
        )
        auxiliary = self.auxiliary_weight if hasattr(model.network, "heads") else 0.0
        for epoch in epochs:
            model.train()
            for images, masks in context.source.pairs(self.batch_size, view):
                heads = model.heads(images) if auxiliary else (model(images),)  # type: ignore[operator]
                losses = [
                    supervised_loss(logits, masks, context.head, self.loss) for logits in heads
                ]
                loss = losses[0] + auxiliary * losses[-1] if auxiliary else losses[0]
                context.log(loss=loss)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
            schedule.step()
            if (epoch + 1) % self.validate_every == 0 or epoch + 1 == self.epochs:
                dice = validation_dice(model, context.validation, context.head, self.threshold)
                context.track(validation_dice=dice)
                if dice > best_seen[0] or self.select == "last":
                    best.load_state_dict(model.state_dict())
                    best_seen.copy_(torch.tensor([dice, float(epoch)]))
        context.note(selected_epoch=int(best_seen[1]), validation_dice=float(best_seen[0]))
        return best

    def _schedule(self, optimiser: Optimizer) -> LRScheduler:
        """Of the rate, stepped after each epoch."""
        from torch.optim.lr_scheduler import ExponentialLR, LambdaLR

        from sfdabench.primitives.teacher import ramp_up_and_down

        if self.schedule == "exponential":
            return ExponentialLR(optimiser, self.decay)
        return LambdaLR(optimiser, lambda e: ramp_up_and_down((e + 1) / self.epochs, self.ramp))


def validation_dice(
    model: nn.Module, stream: LabelledStream, head: Head, threshold: float
) -> float:
    """Mean over images and classes of (2 I + 1) / (P + G + 1) on the network's grid."""
    import torch

    from sfdabench.primitives.views import SOURCE

    model.eval()
    total, count = 0.0, 0
    with torch.inference_mode():
        for images, masks in stream.pairs(8, SOURCE["none"], shuffle=False):
            hard = head.masks_of_logits(model(images), threshold).float()
            truth = head.without_background(masks)
            shared = (hard * truth).sum(dim=(2, 3))
            size = hard.sum(dim=(2, 3)) + truth.sum(dim=(2, 3))
            dice = (2 * shared + 1) / (size + 1)
            total, count = total + dice.sum().item(), count + dice.numel()
    return total / count
