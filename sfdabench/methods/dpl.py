"""DPL (MICCAI 2021), from its paper, methods-fundus.md §7 and methods-compared.md §4."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge

from sfdabench.core.fields import Fraction, Positive, PositiveInt
from sfdabench.core.method import Method, Paper
from sfdabench.core.needs import Needs

if TYPE_CHECKING:
    from torch import nn

    from sfdabench.core.context import Context


@dataclass(frozen=True)
class DPL(Method):
    """The model learns pseudo labels of the source model, only where repeated predictions agree
    and where the label fits its class's prototype among the features.

    threshold: of the mean probability. temperature, uncertainty: of the deviation among passes.
    statistics: of batch norm while labels are made, the batch's or the source's.
    dropout: used only where the network has none of its own.
    shuffle: of the training batches. Labels are always made in file order, since those of a batch
        depend on each other.

    Ours: what is deployed predicts in eval mode; the code predicts in train mode, image by image,
    and prints the better of its two epochs. Any network with penultimate features will do; the
    paper's has a boundary branch as well, which its adaptation does not train.
    """

    epochs: PositiveInt = 2  # paper §3
    batch_size: PositiveInt = 8  # code
    learning_rate: Positive = 2e-3  # code
    threshold: Fraction = 0.75  # paper §3
    passes: Annotated[int, Ge(2)] = 10  # paper §3
    temperature: Positive = 2.0  # code
    uncertainty: Positive = 0.05  # paper §3
    statistics: Literal["batch", "running"] = "batch"  # code
    dropout: Fraction = 0.1  # ours
    strong: Literal["identity", "fundus_strong"] = "fundus_strong"  # code
    shuffle: bool = False  # code

    paper = Paper(
        "Source-free domain adaptive fundus image segmentation with denoised pseudo-labeling",
        "MICCAI 2021",
        "https://github.com/cchen-cc/SFDA-DPL",
    )
    revision = 2
    needs = Needs(network=frozenset({"penultimate"}))
    phantom = {"epochs": 4}
    smoke = {"passes": 2, "batch_size": 4, "dropout": 0.5}

    def adapt(self, context: Context) -> nn.Module:
        """Label once, with a model of its own; then train all weights of another on that."""
        import torch

        from sfdabench.primitives.losses import segmentation_loss
        from sfdabench.primitives.prototypes import denoised_labels, repeated_predictions
        from sfdabench.primitives.views import VIEWS, identity

        labeller, parts = context.model(), []
        for batch in context.target.batches(self.batch_size, shuffle=False, plain=identity):
            spread = repeated_predictions(
                *(labeller, batch.plain, context.head),
                passes=self.passes,
                temperature=self.temperature,
                statistics=self.statistics,
                dropout=self.dropout,
            )
            pair = denoised_labels(
                spread, context.head, threshold=self.threshold, uncertainty=self.uncertainty
            )
            parts.append([maps.to(torch.uint8) for maps in pair])
        labels, kept = (torch.cat(maps) for maps in zip(*parts, strict=True))
        model, view = context.model(), VIEWS[self.strong]
        optimiser = torch.optim.Adam(model.parameters(), self.learning_rate, betas=(0.9, 0.99))
        for _ in context.epochs(self.epochs, deploy=model, optimiser=optimiser):
            model.train()
            batches = context.target.batches(self.batch_size, shuffle=self.shuffle, strong=view)
            for batch in batches:
                target, keep = labels[batch.index].float(), kept[batch.index].float()
                loss = segmentation_loss(model(batch.strong), target, context.head, keep=keep)
                context.log(loss=loss)
                context.track(kept=keep.mean(), foreground=(target * keep).mean())
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
        return model
