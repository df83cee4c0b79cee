"""Oracle: the source model fine-tuned on the target's own labels. An upper bound, declared so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from sfdabench.core.fields import Fraction, Positive, PositiveInt
from sfdabench.core.method import Method
from sfdabench.core.needs import Needs

if TYPE_CHECKING:
    from torch import nn

    from sfdabench.core.context import Context


@dataclass(frozen=True)
class Supervised(Method):
    """What labels of the target training split would bring; not an adaptation method."""

    epochs: PositiveInt = 40  # ours: twice CBMT's
    batch_size: PositiveInt = 8  # as CBMT
    learning_rate: Positive = 1e-3  # CBMT's source training
    lr_decay: Fraction = 0.95  # ours: an eighth of the rate is left at the end
    augmentation: Literal["task", "none", "fundus"] = "task"  # ours: the task's mild view

    needs = Needs(target_labels=True)
    phantom = {"epochs": 10, "lr_decay": 0.8}
    smoke = {"epochs": 2, "batch_size": 4}

    def adapt(self, context: Context) -> nn.Module:
        """Source training's loss on target labels, last epoch."""
        import torch

        from sfdabench.primitives.losses import supervised_loss
        from sfdabench.primitives.views import SOURCE

        model = context.model().train()
        optimiser = torch.optim.Adam(model.parameters(), self.learning_rate, betas=(0.9, 0.99))
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimiser, self.lr_decay)
        view = SOURCE[context.augmentation if self.augmentation == "task" else self.augmentation]
        for _ in context.epochs(self.epochs, deploy=model, optimiser=optimiser, schedule=schedule):
            for images, masks in context.labelled_target.pairs(self.batch_size, view):
                loss = supervised_loss(model(images), masks, context.head, context.source_loss)
                context.log(loss=loss)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
            schedule.step()
        return model
