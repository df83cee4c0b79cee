"""CBST: class-balanced self-training (ECCV 2018), from methods-cross-modality.md §3.2."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sfdabench.core.fields import Fraction, NonNegative, Positive, PositiveInt
from sfdabench.core.head import SOFTMAX
from sfdabench.core.method import Method, Paper
from sfdabench.core.needs import Needs

if TYPE_CHECKING:
    from torch import Tensor, nn

    from sfdabench.core.context import Context


@dataclass(frozen=True)
class CBST(Method):
    """Rounds of labelling and training, in which every class keeps its own surest pixels.

    Source-free: without the share of source images that the code mixes in. Ours, too: no
    augmentation and no mining of rare classes, since a sample is a whole slice. Batch norm stays
    as in the start model, as the authors' scripts have it.
    portion: of each class's pixels that reach its threshold, in the first round;
        `portion_step` more in each of the next ones, up to `portion_most`.
    sampling: every how many-th pixel of a class is looked at for its threshold.
    flip: predictions are the mean over an image and its mirror image.
    """

    rounds: PositiveInt = 3  # code: four are declared, the last one only tests
    epochs: PositiveInt = 2  # code, a round
    batch_size: PositiveInt = 2  # code
    learning_rate: Positive = 5e-5  # code, constant
    head_factor: Positive = 10.0  # code
    portion: Fraction = 0.2  # code
    portion_step: NonNegative = 0.05  # code
    portion_most: Fraction = 0.5  # code
    sampling: PositiveInt = 4  # code
    flip: bool = False  # ours: the code flips streets; in a body left is not right

    paper = Paper(
        "Unsupervised domain adaptation for semantic segmentation via class-balanced self-training",
        "ECCV 2018",
        "https://github.com/yzou2/CRST",
    )
    needs = Needs(heads=(SOFTMAX,), changes=frozenset({"parameters"}))
    smoke = {"rounds": 2, "epochs": 1}

    def adapt(self, context: Context) -> nn.Module:
        """A new optimiser each round; the model in eval mode throughout."""
        from sfdabench.primitives.fine_tuning import encoder_and_heads, momentum_sgd
        from sfdabench.primitives.losses import segmentation_loss
        from sfdabench.primitives.pseudo_labels import training_target
        from sfdabench.primitives.views import identity

        model = context.model()
        encoder, heads = encoder_and_heads(model)
        for number in range(self.rounds):
            portion = min(self.portion + number * self.portion_step, self.portion_most)
            labels = self.labels(context, model, portion)
            optimiser = momentum_sgd(encoder, heads, self.learning_rate, self.head_factor)
            for _ in context.epochs(self.epochs, deploy=model, optimiser=optimiser):
                for batch in context.target.batches(self.batch_size, plain=identity):
                    logits = model(batch.plain)
                    target, keep = training_target(labels[batch.index], logits, context.head)
                    loss = segmentation_loss(logits, target, context.head, keep)
                    context.log(loss=loss)
                    context.track(kept=keep.mean())
                    optimiser.zero_grad()
                    loss.backward(inputs=[*encoder, *heads])
                    optimiser.step()
        return model

    def labels(self, context: Context, model: nn.Module, portion: float) -> Tensor:
        """Label maps (N, 1, H, W): one pass over the target for the thresholds, one for them.

        Recomputed where a killed run goes on: a round starts from the end of the one before.
        """
        import torch

        from sfdabench.primitives.pseudo_labels import (
            class_balanced_labels,
            class_thresholds,
            mean_over_views,
        )
        from sfdabench.primitives.views import identity

        def predictions() -> Iterator[Tensor]:
            for batch in context.target.batches(self.batch_size, shuffle=False, plain=identity):
                yield mean_over_views(model, batch.plain, context.head, flip=self.flip)

        looked_at = [self.winners(maps) for batch in predictions() for maps in batch]
        confidences = [torch.cat(values) for values in zip(*looked_at, strict=True)]
        thresholds = class_thresholds(confidences, portion)
        return torch.cat([class_balanced_labels(maps, thresholds) for maps in predictions()])

    def winners(self, maps: Tensor) -> list[Tensor]:
        """Probabilities (C, H, W) -> of each class those of pixels that it wins, some of them."""
        highest, winner = maps.max(dim=0)
        return [highest[winner == c][:: self.sampling] for c in range(len(maps))]
