"""Self-ensembling (NeuroImage 2019), from its paper and methods-cross-modality.md §6."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from sfdabench.core.errors import BadInput
from sfdabench.core.fields import Fraction, NonNegative, Positive, PositiveInt
from sfdabench.core.method import Method, Paper
from sfdabench.core.needs import Needs, Raters

if TYPE_CHECKING:
    from torch import nn

    from sfdabench.core.context import Context


@dataclass(frozen=True)
class SelfEnsembling(Method):
    """The student learns from source labels, and to agree with its average on the target.

    source: False leaves the supervised step out, from methods-cross-modality.md §6.4 (ours). Then
        no source image is looked at, an epoch is a pass over the target, and nothing but the
        teacher's slowness keeps what the source taught. Adam divides the scale of a single loss
        out, so `weight` counts chiefly against the L2 penalty.
    consistency: "none" is Table 3's ablation of the average: the target is not looked at. With
        deploy="student" as well it is Table 1's baseline, supervised only and without average.
    rate_ramp, weight_ramp, ema_switch: shares of the run, so that a short one sees the whole
        schedule too; of 350 epochs they are the 50, 100 and 50 of the code.

    Ours: student and teacher start from the source model, as every method here does. The paper
    trains from random weights while it adapts; `--source-set epochs=1` comes near that.
    Ours too: a short last batch is kept. The view of the source is the task's, which for the
    spinal cord is the paper's.
    raters: the masks of source images; "each" makes an image of its own of every rater's, as in
        the code, so an epoch has as many times the steps.
    """

    source: bool = True  # paper §4
    raters: Raters = "each"  # code
    epochs: PositiveInt = 350  # paper §4.4, passes over the source
    batch_size: PositiveInt = 12  # paper §4.4, of either domain
    learning_rate: Positive = 6e-4  # code
    rate_ramp: Fraction = 1 / 7  # paper §4.4: rises for 50 epochs, then falls as a cosine
    weight_decay: NonNegative = 6e-4  # paper §4.4, L2
    beta1: Fraction = 0.9  # code; the paper's 0.99 is not in it
    beta2: Fraction = 0.999  # paper §4.4
    consistency: Literal["mse", "cross_entropy", "dice", "none"] = "mse"  # code, of Table 1
    weight: Positive = 20.0  # code, of Table 1; Table 2 has 5 to 20
    weight_ramp: Fraction = 2 / 7  # code: 100 epochs
    early_ema: Fraction = 0.99  # code
    ema: Fraction = 0.999  # code, after the switch
    ema_switch: Fraction = 1 / 7  # code: 50 epochs
    deploy: Literal["teacher", "student"] = "teacher"  # paper §7.1; Table 1 does not say

    paper = Paper(
        "Unsupervised domain adaptation for medical imaging segmentation with self-ensembling",
        "NeuroImage 2019",
        "https://github.com/neuropoly/domainadaptation",
    )
    revision = 2
    phantom = {"epochs": 8, "ema": 0.99}
    smoke = {"epochs": 3, "batch_size": 4, "ema_switch": 1.0}  # so that all resumed state counts

    def __post_init__(self) -> None:
        if not self.source and self.consistency == "none":
            raise BadInput("consistency=none with source=false: no loss is left to learn from")

    @property
    def needs(self) -> Needs:
        """Source data, unless the supervised step is left out."""
        return Needs(source_data=self.source, raters=self.raters)

    def adapt(self, context: Context) -> nn.Module:
        """Equation 3; both models in train mode, so the teacher's dropout is on."""
        import torch

        from sfdabench.primitives.losses import consistency_loss, dice_loss
        from sfdabench.primitives.teacher import (
            ramp_up,
            ramp_up_and_down,
            update_teacher,
            warm_ema,
        )
        from sfdabench.primitives.views import SOURCE, anatomy_pair, identity

        student = context.model().train()
        teacher = context.model().train().requires_grad_(False)
        optimiser = torch.optim.Adam(
            student.parameters(),
            self.learning_rate,
            betas=(self.beta1, self.beta2),
            weight_decay=self.weight_decay,
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimiser, lambda epoch: ramp_up_and_down((epoch + 1) / self.epochs, self.rate_ramp)
        )
        step = torch.tensor(0)
        deployed, other = (teacher, student) if self.deploy == "teacher" else (student, teacher)
        loop: dict[str, Any] = {"other": other, "optimiser": optimiser, "schedule": schedule}
        size, view = self.batch_size, SOURCE[context.augmentation]
        for epoch in context.epochs(self.epochs, deploy=deployed, step=step, **loop):
            progress = (epoch + 1) / self.epochs
            weight = self.weight * ramp_up(progress, self.weight_ramp)
            context.track(weight=weight)
            target = context.target.endless(size, plain=identity)
            if self.source:
                source = context.source.endless_pairs(size, view)
            for _ in range((context.source if self.source else context.target).steps(size)):
                losses, loss = {}, torch.zeros(())
                if self.source:
                    images, masks = next(source)
                    losses["task"] = loss = dice_loss(student(images), masks, context.head)
                if self.consistency == "none":
                    with torch.no_grad():
                        teacher(images)  # its batch-norm statistics, where it has any
                else:
                    batch = next(target)
                    with torch.no_grad():
                        soft = context.head.probabilities(teacher(batch.plain))
                    shown, soft = batch.paired(anatomy_pair, soft)
                    losses["consistency"] = consistency_loss(
                        student(shown), soft, context.head, self.consistency
                    )
                    loss = loss + weight * losses["consistency"]
                context.log(**losses)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                step += 1
                ceiling = self.early_ema if progress <= self.ema_switch else self.ema
                update_teacher(teacher, student, warm_ema(int(step), ceiling))
            schedule.step()
        return deployed
