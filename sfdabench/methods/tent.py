"""TENT: entropy minimisation by batch norm alone (ICLR 2021), methods-fundus.md §10."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sfdabench.core.fields import Positive, PositiveInt
from sfdabench.core.method import Method, Paper
from sfdabench.core.needs import Needs

if TYPE_CHECKING:
    from torch import nn

    from sfdabench.core.context import Context


@dataclass(frozen=True)
class Tent(Method):
    """Offline: adapted on the training split, then frozen.

    The paper predicts with the statistics of each test batch. A deployed model has no batch to
    rely on, and one image's score would depend on its neighbours: the statistics are re-estimated
    on the adaptation images, as in AdaBN, with the adapted scale and shift.
    """

    epochs: PositiveInt = 1  # code: one step a batch
    batch_size: PositiveInt = 8  # PASS's code, on fundus images
    steps: PositiveInt = 1  # paper §3, updates a batch; PASS's code takes 2
    learning_rate: Positive = 1e-3  # code

    paper = Paper(
        "Tent: Fully test-time adaptation by entropy minimization",
        "ICLR 2021",
        "https://arxiv.org/abs/2006.10726",
    )
    needs = Needs(network=frozenset({"batch_norm"}))
    smoke = {"epochs": 2, "batch_size": 4}

    def adapt(self, context: Context) -> nn.Module:
        """Scale and shift follow the entropy, all other weights stay the source's."""
        import torch

        from sfdabench.primitives.batch_norm import reestimate, select_trainable
        from sfdabench.primitives.entropy import foreground_share, tent_step
        from sfdabench.primitives.views import identity

        model = context.model()
        optimiser = torch.optim.Adam(select_trainable(model, "affine"), self.learning_rate)
        for _ in context.epochs(self.epochs, deploy=model, optimiser=optimiser):
            for batch in context.target.batches(self.batch_size, plain=identity):
                for _ in range(self.steps):
                    logits = tent_step(model, optimiser, batch.plain, context.head, context.log)
                context.track(foreground=foreground_share(logits, context.head))
            batches = context.target.batches(self.batch_size, plain=identity)
            reestimate(model, (batch.plain for batch in batches))
        return model
