"""OSUDA: off-the-shelf source-free adaptation by batch norm (MICCAI 2021), from its paper and
methods-cross-modality.md §5; no public code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from sfdabench.core.fields import Fraction, NonNegative, Positive, PositiveInt
from sfdabench.core.method import Method, Paper
from sfdabench.core.needs import Needs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn
    from torch.nn.modules.batchnorm import _BatchNorm

    from sfdabench.core.context import Context
    from sfdabench.primitives.batch_norm import Moments

SCALED_SPAN = 5.0  # ours: exp(-5) leaves less than 1 % of the source's statistics at the end


@dataclass(frozen=True)
class OSUDA(Method):
    """Statistics are handed over to the target, scale and shift held to the source's.

    decay_unit: what t counts in exp(-t). After six iterations nothing is left of the source: a
        switch, in the paper's own unit. "epoch" and "scaled" (t from 0 to 5 over the whole
        adaptation) hand over gradually, which is what the paper says.
    channel_weighting: False is OSUDA-AC, which halves the consistency loss as well. Under
        consistency="sum" and Adam the two cannot differ: scale and shift are held to the source's
        either way, and Adam divides the size of a gradient out.
    entropy_weight: 0 is OSUDA-SE. Without entropy nothing pulls a weight away from the source's:
        it changes statistics only, and to the same ones whatever decay_unit is.
    consistency: "mean" over channels leaves scale and shift free to move, for trainable="affine".
    balanced: every predicted class counts alike in the entropy, not every pixel; where nearly all
        pixels are background the plain mean draws the rest to it.
    """

    epochs: PositiveInt = 20  # ours: not given
    batch_size: PositiveInt = 32  # ours: not given; batch statistics ask for many
    optimiser: Literal["adam", "sgd"] = "adam"  # ours: not given
    learning_rate: Positive = 1e-4  # ours: not given
    eta: Fraction = 1.0  # ours: eta_0 of equation 3, not given; 1 starts at the source's
    decay_unit: Literal["iteration", "epoch", "scaled"] = "iteration"  # paper §2.2
    channel_weighting: bool = True  # paper §2.2
    consistency: Literal["sum", "mean"] = "sum"  # paper, equation 4
    entropy_weight: NonNegative = 10.0  # paper §2.3, lambda at the start; linearly to 0
    balanced: bool = False  # paper, equation 6
    trainable: Literal["all", "affine"] = "all"  # ours: the paper fine-tunes "the model"

    paper = Paper(
        "Adapting off-the-shelf source segmenter for target medical image segmentation",
        "MICCAI 2021",
        "https://arxiv.org/abs/2106.12497",
    )
    needs = Needs(network=frozenset({"batch_norm"}))
    phantom = {"epochs": 5}
    smoke = {"epochs": 2, "batch_size": 4}

    def adapt(self, context: Context) -> nn.Module:
        """Dropout off throughout; deployed with the statistics of all target images together."""
        import torch

        from sfdabench.primitives.batch_norm import (
            batch_norm_layers,
            mixed_statistics,
            pool_statistics,
            select_trainable,
        )
        from sfdabench.primitives.entropy import mean_entropy
        from sfdabench.primitives.fine_tuning import MOMENTUM
        from sfdabench.primitives.views import identity

        model, source_model = context.model(), context.model().requires_grad_(False)
        layers, source = batch_norm_layers(model), batch_norm_layers(source_model)
        trained = select_trainable(model, self.trainable)
        optimiser: torch.optim.Optimizer
        if self.optimiser == "adam":
            optimiser = torch.optim.Adam(trained, self.learning_rate)
        else:
            optimiser = torch.optim.SGD(trained, self.learning_rate, momentum=MOMENTUM)
        # Without entropy no term ever has a gradient, and what is not trained on is not logged.
        record = context.log if self.entropy_weight else context.track
        steps = context.target.steps(self.batch_size)
        for epoch in context.epochs(self.epochs, deploy=model, optimiser=optimiser):
            batches = context.target.batches(self.batch_size, plain=identity)
            for step, batch in enumerate(batches, start=epoch * steps):
                share = self.source_share(step, steps)
                with mixed_statistics(layers, source, share) as statistics:
                    logits = model(batch.plain)
                entropy = mean_entropy(logits, context.head, balanced=self.balanced)
                consistency = self.consistency_loss(layers, source, statistics)
                record(consistency=consistency, entropy=entropy)
                context.track(share=share, foreground=context.head.foreground_share(logits))
                # plus: equation 6 lacks the minus sign of an entropy
                loss = consistency + self.weight_of_entropy(step, steps) * entropy
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
            batches = context.target.batches(self.batch_size, plain=identity)
            pool_statistics(model, (batch.plain for batch in batches))
        return model

    def source_share(self, step: int, steps: int) -> float:
        """eta_t of equation 3 at an iteration counted from 0; `steps` make an epoch."""
        import math

        units = {
            "iteration": step,
            "epoch": step // steps,
            "scaled": SCALED_SPAN * step / (self.epochs * steps),
        }
        return self.eta * math.exp(-units[self.decay_unit])

    def weight_of_entropy(self, step: int, steps: int) -> float:
        """Lambda at an iteration counted from 0, linear over all of them (paper §2.3)."""
        return self.entropy_weight * (1 - step / (self.epochs * steps))

    def consistency_loss(
        self,
        layers: Sequence[_BatchNorm],
        source: Sequence[_BatchNorm],
        statistics: Sequence[Moments],
    ) -> Tensor:
        """L_HBS of equation 4: how far scale and shift lie from the source's."""
        import torch

        gaps = torch.cat(
            [
                (theirs.weight - mine.weight).abs() + (theirs.bias - mine.bias).abs()
                for mine, theirs in zip(layers, source, strict=True)
            ]
        )
        if self.channel_weighting:
            gaps = gaps * (1 + transferability(source, statistics))
        return gaps.sum() if self.consistency == "sum" else gaps.mean()


def transferability(source: Sequence[_BatchNorm], statistics: Sequence[Moments]) -> Tensor:
    """Alpha of all channels of all layers, one after another: mean 1, without gradient.

    Below equation 5, with L x C read as the number of channels, since layers differ in theirs.
    """
    import torch

    from sfdabench.primitives.batch_norm import running_moments

    def standardised(moments: Moments, layer: _BatchNorm) -> Tensor:
        return moments.mean / (moments.variance + layer.eps).sqrt()

    closeness = torch.cat(
        [
            1 / (1 + (standardised(running_moments(s), s) - standardised(mine, s)).abs())
            for s, mine in zip(source, statistics, strict=True)
        ]
    )
    return closeness / closeness.mean()
