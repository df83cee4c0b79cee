"""Entropy minimisation on the target alone: the plainest method with a gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from sfdabench.core.fields import Positive, PositiveInt
from sfdabench.core.method import Method, Paper

if TYPE_CHECKING:
    from torch import nn

    from sfdabench.core.context import Context


@dataclass(frozen=True)
class EntropyMinimisation(Method):
    """The model grows sure of what it predicts; "MinEnt" of ADVENT without its source images.

    normalised: the entropy as a share of its largest value, log C for the C channels of a softmax
        head, log 2 for each channel of a sigmoid head.
    balanced: every predicted class counts alike, not every pixel; where nearly all pixels are
        background the plain mean draws the rest to it.
    """

    epochs: PositiveInt = 20  # ours: as pseudo_label, its peer with hard labels
    batch_size: PositiveInt = 8  # ours: as pseudo_label
    learning_rate: Positive = 2.5e-5  # ours: as pseudo_label
    trainable: Literal["all", "affine"] = "all"  # ours: ADVENT's code spares scale and shift
    normalised: bool = True  # ADVENT code
    balanced: bool = False  # ours: ADVENT's is plain

    paper = Paper(
        "ADVENT: Adversarial entropy minimization for domain adaptation in semantic segmentation",
        "CVPR 2019",
        "https://arxiv.org/abs/1811.12833",
    )
    phantom = {"epochs": 5}
    smoke = {"epochs": 2, "batch_size": 4, "learning_rate": 1e-3}

    def adapt(self, context: Context) -> nn.Module:
        """In train mode: batch statistics, and dropout where the network has it."""
        import torch

        from sfdabench.primitives.batch_norm import select_trainable
        from sfdabench.primitives.entropy import mean_entropy
        from sfdabench.primitives.views import identity

        model = context.model()
        optimiser = torch.optim.Adam(select_trainable(model, self.trainable), self.learning_rate)
        for _ in context.epochs(self.epochs, deploy=model, optimiser=optimiser):
            model.train()
            for batch in context.target.batches(self.batch_size, plain=identity):
                logits = model(batch.plain)
                loss = mean_entropy(logits, context.head, balanced=self.balanced)
                if self.normalised:
                    loss = loss / context.head.largest_entropy(logits.shape[1])
                context.log(loss=loss)
                context.track(foreground=context.head.foreground_share(logits))
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
        return model
