"""SEAT (DART 2019): our reading, from what later papers say of it and methods-compared.md §12."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sfdabench.core.fields import Fraction, NonNegative, Positive, PositiveInt
from sfdabench.core.method import Method, Paper
from sfdabench.core.needs import Needs

if TYPE_CHECKING:
    from torch import nn

    from sfdabench.core.context import Context


@dataclass(frozen=True)
class SEAT(Method):
    """The student learns from source labels, to agree with its average on the target, and to have
    its target's probability maps taken for the source's by a discriminator.

    A reconstruction of ours: neither code nor full text could be found. Known is that a mean
    teacher and an adversarial loss on outputs are trained together; the first is self-ensembling's,
    the second AdaptSegNet's.
    rate_ramp, weight_ramp, ema_switch: shares of the run, as in self_ensembling.
    """

    epochs: PositiveInt = 350  # ours: as self_ensembling, passes over the source
    batch_size: PositiveInt = 12  # ours: as self_ensembling
    learning_rate: Positive = 6e-4  # ours: as self_ensembling
    rate_ramp: Fraction = 1 / 7  # ours: as self_ensembling
    weight_decay: NonNegative = 6e-4  # ours: as self_ensembling
    weight: NonNegative = 20.0  # ours: as self_ensembling, of the consistency
    weight_ramp: Fraction = 2 / 7  # ours: as self_ensembling
    early_ema: Fraction = 0.99  # ours: as self_ensembling
    ema: Fraction = 0.999  # ours: as self_ensembling
    ema_switch: Fraction = 1 / 7  # ours: as self_ensembling
    adversarial_weight: NonNegative = 1e-3  # ours: as adaoutput
    judge_rate: Positive = 1e-4  # ours: as adaoutput
    width: PositiveInt = 64  # ours: as adaoutput, of the discriminator

    paper = Paper(
        "Intramodality domain adaptation using self ensembling and adversarial training",
        "DART 2019",
        "https://doi.org/10.1007/978-3-030-33391-1_4",
    )
    phantom = {"epochs": 8, "ema": 0.99, "width": 16, "judge_rate": 1e-3}
    smoke = {
        **{"epochs": 3, "batch_size": 4, "ema_switch": 1.0},
        **{"width": 4, "judge_rate": 1e-2, "adversarial_weight": 0.1},
    }

    needs = Needs(source_data=True)

    def adapt(self, context: Context) -> nn.Module:
        """Both models in train mode; the teacher is deployed."""
        import torch

        from sfdabench.models.discriminators import OutputDiscriminator
        from sfdabench.primitives.adversarial import fooling, frozen, judging
        from sfdabench.primitives.losses import consistency_loss, supervised_loss
        from sfdabench.primitives.teacher import (
            ramp_up,
            ramp_up_and_down,
            update_teacher,
            warm_ema,
        )
        from sfdabench.primitives.views import SOURCE, anatomy_pair, identity

        head, size, view = context.head, self.batch_size, SOURCE[context.augmentation]
        student = context.model().train()
        teacher = context.model().train().requires_grad_(False)
        judge = OutputDiscriminator(head.outputs(len(context.classes)), self.width)
        judges = context.place(torch.nn.ModuleList([judge]))
        optimiser = torch.optim.Adam(
            student.parameters(), self.learning_rate, weight_decay=self.weight_decay
        )
        judge_optimiser = torch.optim.Adam(judges.parameters(), self.judge_rate, betas=(0.9, 0.99))
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimiser, lambda epoch: ramp_up_and_down((epoch + 1) / self.epochs, self.rate_ramp)
        )
        step = torch.tensor(0)
        loop: dict[str, Any] = {"student": student, "optimiser": optimiser, "schedule": schedule}
        loop |= {"judges": judges, "judge_optimiser": judge_optimiser, "step": step}
        for epoch in context.epochs(self.epochs, deploy=teacher, **loop):
            progress = (epoch + 1) / self.epochs
            weight = self.weight * ramp_up(progress, self.weight_ramp)
            context.track(weight=weight)
            target = context.target.endless(size, plain=identity)
            for images, masks in context.source.pairs(size, view):
                batch = next(target)
                with torch.no_grad():
                    soft = head.probabilities(teacher(batch.plain))
                shown, soft = batch.paired(anatomy_pair, soft)
                of_source, of_target = student(images), student(shown)
                source_maps = [head.probabilities(of_source)]
                target_maps = [head.probabilities(of_target)]
                losses = {
                    "task": supervised_loss(of_source, masks, head, context.source_loss),
                    "consistency": weight * consistency_loss(of_target, soft, head, "mse"),
                }
                with frozen(judges):
                    losses["fooling"] = fooling(judges, target_maps, [self.adversarial_weight])
                context.log(**losses)
                optimiser.zero_grad()
                torch.stack([*losses.values()]).sum().backward()
                optimiser.step()
                verdict = judging(judges, source_maps, target_maps)
                context.log(judging=verdict)
                judge_optimiser.zero_grad()
                verdict.backward()
                judge_optimiser.step()
                step += 1
                ceiling = self.early_ema if progress <= self.ema_switch else self.ema
                update_teacher(teacher, student, warm_ema(int(step), ceiling))
            schedule.step()
        return teacher
