"""The game of a segmenter against discriminators, from the codes of AdaptSegNet and ADVENT.

A discriminator ("judge") learns to tell the source's maps from the target's; the segmenter learns
to have its target's maps taken for the source's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sfdabench.core.head import Head

SOURCE, TARGET = 0.0, 1.0  # what a judge should say
Criterion = Callable[[Tensor, float], Tensor]


@contextmanager
def frozen(*modules: nn.Module) -> Iterator[None]:
    """Compute no gradient for the parameters of these modules; the backward pass lies inside too.

    Gradients still flow through them to what they are given.
    """
    held = [p for module in modules for p in module.parameters() if p.requires_grad]
    for parameter in held:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in held:
            parameter.requires_grad_(True)


def bce(logits: Tensor, label: float) -> Tensor:
    """Mean binary cross-entropy of logits with one label everywhere; ln 2 where they are 0."""
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, label))


def lsgan(logits: Tensor, label: float) -> Tensor:
    """Mean squared distance of logits to one label everywhere (least-squares GAN)."""
    return (logits - label).square().mean()


CRITERIA: dict[Literal["bce", "lsgan"], Criterion] = {"bce": bce, "lsgan": lsgan}


def fooling(
    judges: Iterable[nn.Module],
    target: Sequence[Tensor],
    weights: Sequence[float],
    criterion: Criterion = bce,
) -> Tensor:
    """The segmenter's loss: the target's maps (B, C, H, W), one a head, should pass for source."""
    games = zip(judges, target, weights, strict=True)
    return torch.stack([w * criterion(judge(map_), SOURCE) for judge, map_, w in games]).sum()


def judging(
    judges: Iterable[nn.Module],
    source: Sequence[Tensor],
    target: Sequence[Tensor],
    criterion: Criterion = bce,
) -> Tensor:
    """The judges' loss on the maps (B, C, H, W) of each head, the mean of the two domains.

    The maps are detached: a judge's loss must not train the segmenter. ln 2 a head with `bce`
    means that the judge cannot tell them apart.
    """
    games = zip(judges, source, target, strict=True)
    halves = [
        (criterion(judge(s.detach()), SOURCE) + criterion(judge(t.detach()), TARGET)) / 2
        for judge, s, t in games
    ]
    return torch.stack(halves).sum()


class ReplayPool(nn.Module):
    """Images that a translator drew before, so that its judge does not forget them (CycleGAN).

    size: how many are kept. shape: (C, H, W) of an image. Draws come from torch's generator.
    """

    images: Tensor
    held: Tensor

    def __init__(self, size: int, shape: Sequence[int]) -> None:
        super().__init__()
        self.register_buffer("images", torch.zeros(size, *shape))
        self.register_buffer("held", torch.tensor(0))

    @torch.no_grad()
    def forward(self, fresh: Tensor) -> Tensor:
        """New images (B, C, H, W) -> what to judge in their place, the same shape.

        While there is room an image is kept and returned; afterwards, one time in two, a kept one
        is returned and the new one takes its place.
        """
        returned = []
        for image in fresh:
            if self.held < len(self.images):
                self.images[int(self.held)] = image
                self.held += 1
                returned.append(image)
            elif torch.rand(()) < 0.5:
                place = int(torch.randint(len(self.images), ()))
                returned.append(self.images[place].clone())
                self.images[place] = image
            else:
                returned.append(image)
        return torch.stack(returned)


def fooling_pixels(judge: nn.Module, target: Tensor) -> Tensor:
    """The segmenter's loss: each pixel of the target's maps (B, C, H, W) should pass for source.

    The judge has two logits a pixel, (B, 2, H, W), of target and source (CyCADA).
    """
    return -judge(target).log_softmax(dim=1)[:, 1].mean()


def judging_pixels(judge: nn.Module, source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The loss of such a judge on maps (B, C, H, W) of both domains, which are detached; and the
    share of pixels that it has right, the mean of the domains.
    """
    losses, right = [], []
    for channel, maps in enumerate((target, source)):
        logits = judge(maps.detach())
        losses.append(-logits.log_softmax(dim=1)[:, channel].mean())
        right.append((logits[:, channel] > logits[:, 1 - channel]).float().mean())
    return torch.stack(losses).sum(), torch.stack(right).mean()


class Gate(nn.Module):
    """Opens while a judge was right in more than `share` of its last hundred steps (CyCADA)."""

    right: Tensor
    steps: Tensor

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share
        self.register_buffer("right", torch.zeros(100))
        self.register_buffer("steps", torch.tensor(0))

    def opens(self, right: Tensor) -> bool:
        """Take in the share of pixels that the judge had right in this step."""
        self.right[int(self.steps) % len(self.right)] = right.detach().cpu()
        self.steps += 1
        return float(self.right[: int(self.steps)].mean()) > self.share


def self_information(logits: Tensor, head: Head) -> Tensor:
    """-p log p of each outcome, as a share of the entropy that all outcomes can have together.

    logits: (B, K, H, W). Softmax: an outcome a class, (B, K, H, W), the logarithm to base K.
    Sigmoid: each channel is on or off, (B, 2K, H, W), base 2. Ours is that both count: -p log p of
    the first alone cannot tell a class that is surely there from one that surely is not.
    """
    p = head.probabilities(logits)
    outcomes = p if head.exclusive else torch.cat((p, 1 - p), dim=1)
    return -outcomes * (outcomes + 1e-30).log() / head.largest_entropy(logits.shape[1])
