"""Two translators and their judges, trained together as CycleGAN does (methods-compared.md §8)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from sfdabench.core.streams import Stream
from sfdabench.models.discriminators import PatchDiscriminator
from sfdabench.models.translators import Translator
from sfdabench.primitives.adversarial import ReplayPool, frozen, lsgan

REAL, FAKE = 1.0, 0.0  # what a judge should say


class CyclePair(nn.Module):
    """Translators in both directions, a judge of either domain's images, and pools of old ones.

    Judges and losses see images in -1..1, the translators' units.

    source, target: the streams whose images are translated; they must have the same shape.
    width, blocks, skip: of the generators; `width` of the judges too. padding: of the judges.
    pool: how many old images a judge's pool keeps.
    Raises RunFailed where the images of a stream are constant.
    """

    def __init__(
        self,
        source: Stream,
        target: Stream,
        *,
        width: int,
        blocks: int,
        skip: bool,
        pool: int,
        padding: int = 1,
    ) -> None:
        super().__init__()
        ranges, channels = (source.value_range(), target.value_range()), source.shape[0]
        shape = {"width": width, "blocks": blocks, "skip": skip}
        self.to_target = Translator(*ranges, **shape)
        self.to_source = Translator(*ranges[::-1], **shape)
        self.judge_target = PatchDiscriminator(channels, width, padding=padding)
        self.judge_source = PatchDiscriminator(channels, width, padding=padding)
        self.pool_target = ReplayPool(pool, target.shape)
        self.pool_source = ReplayPool(pool, source.shape)
        self.to(target.device)

    def units(self, source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Images of either domain, in its own range -> the same in -1..1."""
        return self.to_target.given.to_unit(source), self.to_source.given.to_unit(target)

    def generators(self) -> Iterator[nn.Parameter]:
        """The parameters of both translators."""
        for translator in (self.to_target, self.to_source):
            yield from translator.parameters()

    def judges(self) -> Iterator[nn.Parameter]:
        """The parameters of both judges."""
        for judge in (self.judge_target, self.judge_source):
            yield from judge.parameters()

    def adam(self, rate: float) -> tuple[torch.optim.Adam, torch.optim.Adam]:
        """The optimisers of the translators and of the judges, with CycleGAN's momenta."""
        return tuple(  # type: ignore[return-value]
            torch.optim.Adam(parameters, rate, betas=(0.5, 0.999))
            for parameters in (self.generators(), self.judges())
        )


def generator_losses(
    pair: CyclePair, source: Tensor, target: Tensor, cycle: float, identity: float
) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """The translators' losses by name, and the source's images as target's, the target's as source's.

    source, target: (B, C, H, W) in -1..1, and so are the translations. cycle: weight of the mean
    distance of an image to its translation there and back. identity: weight, as a share of
    `cycle`, of the distance of a domain's image to its translation into that same domain.
    No gradient reaches the judges.
    """
    to_target, to_source = pair.to_target.generator, pair.to_source.generator
    as_target, as_source = to_target(source), to_source(target)
    with frozen(pair.judge_target, pair.judge_source):
        losses = {
            "fooling_target": lsgan(pair.judge_target(as_target), REAL),
            "fooling_source": lsgan(pair.judge_source(as_source), REAL),
        }
    back = (to_source(as_target) - source).abs().mean() + (
        to_target(as_source) - target
    ).abs().mean()
    losses["cycle"] = cycle * back
    if identity:
        same = (to_source(source) - source).abs().mean() + (to_target(target) - target).abs().mean()
        losses["identity"] = identity * cycle * same
    return losses, as_target, as_source


def judge_losses(
    pair: CyclePair, source: Tensor, target: Tensor, as_target: Tensor, as_source: Tensor
) -> Tensor:
    """The judges' loss on real images and on translations from their pools, each domain's mean.

    All (B, C, H, W) in -1..1. Translations are detached: no gradient reaches the translators.
    """
    games = (
        (pair.judge_target, target, pair.pool_target(as_target.detach())),
        (pair.judge_source, source, pair.pool_source(as_source.detach())),
    )
    halves = [
        (lsgan(judge(real), REAL) + lsgan(judge(fake), FAKE)) / 2 for judge, real, fake in games
    ]
    return torch.stack(halves).sum()


def constant_then_linear(epochs: int, epoch: int) -> float:
    """CycleGAN's factor of the rate: 1 for half of the epochs, then in equal steps towards 0.

    epoch: from 0. Of 200 epochs the last one has 1 / 101.
    """
    constant = epochs // 2
    return 1 - max(0, epoch + 1 - constant) / (epochs - constant + 1)
