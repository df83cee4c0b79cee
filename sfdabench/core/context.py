"""What a method sees while it adapts: a start model, unlabelled batches, a loop that resumes."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from sfdabench.core.errors import RunFailed, UndeclaredNeed
from sfdabench.core.needs import Needs
from sfdabench.core.streams import Clock, LabelledStream, Stream


class Keeper(Protocol):
    """Who restores, saves and watches a loop; the runner's, or a check's."""

    def restore(
        self,
        stage: int,
        deploy: nn.Module,
        state: Mapping[str, Any],
        curves: dict[str, list[float]],
    ) -> int:
        """Bring back the last saved epoch of this stage, if any; return the next epoch."""

    def end_of_epoch(
        self,
        stage: int,
        epoch: int,
        count: int,
        deploy: nn.Module,
        state: Mapping[str, Any],
        curves: Mapping[str, list[float]],
    ) -> None:
        """Called after each epoch."""

    def step(self, losses: Mapping[str, Tensor]) -> None:
        """Called for each `log`, before the backward pass."""


@dataclass
class Loop:
    """Epochs that resume, and the quantities logged in them.

    curves: what `log` and `track` were given, one mean an epoch.
    notes: what `note` was given.
    """

    clock: Clock
    keeper: Keeper
    curves: dict[str, list[float]] = field(default_factory=dict)
    notes: dict[str, float] = field(default_factory=dict)
    _sums: dict[str, list[Tensor]] = field(default_factory=dict)
    _stages: int = 0

    def epochs(self, count: int, *, deploy: nn.Module, **state: Any) -> Iterator[int]:
        """Epochs 0..count-1, going on where a killed run stopped, bit for bit.

        deploy: the model that would ship if the run stopped now.
        state: all else that changes in the loop: modules, optimisers, schedulers, tensors.
        Raises RunFailed where a logged value is no longer finite.
        """
        stage, self._stages = self._stages, self._stages + 1
        # Each epoch starts the clock afresh, so what a method drew before its loop (to fill a
        # bank, say) leaves no trace that a resumed run would lack.
        for epoch in range(self.keeper.restore(stage, deploy, state, self.curves), count):
            self.clock.start(stage, epoch)
            self._sums.clear()
            yield epoch
            self.close(f"epoch {epoch}")
            self.keeper.end_of_epoch(stage, epoch, count, deploy, state, self.curves)
        self.clock.start(stage, count)

    def close(self, where: str) -> None:
        """Turn what was logged since the last epoch began into one more value of each curve.

        where: such as "epoch 3". Raises RunFailed where a value is no longer finite.
        """
        for name, values in self._sums.items():
            mean = torch.stack(values).mean().item()
            if not np.isfinite(mean):
                raise RunFailed(f"{name} is {mean} in {where}: the training diverged")
            self.curves.setdefault(name, []).append(mean)
        self._sums.clear()

    def log(self, **losses: Tensor) -> None:
        """Record losses of this step, before the backward pass; each must carry a gradient."""
        self.keeper.step(losses)
        self.track(**losses)

    def track(self, **values: Tensor | float) -> None:
        """Record quantities that are not trained on, such as a calibration weight."""
        for name, value in values.items():
            self._sums.setdefault(name, []).append(torch.as_tensor(value).detach().float())

    def note(self, **values: float) -> None:
        """Keep numbers that describe the result, such as the epoch that was selected."""
        self.notes |= values


@dataclass(kw_only=True)
class SourceContext(Loop):
    """All that a source-side stage may use.

    source, validation: the labelled source splits to learn from and to select by.
    start_model: the network before source training; the source model for any other stage.
    """

    source: LabelledStream
    validation: LabelledStream
    start_model: nn.Module
    classes: tuple[str, ...]
    head: str
    seed: int
    augmentation: str = "light"

    def model(self) -> nn.Module:
        """A new, trainable copy of the model that the stage starts from, in eval mode."""
        return copy.deepcopy(self.start_model).eval().requires_grad_(True)


@dataclass(kw_only=True)
class Context(Loop):
    """All that a method may use.

    classes: names in channel order. head: "sigmoid" or "softmax" (channel 0 is background).
    target_split: what `target` hands out.
    augmentation: name in `primitives.views.SOURCE` of the task's mild, label-preserving view.
    source_loss: name of the loss that the source model was trained with.
    """

    needs: Needs
    classes: tuple[str, ...]
    head: str
    seed: int
    start_model: nn.Module
    target_split: Stream
    augmentation: str = "light"
    source_loss: str = "cross_entropy"
    granted: Mapping[str, Any] = field(default_factory=dict)

    def model(self) -> nn.Module:
        """A new, trainable copy of the model that adaptation starts from, in eval mode."""
        return copy.deepcopy(self.start_model).eval().requires_grad_(True)

    @property
    def target(self) -> Stream:
        """The unlabelled target training split; closed to a method that adapts online."""
        if self.needs.online:
            raise UndeclaredNeed(
                "needs.online=True: the method learns from the images that it predicts, and has "
                "no target training split"
            )
        return self.target_split

    def _grant(self, need: str) -> Any:
        if not getattr(self.needs, need):
            raise UndeclaredNeed(f"the method used {need} without declaring needs.{need}=True")
        return self.granted[need]

    @property
    def labelled_target(self) -> LabelledStream:
        """The target training split with its labels; needs `target_labels`."""
        return self._grant("target_labels")

    @property
    def source(self) -> LabelledStream:
        """The labelled source training split; needs `source_data`."""
        return self._grant("source_data")

    @property
    def class_ratio(self) -> dict[str, float]:
        """Mean share of a source image that each class takes; needs `class_ratio`."""
        return self._grant("class_ratio")
