"""Two translators and their judges, trained together as CycleGAN does (methods-compared.md §8)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from sfdabench.core.context import SHOWN
from sfdabench.core.head import Head
from sfdabench.core.streams import Stream
from sfdabench.models.discriminators import PatchDiscriminator
from sfdabench.models.translators import Translator
from sfdabench.primitives.adversarial import ReplayPool, frozen, lsgan
from sfdabench.primitives.losses import segmentation_loss
from sfdabench.primitives.views import identity

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
        shape: dict[str, Any] = {"width": width, "blocks": blocks, "skip": skip}
        self.to_target = Translator(*ranges, **shape)
        self.to_source = Translator(*ranges[::-1], **shape)
        self.judge_target = PatchDiscriminator(channels, width, padding=padding)
        self.judge_source = PatchDiscriminator(channels, width, padding=padding)
        self.pool_target = ReplayPool(pool, target.shape)
        self.pool_source = ReplayPool(pool, source.shape)

    def units(self, source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Images of either domain, in its own range -> the same in -1..1."""
        return self.to_target.given.to_unit(source), self.to_source.given.to_unit(target)

    @torch.no_grad()
    def translate(self, images: Tensor) -> Tensor:
        """Source images (B, C, H, W) -> the like of the target's, in its range; no gradient."""
        return self.to_target(images)


class Players:
    """The two sides of a game and their optimisers, Adam with CycleGAN's momenta and schedule.

    pair: translators and judges. others: networks that learn with the translators, such as a
        segmenter. judges: networks that judge with the pair's.
    rate: of both sides, which falls as `constant_then_linear` says in the course of `epochs`.
    state: what a loop has to keep.
    """

    def __init__(
        self,
        pair: CyclePair,
        rate: float,
        epochs: int,
        *,
        others: Iterable[nn.Module] = (),
        judges: Iterable[nn.Module] = (),
    ) -> None:
        sides = (
            (pair.to_target, pair.to_source, *others),
            (pair.judge_target, pair.judge_source, *judges),
        )
        self._optimisers = [
            torch.optim.Adam(nn.ModuleList(side).parameters(), rate, betas=(0.5, 0.999))
            for side in sides
        ]
        factor = partial(constant_then_linear, epochs)
        self._schedules = [LambdaLR(optimiser, factor) for optimiser in self._optimisers]
        names = ("optimiser", "judge_optimiser", "schedule", "judge_schedule")
        kept = (*self._optimisers, *self._schedules)
        self.state: dict[str, Any] = {"pair": pair, **dict(zip(names, kept, strict=True))}

    def translate(self, losses: Mapping[str, Tensor]) -> None:
        """A step of the translators, and of those who learn with them, on the sum of the losses."""
        _step(self._optimisers[0], losses)

    def judge(self, losses: Mapping[str, Tensor]) -> None:
        """A step of the judges on the sum of the losses."""
        _step(self._optimisers[1], losses)

    def end_epoch(self) -> None:
        """Move both rates on."""
        for schedule in self._schedules:
            schedule.step()


def generator_losses(
    pair: CyclePair, source: Tensor, target: Tensor, cycle: float, identity: float
) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """The translators' losses by name, and translations of the source's and the target's images.

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
    there_and_back = gap(to_source(as_target), source) + gap(to_target(as_source), target)
    losses["cycle"] = cycle * there_and_back
    if identity:
        unmoved = gap(to_source(source), source) + gap(to_target(target), target)
        losses["identity"] = identity * cycle * unmoved
    return losses, as_target, as_source


def semantic_loss(
    pair: CyclePair,
    model: nn.Module,
    source: Tensor,
    target: Tensor,
    drawn: Sequence[Tensor],
    head: Head,
) -> Tensor:
    """How far translations are from what a model decides on the images that they are made from.

    source, target: (B, C, H, W) in their own ranges. drawn: their translations in -1..1, which the
    model sees in the range of the domain that they imitate. Mean cross-entropy, of both (CyCADA).
    """
    pairs = (
        (source, pair.to_target.wanted.from_unit(drawn[0])),
        (target, pair.to_source.wanted.from_unit(drawn[1])),
    )
    losses = []
    for images, translated in pairs:
        with torch.no_grad():
            p = head.probabilities(model(images))
            labels = head.one_hot(head.decide(p)[1], p)
        losses.append(segmentation_loss(model(translated), labels, head))
    return torch.stack(losses).sum()


def judge_losses(
    pair: CyclePair, source: Tensor, target: Tensor, as_target: Tensor, as_source: Tensor
) -> dict[str, Tensor]:
    """The judges' losses by name, on real images and on translations from their pools.

    All (B, C, H, W) in -1..1. Translations are detached: no gradient reaches the translators.
    """
    games = {
        "judging_target": (pair.judge_target, target, pair.pool_target(as_target.detach())),
        "judging_source": (pair.judge_source, source, pair.pool_source(as_source.detach())),
    }
    return {
        name: (lsgan(judge(real), REAL) + lsgan(judge(fake), FAKE)) / 2
        for name, (judge, real, fake) in games.items()
    }


def a_few(*streams: Stream) -> list[Tensor]:
    """SHOWN images of each stream as they are, shuffled: planes of several bodies."""
    return [next(stream.batches(SHOWN, plain=identity)).plain for stream in streams]


@torch.no_grad()
def examples(pair: CyclePair, source: Stream, target: Stream) -> dict[str, Tensor]:
    """A few images of each domain and their translations, by kind, all in -1..1."""
    s, t = pair.units(*a_few(source, target))
    return {
        "source": s,
        "source_as_target": pair.to_target.generator(s),
        "target": t,
        "target_as_source": pair.to_source.generator(t),
    }


def constant_then_linear(epochs: int, epoch: int) -> float:
    """CycleGAN's factor of the rate: 1 for half of the epochs, then in equal steps towards 0.

    epoch: from 0. Of 200 epochs the last one has 1 / 101.
    """
    constant = epochs // 2
    return 1 - max(0, epoch + 1 - constant) / (epochs - constant + 1)


def _step(optimiser: torch.optim.Optimizer, losses: Mapping[str, Tensor]) -> None:
    optimiser.zero_grad()
    torch.stack([*losses.values()]).sum().backward()
    optimiser.step()


def gap(first: Tensor, second: Tensor) -> Tensor:
    """Mean absolute difference."""
    return (first - second).abs().mean()
