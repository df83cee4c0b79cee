"""MRNet's second stage: rectifying pseudo labels (IJCV 2021), from methods-cross-modality.md §3.3.

The row "MRNet" of APL's Table 2: its text describes this stage; the first one needs the source.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import MinLen

from sfdabench.core.fields import Fraction, NonNegative, Positive, PositiveInt
from sfdabench.core.head import SOFTMAX
from sfdabench.core.method import Method, Paper
from sfdabench.core.needs import Needs

if TYPE_CHECKING:
    from torch import Tensor, nn

    from sfdabench.core.context import Context


@dataclass(frozen=True)
class MRNet(Method):
    """Off-line labels of both heads train each of them, less so where the other disagrees.

    Ours: no class weights (the code's are sized for streets), no augmentation, APL's budget, and
    batch norm in train mode (of the code we know that scales and shifts are trained).
    warm_up: share of the steps over which the rate rises linearly.
    auxiliary_weight: of the auxiliary logits in the labels and in what is deployed, and of that
        head's loss.
    deploy: both heads' sum of logits, main + `auxiliary_weight` * auxiliary, or the main head.
    scales, flip: the views whose predictions the labels are the mean of.
    """

    epochs: PositiveInt = 10  # ours: as APL
    batch_size: PositiveInt = 9  # code
    learning_rate: Positive = 1e-4  # code
    head_factor: Positive = 10.0  # code, first stage
    power: NonNegative = 0.9  # ours: as APL
    warm_up: Fraction = 0.05  # code, first stage: 5000 of 100 000 steps
    auxiliary_weight: NonNegative = 0.5  # code
    deploy: Literal["both", "main"] = "both"  # code
    scales: Annotated[tuple[Positive, ...], MinLen(1)] = (1.0, 1.25)  # code
    flip: bool = False  # ours: the code flips streets; in a body left is not right

    paper = Paper(
        "Rectifying pseudo label learning via uncertainty estimation for domain adaptive semantic "
        "segmentation",
        "IJCV 2021",
        "https://github.com/layumi/Seg-Uncertainty",
    )
    needs = Needs(heads=(SOFTMAX,), network=frozenset({"auxiliary"}))
    revision = 2
    phantom = {"epochs": 5}
    smoke = {"epochs": 2, "batch_size": 4}

    def adapt(self, context: Context) -> nn.Module:
        """Label in eval mode, without a threshold; then train everything."""
        import torch

        from sfdabench.models.composites import MergedHeads
        from sfdabench.primitives.fine_tuning import both_heads, encoder_and_heads, momentum_sgd
        from sfdabench.primitives.pseudo_labels import mean_over_views
        from sfdabench.primitives.views import identity

        model = context.model()

        both = MergedHeads(model, context.head, merge="logits", weight=self.auxiliary_weight)
        deployed = both if self.deploy == "both" else model

        def winners(images: Tensor) -> Tensor:
            maps = mean_over_views(both, images, context.head, flip=self.flip, scales=self.scales)
            return maps.argmax(dim=1, keepdim=True).to(torch.uint8)

        batches = context.target.batches(self.batch_size, shuffle=False, plain=identity)
        labels = torch.cat([winners(batch.plain) for batch in batches])
        model.train()
        encoder, heads = encoder_and_heads(model, batch_norm=True)
        optimiser = momentum_sgd(
            encoder, heads, self.learning_rate, self.head_factor, nesterov=True
        )
        steps = self.epochs * context.target.steps(self.batch_size)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda k: self.rate(k, steps))
        loop: dict[str, Any] = {"optimiser": optimiser, "schedule": schedule}
        for _ in context.epochs(self.epochs, deploy=deployed, **loop):
            for batch in context.target.batches(self.batch_size, plain=identity):
                main, auxiliary = both_heads(model, batch.plain)
                target = context.head.one_hot(labels[batch.index], main)
                main_loss = rectified(main, auxiliary, target)
                auxiliary_loss = rectified(auxiliary, main, target)
                context.log(main=main_loss, auxiliary=auxiliary_loss)
                context.track(foreground=1 - target[:, 0].mean())
                optimiser.zero_grad()
                (main_loss + self.auxiliary_weight * auxiliary_loss).backward()
                optimiser.step()
                schedule.step()
        return deployed

    def rate(self, step: int, steps: int) -> float:
        """Share of the learning rate in a step counted from 0: linear warm-up, polynomial decay."""
        warm = (step + 1) / max(self.warm_up * steps, 1)
        return min(warm, 1.0) * (1 - step / steps) ** self.power


def rectified(logits: Tensor, other: Tensor, target: Tensor) -> Tensor:
    """mean(CE * exp(-D)) + mean(D), D = KL(other head || this head) of each pixel.

    All (B, C, H, W), target in {0, 1}. Nothing is detached: D pulls the heads together, and
    through exp(-D) a wrong label may be paid for by keeping them apart.
    """
    from torch.nn import functional as F

    mine, theirs = logits.log_softmax(dim=1), other.log_softmax(dim=1)
    divergence = F.kl_div(mine, theirs, reduction="none", log_target=True).sum(dim=1)
    losses = -(target * mine).sum(dim=1)
    return (losses * (-divergence).exp()).mean() + divergence.mean()
