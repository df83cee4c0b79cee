"""SRDA (MICCAI 2020; AdaMI, MedIA 2022), from its papers and methods-compared.md §6."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from sfdabench.core.fields import Fraction, NonNegative, Positive, PositiveInt
from sfdabench.core.method import Method, Paper
from sfdabench.core.needs import Needs

if TYPE_CHECKING:
    from torch import nn

    from sfdabench.core.context import Context


@dataclass(frozen=True)
class SRDA(Method):
    """The model grows sure of what it predicts, and its classes take the share of the image that
    they have in the source. Also called CRUDA, AdaEnt and AdaMI.

    over: the ratio is matched in each image, or in the mean over a batch. Where many images lack a
        class, as planes of a volume do, a ratio for each image paints it in.
    balance: classes count in the entropy by one over their share; otherwise all alike.
    prior: the ratio to match, the source's mean or what the stage `size_predictor`, trained on the
        source, says of each image (MICCAI 2020, and CRUDA in OSUDA's tables). "predicted" needs
        penultimate features.
    divergence: AdaMI's from the prediction to the prior, or the other way round.

    Ours: a constant ratio is the source's mean. The papers' codes multiply an anatomical constant
    with the target's own labels ("tags" of which class an image shows), which no method may see
    here; and their regressor is a ResNet from ImageNet.
    """

    epochs: PositiveInt = 100  # code
    batch_size: PositiveInt = 24  # code
    learning_rate: Positive = 1e-6  # code
    decay: Fraction = 0.9  # code
    decay_every: PositiveInt = 20  # code, epochs
    weight_decay: NonNegative = 1e-4  # code
    weight: NonNegative = 1.0  # code, of the divergence
    over: Literal["image", "batch"] = "image"  # code
    prior: Literal["constant", "predicted"] = "constant"  # MedIA 2022
    balance: bool = True  # ours: the rule behind the code's constants
    divergence: Literal["predicted", "prior"] = "predicted"  # MedIA 2022

    paper = Paper(
        "Source-free domain adaptation for image segmentation",
        "MedIA 2022",
        "https://github.com/mathilde-b/SFDA",
    )
    phantom = {"epochs": 2, "batch_size": 8, "learning_rate": 1e-5, "over": "batch"}
    smoke = {"epochs": 2, "batch_size": 4, "learning_rate": 1e-3, "decay_every": 1}

    @property
    def needs(self) -> Needs:
        """The source's class ratio, and the stage that predicts one for each image."""
        if self.prior == "constant":
            return Needs(class_ratio=True)
        network = frozenset({"penultimate"})
        return Needs(class_ratio=True, source_stage="size_predictor", network=network)

    def adapt(self, context: Context) -> nn.Module:
        """In train mode, so it re-estimates the statistics of batch norm as AdaBN does."""
        import torch

        from sfdabench.primitives.priors import (
            known_ratio,
            outcome_weights,
            outcomes,
            predicted_ratio,
            ratio_divergence,
            weighted_entropy,
        )
        from sfdabench.primitives.views import identity

        model = context.model()
        known = known_ratio(context.class_ratio, context.classes, context.head)
        known = known.to(context.target.device)
        nu = outcome_weights(known) if self.balance else torch.ones_like(known)
        predictor: Any = context.stage() if self.prior == "predicted" else None
        optimiser = torch.optim.Adam(
            model.parameters(), self.learning_rate, weight_decay=self.weight_decay
        )
        schedule = torch.optim.lr_scheduler.StepLR(optimiser, self.decay_every, self.decay)
        loop: dict[str, Any] = {"optimiser": optimiser, "schedule": schedule}
        for _ in context.epochs(self.epochs, deploy=model, **loop):
            model.train()
            for batch in context.target.batches(self.batch_size, plain=identity):
                logits = model(batch.plain)
                p = outcomes(logits, context.head)
                ratio, wanted = predicted_ratio(p), known[None]
                if predictor is not None:
                    sizes = predictor.sizes(batch.plain)
                    wanted = outcomes(sizes, context.head)[..., 0, 0]
                if self.over == "batch":
                    ratio, wanted = (r.mean(dim=0, keepdim=True) for r in (ratio, wanted))
                entropy = weighted_entropy(p, nu)
                divergence = ratio_divergence(ratio, wanted, self.divergence)
                context.log(entropy=entropy, divergence=divergence)
                # met without a single labelled pixel where a class is spread thinly over all
                context.track(foreground=context.head.foreground_share(logits))
                optimiser.zero_grad()
                (entropy + self.weight * divergence).backward()
                optimiser.step()
            schedule.step()
        return model
