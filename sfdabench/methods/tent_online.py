"""TENT's online protocol (ICLR 2021), methods-fundus.md §10."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sfdabench.core.fields import Positive, PositiveInt
from sfdabench.core.method import Method, Paper
from sfdabench.core.needs import Needs

if TYPE_CHECKING:
    from torch import Tensor, nn

    from sfdabench.core.context import Context


@dataclass(frozen=True)
class TentOnline(Method):
    """Each batch of test images is predicted by its own statistics, then learnt from, once.

    Images come in the order of the data set, planes of a volume one after the other, and what was
    predicted is not predicted again. Scores therefore depend on that order and on `batch_size`.
    """

    batch_size: PositiveInt = 8  # PASS's code, on fundus images
    steps: PositiveInt = 1  # paper §3, updates a batch; PASS's code takes 2
    learning_rate: Positive = 1e-3  # code

    paper = Paper(
        "Tent: Fully test-time adaptation by entropy minimization",
        "ICLR 2021",
        "https://arxiv.org/abs/2006.10726",
    )
    needs = Needs(online=True, network=frozenset({"batch_norm"}), changes=frozenset({"parameters"}))
    smoke = {"batch_size": 4}

    def adapt(self, context: Context) -> nn.Module:
        """The model that goes on learning."""
        import torch

        from sfdabench.models.segmenter import OnlineSegmenter
        from sfdabench.primitives.batch_norm import select_trainable
        from sfdabench.primitives.entropy import tent_step

        model = context.model()
        optimiser = torch.optim.Adam(select_trainable(model, "affine"), self.learning_rate)

        def learn(images: Tensor) -> Tensor:
            for _ in range(self.steps):  # what is predicted comes before the last of them: code
                logits = tent_step(model, optimiser, images, context.head, context.log)
            return logits

        return OnlineSegmenter(model, learn, self.batch_size)
