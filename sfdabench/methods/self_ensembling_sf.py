"""Self-ensembling without the source: the consistency half of NeuroImage 2019."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from sfdabench.core.fields import Fraction, NonNegative, Positive, PositiveInt
from sfdabench.core.method import Method, Paper

if TYPE_CHECKING:
    from torch import nn

    from sfdabench.core.context import Context


@dataclass(frozen=True)
class SelfEnsemblingSF(Method):
    """Ours: `self_ensembling` less its supervised step, from methods-cross-modality.md §6.4.

    Nothing but the teacher's slowness keeps what the source taught. Adam divides the scale of a
    single loss out, so `weight` counts chiefly against the L2 penalty. An epoch is a pass over
    the target.
    """

    epochs: PositiveInt = 350  # as self_ensembling
    batch_size: PositiveInt = 12  # as self_ensembling
    learning_rate: Positive = 6e-4  # as self_ensembling
    rate_ramp: Fraction = 1 / 7  # as self_ensembling
    weight_decay: NonNegative = 6e-4  # as self_ensembling
    beta1: Fraction = 0.9  # as self_ensembling
    beta2: Fraction = 0.999  # as self_ensembling
    consistency: Literal["mse", "cross_entropy", "dice"] = "mse"  # as self_ensembling
    weight: Positive = 20.0  # as self_ensembling
    weight_ramp: Fraction = 2 / 7  # as self_ensembling
    early_ema: Fraction = 0.99  # as self_ensembling
    ema: Fraction = 0.999  # as self_ensembling
    ema_switch: Fraction = 1 / 7  # as self_ensembling
    deploy: Literal["teacher", "student"] = "teacher"  # as self_ensembling

    paper = Paper(
        "Unsupervised domain adaptation for medical imaging segmentation with self-ensembling",
        "NeuroImage 2019",
        "https://github.com/neuropoly/domainadaptation",
    )
    phantom = {"epochs": 20, "ema": 0.99}
    smoke = {"epochs": 3, "batch_size": 4, "ema_switch": 1.0}  # so that all resumed state counts

    def adapt(self, context: Context) -> nn.Module:
        """The consistency term of equation 3; both models in train mode."""
        import torch

        from sfdabench.primitives.losses import consistency_loss, probabilities
        from sfdabench.primitives.teacher import (
            ramp_up,
            ramp_up_and_down,
            update_teacher,
            warm_ema,
        )
        from sfdabench.primitives.views import anatomy_pair, identity

        student = context.model().train()
        teacher = context.model().train().requires_grad_(False)
        optimiser = torch.optim.Adam(
            student.parameters(),
            self.learning_rate,
            betas=(self.beta1, self.beta2),
            weight_decay=self.weight_decay,
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimiser, lambda epoch: ramp_up_and_down(epoch / self.epochs, self.rate_ramp)
        )
        step = torch.tensor(0)
        deployed, other = (teacher, student) if self.deploy == "teacher" else (student, teacher)
        loop = {"other": other, "optimiser": optimiser, "schedule": schedule, "step": step}
        for epoch in context.epochs(self.epochs, deploy=deployed, **loop):
            progress = epoch / self.epochs
            weight = self.weight * ramp_up(progress, self.weight_ramp)
            context.track(weight=weight)
            for batch in context.target.batches(self.batch_size, plain=identity):
                with torch.no_grad():
                    soft = probabilities(teacher(batch.plain), context.head)
                shown, soft = batch.paired(anatomy_pair, soft)
                consistency = consistency_loss(student(shown), soft, context.head, self.consistency)
                context.log(consistency=consistency)
                optimiser.zero_grad()
                (weight * consistency).backward()
                optimiser.step()
                step += 1
                early = warm_ema(int(step), self.early_ema)
                update_teacher(teacher, student, early if progress < self.ema_switch else self.ema)
            schedule.step()
        return deployed
