"""APL: adaptive pseudo labelling (ICASSP 2022), from its paper and methods-cross-modality.md §2."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from sfdabench.core.fields import NonNegative, Positive, PositiveInt
from sfdabench.core.head import SOFTMAX
from sfdabench.core.method import Method, Paper
from sfdabench.core.needs import Needs

if TYPE_CHECKING:
    from torch import Tensor, nn

    from sfdabench.core.context import Context


@dataclass(frozen=True)
class APL(Method):
    """Two heads learn to agree; the encoder learns what both say, weighed by their confidence.

    There is no code, and of the numbers below the paper gives none. Ours, too: batch norm stays
    as in the start model ("adabn+apl" begins with the target's statistics), and no augmentation.
    relevance: how W enters equation 1: "pixels" element by element, each a number of pixels;
        "shares" of the image's pixels, which leaves the consistency ten thousand times smaller;
        "product" as a matrix of numbers; "none" without it (BCDM's).
    deploy: whose winner is the prediction: of both heads' sum, as in the labels (the paper does
        not say what it scores), or of the main head.
    confidence: False for the row "L_Con" of Table 2: every pixel weighs 1.
    auxiliary_weight: of the auxiliary head's share of equation 4.
    reduction: what the weighted sum of equation 4 is divided by, the number of pixels or the sum
        of their weights.
    """

    epochs: PositiveInt = 10  # ours
    batch_size: PositiveInt = 8  # ours: as BCDM
    learning_rate: Positive = 2.5e-4  # ours: BCDM's, of the encoder
    head_factor: Positive = 10.0  # ours: BCDM's, times that rate
    power: NonNegative = 0.9  # ours: BCDM's polynomial decay
    relevance: Literal["pixels", "shares", "product", "none"] = "pixels"  # paper, below equation 1
    confidence: bool = True  # paper §2.3
    auxiliary_weight: NonNegative = 0.1  # ours: as AdaptSegNet's
    reduction: Literal["pixels", "confidence"] = "pixels"  # ours
    deploy: Literal["both", "main"] = "both"  # ours: as BCDM

    paper = Paper(
        "Adaptive pseudo labeling for source-free domain adaptation in medical image segmentation",
        "ICASSP 2022",
        "no public code",
    )
    needs = Needs(
        heads=(SOFTMAX,), network=frozenset({"auxiliary"}), changes=frozenset({"parameters"})
    )
    revision = 2
    phantom = {"epochs": 5}
    smoke = {"epochs": 2, "batch_size": 4}

    def adapt(self, context: Context) -> nn.Module:
        """Algorithm 1: labels and weights first, then the heads, then the encoder behind them."""
        import torch

        from sfdabench.models.composites import MergedHeads
        from sfdabench.primitives.fine_tuning import both_heads, encoder_and_heads, momentum_sgd
        from sfdabench.primitives.views import identity

        model = context.model()
        deployed = model
        if self.deploy == "both":
            deployed = MergedHeads(model, context.head, merge="probabilities")
        encoder, heads = encoder_and_heads(model)
        optimiser = momentum_sgd(encoder, heads, self.learning_rate, self.head_factor)
        steps = self.epochs * context.target.steps(self.batch_size)
        schedule = torch.optim.lr_scheduler.PolynomialLR(optimiser, steps, self.power)
        loop: dict[str, Any] = {"optimiser": optimiser, "schedule": schedule}
        for _ in context.epochs(self.epochs, deploy=deployed, **loop):
            for batch in context.target.batches(self.batch_size, plain=identity):
                p, q = (logits.softmax(dim=1) for logits in both_heads(model, batch.plain))
                merged = (p + q).detach() / 2
                label = SOFTMAX.one_hot(merged.argmax(dim=1, keepdim=True), merged)
                weight = margin(merged) if self.confidence else torch.ones_like(merged[:, 0])

                consistency = disagreement(relevance(p, q, self.relevance))
                context.log(consistency=consistency)
                optimiser.zero_grad()
                consistency.backward(inputs=heads)
                optimiser.step()
                del p, q, consistency  # and with them the activations of the encoder

                main, auxiliary = (
                    self.self_training(logits, label, weight)
                    for logits in both_heads(model, batch.plain)
                )
                self_training = main + self.auxiliary_weight * auxiliary
                context.log(self_training=self_training)
                context.track(confidence=weight.mean(), foreground=1 - label[:, 0].mean())
                optimiser.zero_grad()
                self_training.backward(inputs=encoder)
                optimiser.step()
                schedule.step()
        return deployed

    def self_training(self, logits: Tensor, label: Tensor, weight: Tensor) -> Tensor:
        """Equation 4 for one head: logits, label (B, C, H, W), weight (B, H, W)."""
        losses = -(label * logits.log_softmax(dim=1)).sum(dim=1)
        if self.reduction == "pixels":
            return (weight * losses).mean()
        return (weight * losses).sum() / weight.sum().clamp(min=1)


def margin(probability: Tensor) -> Tensor:
    """Equation 3: (B, C, H, W) -> how far the likeliest class is above the next, (B, H, W)."""
    first, second = probability.topk(2, dim=1).values.unbind(dim=1)
    return first - second


def relevance(main: Tensor, auxiliary: Tensor, weighting: str) -> Tensor:
    """Equation 1: probabilities (B, C, H, W) of both -> (B, C, C), mean over pixels of W p q^T.

    W_ij is the number of pixels of the image that the main head gives to class i and the auxiliary
    one to class j, or their share; it carries no gradient.
    """
    p, q = main.flatten(2), auxiliary.flatten(2)
    joint = p @ q.mT / p.shape[2]
    if weighting == "none":
        return joint
    i, j = (SOFTMAX.one_hot(maps.argmax(dim=1, keepdim=True), maps) for maps in (p, q))
    weights = i @ j.mT
    if weighting == "product":
        return weights @ joint
    return (weights / p.shape[2] if weighting == "shares" else weights) * joint


def disagreement(relevance: Tensor) -> Tensor:
    """Equation 2: (B, C, C) -> what lies off the diagonal, mean over images."""
    import torch

    # as a sum of what is left: the difference of the two sums would be rounding, most of it
    diagonal = torch.eye(relevance.shape[1], dtype=torch.bool, device=relevance.device)
    return relevance.masked_fill(diagonal, 0).sum(dim=(1, 2)).mean()
