"""TENT: entropy minimisation by batch norm alone (ICLR 2021), methods-fundus.md §10."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sfdabench.core.fields import Positive, PositiveInt
from sfdabench.core.method import Method, Paper
from sfdabench.core.needs import Change, Needs

if TYPE_CHECKING:
    from torch import Tensor, nn

    from sfdabench.core.context import Context


@dataclass(frozen=True)
class Tent(Method):
    """Offline: adapted on the training split, then frozen; `online` is the paper's protocol.

    The paper predicts with the statistics of each test batch. A deployed model has no batch to
    rely on, and one image's score would depend on its neighbours: offline the statistics are
    re-estimated on the adaptation images, as in AdaBN, with the adapted scale and shift.

    online: each batch of test images is predicted by its own statistics, then learnt from, once.
        Images come in the order of the data set, planes of a volume one after the other, and what
        was predicted is not predicted again. Scores therefore depend on that order and on
        `batch_size`; `epochs` is not used.
    """

    epochs: PositiveInt = 1  # code: one step a batch
    batch_size: PositiveInt = 8  # PASS's code, on fundus images
    steps: PositiveInt = 1  # paper §3, updates a batch; PASS's code takes 2
    learning_rate: Positive = 1e-3  # code
    online: bool = False  # ours: every other method is scored on images that it never saw

    paper = Paper(
        "Tent: Fully test-time adaptation by entropy minimization",
        "ICLR 2021",
        "https://arxiv.org/abs/2006.10726",
    )
    smoke = {"epochs": 2, "batch_size": 4}

    @property
    def needs(self) -> Needs:
        """Online there is no training split, and running statistics are not used."""
        if not self.online:
            return Needs(network=frozenset({"batch_norm"}))
        changes: frozenset[Change] = frozenset({"parameters"})
        return Needs(online=True, network=frozenset({"batch_norm"}), changes=changes)

    def adapt(self, context: Context) -> nn.Module:
        """Scale and shift follow the entropy, all other weights stay the source's."""
        import torch

        from sfdabench.models.segmenter import OnlineSegmenter
        from sfdabench.primitives.batch_norm import reestimate, select_trainable
        from sfdabench.primitives.entropy import tent_step
        from sfdabench.primitives.views import identity

        model = context.model()
        optimiser = torch.optim.Adam(select_trainable(model, "affine"), self.learning_rate)

        def learn(images: Tensor) -> Tensor:
            for _ in range(self.steps):  # what is predicted comes before the last of them: code
                logits = tent_step(model, optimiser, images, context.head, context.log)
            return logits

        if self.online:
            return OnlineSegmenter(model, learn, self.batch_size)
        for _ in context.epochs(self.epochs, deploy=model, optimiser=optimiser):
            for batch in context.target.batches(self.batch_size, plain=identity):
                context.track(foreground=context.head.foreground_share(learn(batch.plain)))
            batches = context.target.batches(self.batch_size, plain=identity)
            reestimate(model, (batch.plain for batch in batches))
        return model
