"""AdvEnt (CVPR 2019), from its paper and methods-compared.md §1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from sfdabench.core.fields import NonNegative, Positive, PositiveInt
from sfdabench.core.method import Method, Paper
from sfdabench.core.needs import Needs

if TYPE_CHECKING:
    from torch import nn

    from sfdabench.core.context import Context


@dataclass(frozen=True)
class AdvEnt(Method):
    """The segmenter learns from source labels, and to have its target's entropy maps taken for
    the source's by a discriminator.

    The paper's code adapts streets; where no other code is named, a default is its. Rates of MR to
    CT are those of MPSCL's code, which begins with AdvEnt.
    heads: "both" plays a game of its own on the auxiliary head too, as the code does; it needs a
        network that has one.
    auxiliary_weight: of the auxiliary head's source loss. adversarial_weight,
        auxiliary_adversarial_weight: of fooling the discriminator of each head.
    optimiser: of the segmenter. "adam" trains heads and encoder at one rate.

    Ours: training starts from the source model, not from ImageNet; and on a sigmoid head a channel
    has two maps, of being on and of being off.
    """

    epochs: PositiveInt = 100  # ours, passes over the source; the code has 120 000 steps of 1 image
    batch_size: PositiveInt = 4  # MPSCL code, of either domain
    heads: Literal["main", "both"] = "main"  # ours: every network has it; the code has both
    optimiser: Literal["sgd", "adam"] = "sgd"  # code
    learning_rate: Positive = 2.5e-4  # code
    head_factor: Positive = 10.0  # code
    judge_rate: Positive = 1e-4  # code
    power: NonNegative = 0.9  # code, of both rates' polynomial decay
    auxiliary_weight: NonNegative = 0.1  # code
    adversarial_weight: NonNegative = 3e-3  # MPSCL code; the paper's streets have 1e-3
    auxiliary_adversarial_weight: NonNegative = 2e-5  # MPSCL code; streets 2e-4
    width: PositiveInt = 64  # code, of the discriminators

    paper = Paper(
        "ADVENT: Adversarial entropy minimization for domain adaptation in semantic segmentation",
        "CVPR 2019",
        "https://github.com/valeoai/ADVENT",
    )
    phantom = {
        **{"epochs": 6, "optimiser": "adam", "learning_rate": 1e-3, "judge_rate": 1e-3},
        **{"adversarial_weight": 0.1, "auxiliary_adversarial_weight": 0.01, "width": 16},
    }
    smoke = {"epochs": 2, "width": 4}

    @property
    def needs(self) -> Needs:
        """Source data, and a second head where it plays on both."""
        network = frozenset({"auxiliary"} if self.heads == "both" else ())
        return Needs(source_data=True, network=network)

    def adapt(self, context: Context) -> nn.Module:
        """In train mode; each domain goes through the network by itself, with its own statistics.

        The discriminators judge maps that were made before the segmenter's step.
        """
        import torch
        from torch.optim.lr_scheduler import PolynomialLR

        from sfdabench.models.discriminators import OutputDiscriminator
        from sfdabench.primitives.adversarial import fooling, frozen, judging, self_information
        from sfdabench.primitives.fine_tuning import all_heads, sgd_or_adam
        from sfdabench.primitives.losses import supervised_loss
        from sfdabench.primitives.views import SOURCE, identity

        model = context.model()
        outputs = context.head.outputs(len(context.classes))
        maps = outputs if context.head.exclusive else 2 * outputs
        count = 1 if self.heads == "main" else 2
        weights = (1.0, self.auxiliary_weight)[:count]
        adversarial = (self.adversarial_weight, self.auxiliary_adversarial_weight)[:count]
        judges = torch.nn.ModuleList(OutputDiscriminator(maps, self.width) for _ in range(count))
        context.place(judges)
        optimiser = sgd_or_adam(model, self.optimiser, self.learning_rate, self.head_factor)
        judge_optimiser = torch.optim.Adam(judges.parameters(), self.judge_rate, betas=(0.9, 0.99))
        steps = self.epochs * context.source.steps(self.batch_size)
        schedule = PolynomialLR(optimiser, steps, self.power)
        judge_schedule = PolynomialLR(judge_optimiser, steps, self.power)
        loop: dict[str, Any] = {"optimiser": optimiser, "schedule": schedule, "judges": judges}
        loop |= {"judge_optimiser": judge_optimiser, "judge_schedule": judge_schedule}
        view, recipe = SOURCE[context.augmentation], (context.head, context.source_loss)
        for _ in context.epochs(self.epochs, deploy=model, **loop):
            model.train()
            target = context.target.endless(self.batch_size, plain=identity)
            for images, masks in context.source.pairs(self.batch_size, view):
                optimiser.zero_grad()
                judge_optimiser.zero_grad()
                source_logits = all_heads(model, images, self.heads)
                losses = [
                    weight * supervised_loss(logits, masks, *recipe)
                    for weight, logits in zip(weights, source_logits, strict=True)
                ]
                task = torch.stack(losses).sum()
                context.log(task=task)
                task.backward()
                target_logits = all_heads(model, next(target).plain, self.heads)
                source_maps = [self_information(logits, context.head) for logits in source_logits]
                target_maps = [self_information(logits, context.head) for logits in target_logits]
                with frozen(judges):
                    fooled = fooling(judges, target_maps, adversarial)
                    context.log(fooling=fooled)
                    fooled.backward()
                verdict = judging(judges, source_maps, target_maps)
                context.log(judging=verdict)
                verdict.backward()
                for each in (optimiser, judge_optimiser, schedule, judge_schedule):
                    each.step()
        return model
