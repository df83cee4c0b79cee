"""AdaBN: batch-norm statistics re-estimated on the target, nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sfdabench.core.fields import PositiveInt
from sfdabench.core.method import Method, Paper
from sfdabench.core.needs import Needs

if TYPE_CHECKING:
    from torch import nn

    from sfdabench.core.context import Context


@dataclass(frozen=True)
class AdaBN(Method):
    """The control that every method with batch norm in train mode contains implicitly."""

    batch_size: PositiveInt = 8  # ours: as the methods it is a control for

    paper = Paper(
        "Revisiting batch normalization for practical domain adaptation",
        "ICLR workshop 2017",
        "https://arxiv.org/abs/1603.04779",
    )
    needs = Needs(network=frozenset({"batch_norm"}), changes=frozenset({"statistics"}))

    def adapt(self, context: Context) -> nn.Module:
        """One pass over the target; every batch counts alike."""
        from sfdabench.primitives.batch_norm import reestimate
        from sfdabench.primitives.views import identity

        model = context.model()
        for _ in context.epochs(1, deploy=model):
            batches = context.target.batches(self.batch_size, plain=identity)
            reestimate(model, (batch.plain for batch in batches))
        return model
