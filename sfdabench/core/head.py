"""The output head of a task: how channels of logits become classes. Imports torch late."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from torch import Tensor


class Head(ABC):
    """A value without state: two heads of one kind are equal, and `str(head)` is its name.

    K classes have C output channels: maps are (B, C, ...), masks of the classes (B, K, ...).

    exclusive: whether a pixel has one class only. Channel 0 is then the background.
    """

    __slots__ = ()
    name: ClassVar[str]
    exclusive: ClassVar[bool]

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return self.name.upper()

    def __eq__(self, other: object) -> bool:
        if isinstance(other, str):  # it would be False, and `if head == "sigmoid"` silently wrong
            raise TypeError(
                f"'{other}' is text, not a head: ask the head, or compare it with SIGMOID or "
                "SOFTMAX of sfdabench.core.head"
            )
        return type(self) is type(other)

    def __hash__(self) -> int:
        return hash(self.name)

    @abstractmethod
    def outputs(self, classes: int) -> int:
        """The number of channels of a network for K classes: K -> C."""

    @abstractmethod
    def probabilities(self, logits: Tensor) -> Tensor:
        """(B, C, ...) -> the same shape, in 0..1."""

    @abstractmethod
    def logits(self, probability: Tensor) -> Tensor:
        """Logits that have these probabilities, all of which must be above 0 and below 1."""

    @abstractmethod
    def without_background(self, maps: Tensor) -> Tensor:
        """(B, C, ...) -> the channels of the classes, (B, K, ...)."""

    @abstractmethod
    def masks(self, probability: Tensor, threshold: float | Tensor) -> Tensor:
        """Probabilities (B, C, ...) -> boolean masks (B, K, ...).

        threshold: what a probability must exceed, a number or a tensor that expands to the masks.
        It plays no part where classes are exclusive: the most probable one wins.
        """

    def masks_of_logits(self, logits: Tensor, threshold: float | Tensor) -> Tensor:
        """The masks of these logits' probabilities."""
        return self.masks(self.probabilities(logits), threshold)

    @abstractmethod
    def decide(self, probability: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities -> how probable the likeliest decision is, and that decision.

        Both (B, 1, ...), the winning channel in int64, where classes are exclusive; otherwise both
        (B, K, ...), and the decision is whether each class is there.
        """

    @abstractmethod
    def one_hot(self, decision: Tensor, like: Tensor) -> Tensor:
        """Decisions, in any type of number -> 0 or 1 in each channel, (B, C, ...) as `like`."""

    @abstractmethod
    def cross_entropy(self, logits: Tensor, target: Tensor) -> Tensor:
        """Logits and target in 0..1, (B, C, ...) -> the loss of each decision, shaped as that."""

    @abstractmethod
    def largest_entropy(self, outputs: int) -> float:
        """The entropy in nats of a decision among these C channels that could fall any way."""

    @abstractmethod
    def foreground_share(self, logits: Tensor) -> Tensor:
        """The share of decisions that are not for background, a scalar.

        It falls to zero where minimal entropy was found in background everywhere.
        """


class Sigmoid(Head):
    """A channel a class, each decided on its own: classes may overlap, or lie in one another."""

    __slots__ = ()
    name = "sigmoid"
    exclusive = False

    def outputs(self, classes: int) -> int:
        return classes

    def probabilities(self, logits: Tensor) -> Tensor:
        return logits.sigmoid()

    def logits(self, probability: Tensor) -> Tensor:
        return probability.logit()

    def without_background(self, maps: Tensor) -> Tensor:
        return maps

    def masks(self, probability: Tensor, threshold: float | Tensor) -> Tensor:
        return probability > threshold

    def decide(self, probability: Tensor) -> tuple[Tensor, Tensor]:
        return probability.maximum(1 - probability), probability > 0.5

    def one_hot(self, decision: Tensor, like: Tensor) -> Tensor:
        return decision.to(like.dtype)

    def cross_entropy(self, logits: Tensor, target: Tensor) -> Tensor:
        from torch.nn import functional as F

        return F.binary_cross_entropy_with_logits(logits, target, reduction="none")

    def largest_entropy(self, outputs: int) -> float:
        return math.log(2)

    def foreground_share(self, logits: Tensor) -> Tensor:
        return (logits > 0).float().mean()


class Softmax(Head):
    """Exclusive classes, and a channel 0 for what belongs to none of them."""

    __slots__ = ()
    name = "softmax"
    exclusive = True

    def outputs(self, classes: int) -> int:
        return classes + 1

    def probabilities(self, logits: Tensor) -> Tensor:
        return logits.softmax(dim=1)

    def logits(self, probability: Tensor) -> Tensor:
        return probability.log()

    def without_background(self, maps: Tensor) -> Tensor:
        return maps[:, 1:]

    def masks(self, probability: Tensor, threshold: float | Tensor) -> Tensor:
        import torch

        winner = probability.argmax(dim=1)
        classes = range(1, probability.shape[1])
        return torch.stack([winner == k for k in classes], dim=1)

    def masks_of_logits(self, logits: Tensor, threshold: float | Tensor) -> Tensor:
        return self.masks(logits, threshold)  # the largest wins, with no rounding to make ties

    def decide(self, probability: Tensor) -> tuple[Tensor, Tensor]:
        sureness, winner = probability.max(dim=1, keepdim=True)
        return sureness, winner

    def one_hot(self, decision: Tensor, like: Tensor) -> Tensor:
        import torch

        return torch.zeros_like(like).scatter_(1, decision.long(), 1.0)

    def cross_entropy(self, logits: Tensor, target: Tensor) -> Tensor:
        return -(target * logits.log_softmax(dim=1)).sum(dim=1, keepdim=True)

    def largest_entropy(self, outputs: int) -> float:
        return math.log(outputs)

    def foreground_share(self, logits: Tensor) -> Tensor:
        return (logits.argmax(dim=1) > 0).float().mean()


SIGMOID, SOFTMAX = Sigmoid(), Softmax()
HEADS: dict[str, Head] = {head.name: head for head in (SIGMOID, SOFTMAX)}
