"""An adversarial method: what the contracts must let through, and see broken."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain, count

import torch
from torch import nn
from torch.nn import functional as F

from sfdabench.core.fields import Positive, PositiveInt
from sfdabench.core.method import Method
from sfdabench.core.needs import Needs
from sfdabench.primitives.losses import segmentation_loss
from sfdabench.primitives.views import SOURCE, identity


@dataclass(frozen=True)
class Adversarial(Method):
    """A judge learns to tell source predictions from target ones, the segmenter to fool it."""

    epochs: PositiveInt = 2
    batch_size: PositiveInt = 4
    learning_rate: Positive = 1e-3
    weight: Positive = 0.1

    needs = Needs(source_data=True)

    def adapt(self, context):
        """One step of the segmenter, then one of the judge."""
        model = context.model().train()
        channels = context.head.outputs(len(context.classes))
        judge = nn.Sequential(
            nn.Conv2d(channels, 8, 3, padding=1), nn.LeakyReLU(0.2), nn.Conv2d(8, 1, 3, padding=1)
        )
        optimiser = torch.optim.Adam(model.parameters(), self.learning_rate)
        judge_optimiser = torch.optim.Adam(judge.parameters(), self.learning_rate)
        loop = {"judge": judge, "optimiser": optimiser, "judge_optimiser": judge_optimiser}
        for _ in context.epochs(self.epochs, deploy=model, **loop):
            target = chain.from_iterable(
                context.target.batches(self.batch_size, plain=identity) for _ in count()
            )
            for images, masks in context.source.pairs(
                self.batch_size, SOURCE[context.augmentation]
            ):
                logits = model(images)
                source = context.head.probabilities(logits)
                adapted = context.head.probabilities(model(next(target).plain))
                task = segmentation_loss(logits, masks, context.head)
                fooled = verdict(judge(adapted), 1.0)
                discriminator = verdict(judge(source.detach()), 1.0)
                discriminator = discriminator + verdict(judge(adapted.detach()), 0.0)
                context.log(task=task, fooled=fooled, discriminator=discriminator)
                optimiser.zero_grad()
                (task + self.weight * fooled).backward()
                optimiser.step()
                judge_optimiser.zero_grad()
                discriminator.backward()
                judge_optimiser.step()
        return model


def verdict(logits, label):
    """Binary cross-entropy of a judge's map against one label."""
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, label))
