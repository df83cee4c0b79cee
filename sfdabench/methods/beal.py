"""BEAL (MICCAI 2019), from its paper and methods-compared.md §3."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from sfdabench.core.errors import BadInput
from sfdabench.core.fields import Fraction, NonNegative, Positive, PositiveInt
from sfdabench.core.method import Method, Paper
from sfdabench.core.needs import Needs

if TYPE_CHECKING:
    from torch import nn

    from sfdabench.core.context import Context


@dataclass(frozen=True)
class BEAL(Method):
    """The segmenter learns masks and boundaries from source labels, and to have its target's
    boundary map and entropy maps taken for the source's by two discriminators.

    rate_drop, drop_at: after this share of the run the rate is multiplied, once.
    band, blur: half the width of the boundary's band and the deviation of its blur, as shares of
        the image's side; the band has at least 1 pixel, the blur 0.4.
    boundary, entropy: which of the two is learnt; without `boundary` the branch learns from the
        masks alone.
    branch: "network" needs a network with a boundary branch, whose logit its classifier sees.
        "own" puts the branch on penultimate features of any network, where only its gradient
        counts, and leaves it behind: for comparisons from one source model.

    Ours: training starts from the source model, not from ImageNet, and its last epoch is deployed;
    the code keeps the best on labels of the target. Under softmax the entropy of every class
    counts, and the band is that of all classes but the background.
    """

    epochs: PositiveInt = 200  # code, passes over the source
    batch_size: PositiveInt = 8  # code, of either domain
    learning_rate: Positive = 1e-3  # code
    rate_drop: Positive = 0.2  # code
    drop_at: Fraction = 0.5  # code, epoch 100 of 200
    adversarial_weight: NonNegative = 0.01  # code
    band: Fraction = 5 / 512  # code
    blur: Fraction = 3 / 512  # code
    branch: Literal["network", "own"] = "network"  # code
    boundary: bool = True  # paper §2.2
    entropy: bool = True  # paper §2.3
    judge_rate: Positive = 2.5e-5  # code
    judge_momentum: Fraction = 0.99  # code
    width: PositiveInt = 64  # code, of the discriminators

    paper = Paper(
        "Boundary and entropy-driven adversarial learning for fundus image segmentation",
        "MICCAI 2019",
        "https://github.com/emma-sjwang/BEAL",
    )
    phantom = {"epochs": 6, "width": 16, "judge_rate": 1e-3, "judge_momentum": 0.9}
    smoke = {
        **{"epochs": 2, "batch_size": 4, "width": 4, "judge_rate": 0.3},
        **{"adversarial_weight": 1.0},
    }

    def __post_init__(self) -> None:
        if not (self.boundary or self.entropy):
            raise BadInput("boundary=false with entropy=false: no map is left to judge")

    @property
    def needs(self) -> Needs:
        """Source data, and the branch or what one is put on."""
        feature = "boundary" if self.branch == "network" else "penultimate"
        return Needs(source_data=True, network=frozenset({feature}))

    def adapt(self, context: Context) -> nn.Module:
        """In train mode, each domain by itself; judges see maps of before the segmenter's step."""
        import torch
        from torch.nn import functional as F

        from sfdabench.models.boundary import with_branch
        from sfdabench.models.discriminators import OutputDiscriminator
        from sfdabench.primitives.adversarial import fooling, frozen, judging
        from sfdabench.primitives.losses import supervised_loss
        from sfdabench.primitives.shapes import boundary_band
        from sfdabench.primitives.views import SOURCE, unlabelled

        model = context.model()
        channels = [context.head.outputs(len(context.classes))] * self.entropy + [1] * self.boundary
        kind: dict[str, Any] = {"padding": 2, "bias": False, "normal": True}
        judges = context.place(
            torch.nn.ModuleList(OutputDiscriminator(k, self.width, **kind) for k in channels)
        )
        weights = [self.adversarial_weight] * len(judges)
        branch: nn.Module = torch.nn.ModuleList()
        predict: Any = model.boundary
        if self.branch == "own":
            predict = branch = context.place(with_branch(model, context.target.shape))
        learners = [*model.parameters(), *branch.parameters()]
        optimiser = torch.optim.Adam(learners, self.learning_rate, betas=(0.9, 0.99))
        judge_optimiser = torch.optim.SGD(
            judges.parameters(), self.judge_rate, self.judge_momentum, weight_decay=5e-4
        )
        drop = round(self.drop_at * self.epochs)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimiser, lambda epoch: self.rate_drop if epoch >= drop else 1.0
        )

        def maps(logits: torch.Tensor, edges: torch.Tensor) -> list[torch.Tensor]:
            q = context.head.probabilities(logits)
            return [-q * (q + 1e-7).log()] * self.entropy + [edges.sigmoid()] * self.boundary

        loop: dict[str, Any] = {"optimiser": optimiser, "schedule": schedule, "judges": judges}
        loop["branch"] = branch
        view = SOURCE[context.augmentation]
        for _ in context.epochs(self.epochs, deploy=model, judge_optimiser=judge_optimiser, **loop):
            model.train()
            branch.train()
            target = context.target.endless(self.batch_size, augmented=unlabelled(view))
            for images, masks in context.source.pairs(self.batch_size, view):
                optimiser.zero_grad()
                judge_optimiser.zero_grad()
                logits, edges = predict(images)
                task = supervised_loss(logits, masks, context.head, context.source_loss)
                losses = {"task": task}
                if self.boundary:
                    structures, side = context.head.without_background(masks), images.shape[-1]
                    reach, sigma = max(1, round(self.band * side)), max(0.4, self.blur * side)
                    truth = boundary_band(structures, reach, sigma)
                    losses["boundary"] = F.mse_loss(edges.sigmoid(), truth)
                context.log(**losses)
                torch.stack([*losses.values()]).sum().backward()
                source_maps = maps(logits, edges)
                target_maps = maps(*predict(next(target).augmented))
                with frozen(judges):
                    fooled = fooling(judges, target_maps, weights)
                    context.log(fooling=fooled)
                    fooled.backward()
                verdict = 2 * judging(judges, source_maps, target_maps)  # code: a sum, no mean
                context.log(judging=verdict)
                verdict.backward()
                optimiser.step()
                judge_optimiser.step()
            schedule.step()
        return model
