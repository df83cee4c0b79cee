"""CBMT: class-balanced mean teacher (MICCAI 2023), from its paper and methods-fundus.md §6."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from sfdabench.core.errors import BadInput
from sfdabench.core.fields import Fraction, Positive, PositiveInt
from sfdabench.core.head import SIGMOID
from sfdabench.core.method import Method, Paper
from sfdabench.core.near import unknown
from sfdabench.core.needs import Needs

if TYPE_CHECKING:
    from torch import Tensor, nn

    from sfdabench.core.context import Context


@dataclass(frozen=True)
class CBMT(Method):
    """A mean teacher whose cup loss weighs background pixels down by a ratio of mean losses.

    calibration: "loss" is the paper's (equations 5 and 6); "pixels" the pixel-count ratio of its
        supplement; "constant" our control, since the paper's ratio is about `constant_weight`
        for any density that is flat where it looks; "none" is a plain mean teacher.
    """

    epochs: PositiveInt = 20  # paper §3
    batch_size: PositiveInt = 8  # paper §3
    learning_rate: Positive = 5e-4  # paper §3
    lr_decay: Fraction = 0.9  # code, an epoch; not in the paper
    threshold: Fraction = 0.75  # paper §3, gamma
    ema: Fraction = 0.98  # paper §3, lambda of equation 4
    alpha: Fraction = 0.2  # paper §2.2
    calibration: Literal["loss", "pixels", "constant", "none"] = "loss"  # paper §2.2
    constant_weight: Fraction = 0.25  # ours: what Table 3 comes to
    calibrated_class: str = "cup"  # paper §3
    weak: Literal["identity", "fundus_strong"] = "identity"  # code; the paper's flip is not in it
    strong: Literal["identity", "fundus_strong"] = "fundus_strong"  # paper §2.1

    paper = Paper(
        "Source-free domain adaptive fundus image segmentation with class-balanced mean teacher",
        "MICCAI 2023",
        "https://github.com/lloongx/SFDA-CBMT",
    )
    needs = Needs(heads=(SIGMOID,))
    smoke = {"epochs": 2, "batch_size": 4}

    def check_classes(self, classes: Sequence[str]) -> None:
        """Raise BadInput where the calibrated class is none of the task's."""
        if self.calibrated_class not in classes:
            reason = unknown("class of this task", self.calibrated_class, classes)
            raise BadInput(f"--set calibrated_class={self.calibrated_class}: {reason}")

    def adapt(self, context: Context) -> nn.Module:
        """Both models in train mode: the teacher's statistics come from its own forward passes."""
        import torch

        from sfdabench.primitives.losses import weighted_bce
        from sfdabench.primitives.teacher import update_teacher
        from sfdabench.primitives.views import VIEWS

        channel = context.classes.index(self.calibrated_class)
        student, teacher = context.model(), context.model().requires_grad_(False)
        bank = self._source_statistics(context, student, channel)
        student.train()
        teacher.train()
        optimiser = torch.optim.Adam(student.parameters(), self.learning_rate, betas=(0.9, 0.99))
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimiser, self.lr_decay)
        loop: dict[str, Any]
        loop = {"student": student, "optimiser": optimiser, "schedule": schedule, "bank": bank}
        for _ in context.epochs(self.epochs, deploy=teacher, **loop):
            background_weight = self.background_weight(bank)
            context.track(weight=background_weight)
            for batch in context.target.batches(
                self.batch_size, weak=VIEWS[self.weak], strong=VIEWS[self.strong]
            ):
                logits = student(batch.strong)
                with torch.no_grad():
                    probability = teacher(batch.weak).sigmoid()
                pseudo_label = (probability > self.threshold).float()
                weight = torch.ones_like(pseudo_label)
                weight[:, channel].masked_fill_(pseudo_label[:, channel] == 0, background_weight)
                loss = weighted_bce(logits, pseudo_label, weight)
                context.log(loss=loss)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                update_teacher(teacher, student, self.ema)
                bank[batch.index] = self.statistics(probability[:, channel])
            schedule.step()
        return teacher

    def _source_statistics(self, context: Context, model: nn.Module, channel: int) -> Tensor:
        """The bank before the first epoch: un-augmented images, model in eval mode."""
        import torch

        from sfdabench.primitives.views import identity

        with torch.no_grad():
            return torch.cat(
                [
                    self.statistics(model(batch.plain).sigmoid()[:, channel])
                    for batch in context.target.batches(
                        self.batch_size, shuffle=False, plain=identity
                    )
                ]
            )

    def statistics(self, probability: Tensor) -> Tensor:
        """(B, H, W) -> (B, 4): foreground loss sum and count, background loss sum and count.

        All that equation 5 needs of the paper's bank of whole prediction maps. Under "loss" a
        pixel counts iff |p - gamma| / |label - gamma| < 1 - alpha: the paper prints "> alpha",
        which would keep the saturated pixels that it says it filters out; the code does this.
        """
        import torch

        p, gamma = probability.double().flatten(1), self.threshold
        label = p > gamma
        informative = torch.ones_like(label)
        if self.calibration == "loss":
            informative = (p - gamma).abs() / (label.double() - gamma).abs() < 1 - self.alpha
        foreground, background = label & informative, ~label & informative
        return torch.stack(
            [
                torch.where(foreground, -p.log(), 0.0).sum(dim=1),
                foreground.sum(dim=1),
                torch.where(background, -torch.log1p(-p), 0.0).sum(dim=1),
                background.sum(dim=1),
            ],
            dim=1,
        )

    def background_weight(self, bank: Tensor) -> float:
        """eta_fg / eta_bg of equation 6; 1 where either set is empty (ours: the code divides)."""
        if self.calibration == "none":
            return 1.0
        if self.calibration == "constant":
            return self.constant_weight
        foreground, n_foreground, background, n_background = bank.sum(dim=0).tolist()
        if not n_foreground or not n_background:
            return 1.0
        if self.calibration == "pixels":
            return n_foreground / n_background
        return (foreground / n_foreground) / (background / n_background)
