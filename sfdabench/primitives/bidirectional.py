"""SIFA's networks beside the segmenter, and the losses of its step (methods-compared.md §11)."""

from __future__ import annotations

import math
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sfdabench.core.streams import Stream
from sfdabench.models.discriminators import PatchDiscriminator
from sfdabench.models.translators import ImageDecoder, Translator
from sfdabench.primitives.adversarial import frozen, lsgan
from sfdabench.primitives.translation import FAKE, REAL, a_few, gap

Maps = tuple[Tensor, ...]  # logits (B, K, H, W) of the main head, and of the low one if there is


class Drawn(NamedTuple):
    """What one step draws; images (B, C, H, W) in -1..1.

    as_target: the source's images translated. as_source: the target's, drawn from their features.
    source_again, target_again: both of them there and back. of_source, of_target: logits of the
    translated source's images and of the target's.
    """

    as_target: Tensor
    as_source: Tensor
    source_again: Tensor
    target_again: Tensor
    of_source: Maps
    of_target: Maps


class Bidirectional(nn.Module):
    """A generator towards the target, a decoder of the segmenter's features towards the source,
    and judges of the images of both and of the logits of each head.

    model: the segmenter, which is not part of it; a network with "penultimate", or with
        "auxiliary" where the low level counts. outputs: K, channels of its logits.
    low_level: whether the low head plays as well. dropout: on all logits.
    Raises RunFailed where the images of a stream are constant.
    """

    def __init__(
        self,
        model: nn.Module,
        source: Stream,
        target: Stream,
        outputs: int,
        *,
        low_level: bool,
        dropout: float,
        width: int,
        blocks: int,
        decoder_width: int,
        judge_width: int,
    ) -> None:
        super().__init__()
        self.low_level, self.dropout = low_level, dropout
        ranges, channels = (source.value_range(), target.value_range()), source.shape[0]
        self.generator = Translator(*ranges, width=width, blocks=blocks, skip=True, sifa=True)
        self.given, self.wanted = self.generator.given, self.generator.wanted
        with torch.no_grad():
            probe = torch.zeros(1, *target.shape, device=target.device)
            features = self._features(model, probe)[-1]
        halvings = round(math.log2(target.shape[1] / features.shape[2]))
        stride = 2 ** min(max(halvings, 0), 3)
        self.decoder = ImageDecoder(features.shape[1], channels, stride, decoder_width)

        def judge(of: int, verdicts: int = 1) -> PatchDiscriminator:
            return PatchDiscriminator(of, judge_width, outputs=verdicts, padding=2, affine=True)

        self.judges = nn.ModuleDict({"target": judge(channels), "source": judge(channels, 2)})
        self.judges["prediction"] = judge(outputs)
        if low_level:
            self.judges["low_prediction"] = judge(outputs)

    def draw(self, model: nn.Module, source: Tensor, target: Tensor) -> Drawn:
        """All that a step needs, in one forward pass. source, target: in their own ranges."""
        s, t = self.units(source, target)
        as_target = self.generator.generator(s)
        of_source = self._features(model, self.wanted.from_unit(as_target))
        of_target = self._features(model, target)
        as_source = self.decoder(of_target[-1], t)
        return Drawn(
            as_target,
            as_source,
            source_again=self.decoder(of_source[-1], as_target),
            target_again=self.generator.generator(as_source),
            of_source=self._logits(model, of_source, source),
            of_target=self._logits(model, of_target, target),
        )

    def units(self, source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Images of either domain, in its own range -> the same in -1..1."""
        return self.given.to_unit(source), self.wanted.to_unit(target)

    def losses(
        self, drawn: Drawn, source: Tensor, target: Tensor, cycle: float
    ) -> dict[str, Tensor]:
        """The losses by name, without those of the labels; no gradient reaches the judges.

        source, target: the images themselves, in -1..1. cycle: weight of the mean distance of an
        image to what it becomes there and back.
        """
        there_and_back = gap(drawn.source_again, source) + gap(drawn.target_again, target)
        losses = {"cycle": cycle * there_and_back}
        with frozen(self.judges):
            losses["fooling_target"] = lsgan(self.judges["target"](drawn.as_target), REAL)
            real, again = self.judges["source"](drawn.as_source).unbind(dim=1)
            losses["fooling_source"] = lsgan(real, REAL)
            losses["reconstruction"] = lsgan(again, REAL)
            for name, of_target in zip(self.heads, drawn.of_target, strict=True):
                losses[name] = lsgan(self.judges[name](of_target), REAL)
        return losses

    def judging(self, drawn: Drawn, source: Tensor, target: Tensor) -> dict[str, Tensor]:
        """The judges' losses by name, on images and logits that are detached.

        The second verdict on source images is whether one was drawn from a source image.
        """
        as_source, again = drawn.as_source.detach(), drawn.source_again.detach()
        first, second = zip(
            *(self.judges["source"](images).unbind(dim=1) for images in (source, as_source, again)),
            strict=True,
        )
        losses = {
            "judging_target": _judge(
                self.judges["target"](target), self.judges["target"](drawn.as_target.detach())
            ),
            "judging_source": _judge(first[0], first[1]),
            "judging_reconstruction": _judge(second[2], second[1]),
        }
        for name, *pair in zip(self.heads, drawn.of_source, drawn.of_target, strict=True):
            verdicts = [self.judges[name](logits.detach()) for logits in pair]
            losses[f"judging_{name}"] = _judge(*verdicts)
        return losses

    @torch.no_grad()
    def examples(self, model: nn.Module, source: Stream, target: Stream) -> dict[str, Tensor]:
        """A few images of each domain and their translations, by kind, in -1..1; in eval mode."""
        model.eval()
        self.eval()
        images = a_few(source, target)
        drawn, (s, t) = self.draw(model, *images), self.units(*images)
        return {
            "source": s,
            "source_as_target": drawn.as_target,
            "target": t,
            "target_as_source": drawn.as_source,
        }

    @property
    def heads(self) -> tuple[str, ...]:
        """The names of the losses on the logits of each head."""
        return ("prediction", "low_prediction")[: 1 + self.low_level]

    def _features(self, model: nn.Module, images: Tensor) -> Maps:
        """What the heads take, the main one's last."""
        segmenter = cast(Any, model)
        if self.low_level:
            return segmenter.features(images)
        return (segmenter.penultimate(images),)

    def _logits(self, model: nn.Module, features: Maps, images: Tensor) -> Maps:
        segmenter, size = cast(Any, model), (images.shape[-2], images.shape[-1])
        logits = [segmenter.classify(features[-1], size)]
        if self.low_level:
            logits.append(segmenter.classify_auxiliary(features[0], size))
        return tuple(F.dropout(maps, self.dropout, self.training) for maps in logits)


def _judge(real: Tensor, fake: Tensor) -> Tensor:
    return (lsgan(real, REAL) + lsgan(fake, FAKE)) / 2
