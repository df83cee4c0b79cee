"""P-L: vanilla pseudo-labelling, the first row of CBMT's Table 2."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from sfdabench.core.fields import Fraction, Positive, PositiveInt
from sfdabench.core.method import Method, Paper

if TYPE_CHECKING:
    from torch import nn

    from sfdabench.core.context import Context


@dataclass(frozen=True)
class PseudoLabel(Method):
    """The model trains on its own thresholded predictions.

    The authors' code for this row was never published; the defaults are the most plausible
    reading of the paper (methods-fundus.md §6b), the other readings are field values.
    labels: "online" from the model as it trains, "offline" from the source model throughout.
    label_mode: whether the labelling pass uses batch statistics and dropout.
    """

    epochs: PositiveInt = 20  # paper §3
    batch_size: PositiveInt = 8  # paper §3
    learning_rate: Positive = 2.5e-5  # paper §3.2: 5e-4 "reduced by a factor of 20"
    lr_decay: Fraction = 0.9  # CBMT's code, an epoch
    threshold: Fraction = 0.75  # paper §3, gamma
    labels: Literal["online", "offline"] = "online"  # ours: the paper does not say
    label_mode: Literal["train", "eval"] = "train"  # ours: as CBMT's teacher

    paper = Paper(
        "Source-free domain adaptive fundus image segmentation with class-balanced mean teacher",
        "MICCAI 2023",
        "https://github.com/lloongx/SFDA-CBMT",
    )
    smoke = {"epochs": 2, "batch_size": 4, "learning_rate": 1e-3}

    def adapt(self, context: Context) -> nn.Module:
        """Equations 1 and 2 of the paper."""
        import torch

        from sfdabench.primitives.losses import segmentation_loss
        from sfdabench.primitives.pseudo_labels import hard_labels
        from sfdabench.primitives.views import identity

        model, source = context.model(), context.model()
        labeller = model if self.labels == "online" else source
        optimiser = torch.optim.Adam(model.parameters(), self.learning_rate, betas=(0.9, 0.99))
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimiser, self.lr_decay)
        for _ in context.epochs(
            self.epochs, deploy=model, optimiser=optimiser, schedule=schedule, source=source
        ):
            for batch in context.target.batches(self.batch_size, plain=identity):
                model.train()
                if labeller is model and self.label_mode == "train":
                    logits = label_logits = model(batch.plain)
                else:
                    labeller.train(self.label_mode == "train")
                    with torch.no_grad():
                        label_logits = labeller(batch.plain)
                    model.train()
                    logits = model(batch.plain)
                labels, keep = hard_labels(label_logits, context.head, self.threshold)
                loss = segmentation_loss(logits, labels, context.head, keep)
                context.log(loss=loss)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
            schedule.step()
        return model
