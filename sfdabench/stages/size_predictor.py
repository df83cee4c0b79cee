"""A regressor of class sizes, which SRDA's first version takes its ratio from.

SRDA (MICCAI 2020) and OSUDA's comparison with it, methods-compared.md §6.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sfdabench.core.fields import Positive, PositiveInt
from sfdabench.core.method import Paper
from sfdabench.core.stage import SourceStage

if TYPE_CHECKING:
    from torch import nn

    from sfdabench.core.context import SourceContext


@dataclass(frozen=True)
class SizePredictor(SourceStage):
    """A linear layer learns what share of a source image each class takes.

    It sees the source model's penultimate features, averaged over the image; the model stays as it
    is. The loss is the divergence of its shares from the true ones, the mean over images.

    Ours: the papers train a ResNet from ImageNet for it; nothing is tuned.
    """

    epochs: PositiveInt = 20  # ours
    batch_size: PositiveInt = 8  # ours
    learning_rate: Positive = 1e-3  # ours

    paper = Paper(
        "Source-relaxed domain adaptation for image segmentation",
        "MICCAI 2020",
        "https://github.com/mathilde-b/SRDA",
    )
    smoke = {"epochs": 2, "batch_size": 4, "learning_rate": 1e-2}

    def train(self, context: SourceContext) -> nn.Module:
        """Return a `Sized` model; notes its mean absolute error on the held-out source."""
        import torch

        from sfdabench.models.composites import Sized
        from sfdabench.models.gauge import Gauge
        from sfdabench.primitives.priors import outcomes, ratio_divergence, true_ratio
        from sfdabench.primitives.views import SOURCE

        source = context.model().requires_grad_(False)
        outputs = context.head.outputs(len(context.classes))
        images, _ = next(context.source.pairs(1, SOURCE["none"]))
        features = source.penultimate(images).shape[1]  # type: ignore[operator]
        model = Sized(source, Gauge(features, outputs)).to(images.device)
        optimiser = torch.optim.Adam(model.part.parameters(), self.learning_rate)
        view = SOURCE[context.augmentation]
        for _ in context.epochs(self.epochs, deploy=model, optimiser=optimiser):
            for images, masks in context.source.pairs(self.batch_size, view):
                predicted = outcomes(model.sizes(images), context.head)[..., 0, 0]
                loss = ratio_divergence(predicted, true_ratio(masks, context.head), "prior")
                context.log(loss=loss)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
        with torch.inference_mode():
            gaps = [
                (context.head.probabilities(model.sizes(images)) - masks.mean((2, 3), keepdim=True))
                for images, masks in context.validation.pairs(8, SOURCE["none"], shuffle=False)
            ]
        context.note(mean_absolute_error=float(torch.cat(gaps).abs().mean()))
        return model
