"""Mean teacher with weak and strong views: CBMT without its loss calibration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from sfdabench.core.fields import Fraction, Positive, PositiveInt
from sfdabench.core.method import Method, Paper

if TYPE_CHECKING:
    from torch import nn

    from sfdabench.core.context import Context


@dataclass(frozen=True)
class MeanTeacher(Method):
    """The teacher labels weak views, the student learns from strong ones, the teacher follows.

    Rows "P-L + EMA" (strong="identity") and "P-L + EMA + Aug." of CBMT's Table 2.
    """

    epochs: PositiveInt = 20  # CBMT paper §3
    batch_size: PositiveInt = 8  # CBMT paper §3
    learning_rate: Positive = 5e-4  # CBMT paper §3
    lr_decay: Fraction = 0.9  # CBMT code, an epoch; not in the paper
    threshold: Fraction = 0.75  # CBMT paper §3, gamma
    ema: Fraction = 0.98  # CBMT paper §3, lambda
    weak: Literal["identity", "fundus_strong"] = "identity"  # CBMT code; the paper's flip is not
    strong: Literal["identity", "fundus_strong"] = "fundus_strong"  # CBMT paper §2.1

    paper = Paper(
        "Mean teachers are better role models",
        "NeurIPS 2017",
        "https://arxiv.org/abs/1703.01780",
    )
    smoke = {"epochs": 2, "batch_size": 4}

    def adapt(self, context: Context) -> nn.Module:
        """Both models in train mode: the teacher's statistics come from its own forward passes."""
        import torch

        from sfdabench.primitives.losses import segmentation_loss
        from sfdabench.primitives.pseudo_labels import hard_labels
        from sfdabench.primitives.teacher import update_teacher
        from sfdabench.primitives.views import VIEWS

        student = context.model().train()
        teacher = context.model().train().requires_grad_(False)
        optimiser = torch.optim.Adam(student.parameters(), self.learning_rate, betas=(0.9, 0.99))
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimiser, self.lr_decay)
        for _ in context.epochs(
            self.epochs, deploy=teacher, student=student, optimiser=optimiser, schedule=schedule
        ):
            for batch in context.target.batches(
                self.batch_size, weak=VIEWS[self.weak], strong=VIEWS[self.strong]
            ):
                logits = student(batch.strong)
                with torch.no_grad():
                    labels, keep = hard_labels(teacher(batch.weak), context.head, self.threshold)
                loss = segmentation_loss(logits, labels, context.head, keep)
                context.log(loss=loss)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                update_teacher(teacher, student, self.ema)
            schedule.step()
        return teacher
