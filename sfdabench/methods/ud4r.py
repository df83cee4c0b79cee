"""U-D4R (MICCAI 2022): our reading, from its abstract and methods-compared.md §5."""

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
class UD4R(Method):
    """The model learns pseudo labels of the source model, cut at a threshold of each class's own,
    in which labels that its repeated predictions contradict are turned over, as far as these agree.

    Our reading of the abstract, since neither code nor full text could be found; rates are those of
    DPL, which is by others. Labels come from running statistics of batch norm, the predictions that
    contradict them from those of the batch and dropout: in one prediction and its own labels
    confident learning finds nothing.
    correction: how far a label that is found noisy moves to its opposite: by one minus the entropy
        of the mean prediction, by 0.8, or all the way.
    dropout: used only where the network has none of its own.

    Under softmax each class is cut and corrected against the rest, then the labels of a pixel are
    scaled to a sum of 1.
    """

    epochs: PositiveInt = 2  # paper, abstract
    batch_size: PositiveInt = 8  # ours: as dpl
    learning_rate: Positive = 2e-3  # ours: as dpl
    passes: Annotated[int, Ge(2)] = 10  # ours: as dpl
    correction: Literal["uncertainty", "smooth", "hard"] = "uncertainty"  # MTCL, code of its author
    dropout: Fraction = 0.1  # ours: as dpl
    strong: Literal["identity", "fundus_strong"] = "fundus_strong"  # ours: as dpl

    paper = Paper(
        "Denoising for relaxing: unsupervised domain adaptive fundus image segmentation without "
        "source data",
        "MICCAI 2022",
        "https://doi.org/10.1007/978-3-031-16443-9_21",
    )
    needs = Needs(network=frozenset({"penultimate"}))
    phantom = {"epochs": 4}
    smoke = {"passes": 2, "batch_size": 4, "dropout": 0.5}

    def adapt(self, context: Context) -> nn.Module:
        """Label once, correct once, with models of their own; then train all weights of another."""
        import torch

        from sfdabench.primitives.losses import segmentation_loss
        from sfdabench.primitives.noisy_labels import corrected_labels
        from sfdabench.primitives.prototypes import repeated_predictions
        from sfdabench.primitives.views import VIEWS, identity

        first, second, parts = context.model(), context.model(), []
        for batch in context.target.batches(self.batch_size, shuffle=False, plain=identity):
            with torch.no_grad():
                single = context.head.probabilities(first(batch.plain))
            spread = repeated_predictions(
                *(second, batch.plain, context.head),
                passes=self.passes,
                temperature=1.0,
                statistics="batch",
                dropout=self.dropout,
            )
            parts.append([single, spread.mean])
        single, mean = (torch.cat(maps) for maps in zip(*parts, strict=True))
        labels, noisy = corrected_labels(single, mean, context.head, self.correction)
        model, view = context.model(), VIEWS[self.strong]
        optimiser = torch.optim.Adam(model.parameters(), self.learning_rate, betas=(0.9, 0.99))
        for _ in context.epochs(self.epochs, deploy=model, optimiser=optimiser):
            model.train()
            for batch in context.target.batches(self.batch_size, strong=view):
                target = labels[batch.index].to(batch.strong)
                loss = segmentation_loss(model(batch.strong), target, context.head)
                context.log(loss=loss)
                context.track(noisy=noisy, foreground=target.mean())
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
        return model
