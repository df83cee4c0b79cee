"""What a method or a source-side stage sees while it trains, and a loop that resumes."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from sfdabench.core.errors import RunFailed, UndeclaredNeed
from sfdabench.core.head import Head
from sfdabench.core.needs import Needs
from sfdabench.core.precision import lower
from sfdabench.core.streams import Clock, LabelledStream, Stream

M = TypeVar("M", bound=nn.Module)
SHOWN = 4  # images of a kind that `show` keeps


class Keeper(Protocol):
    """Who restores, saves and watches a loop; the runner's, or a check's.

    stage: which loop of the method it is, counted from 0. deploy, state: as `Loop.epochs` got them.
    """

    def restore(
        self,
        stage: int,
        deploy: nn.Module | None,
        state: Mapping[str, Any],
        curves: dict[str, list[float]],
    ) -> int:
        """Bring back the last saved epoch of this stage, if any; return the next epoch."""

    def end_of_epoch(
        self,
        stage: int,
        epoch: int,
        count: int,
        deploy: nn.Module | None,
        state: Mapping[str, Any],
        curves: Mapping[str, list[float]],
        *,
        audited: bool,
    ) -> None:
        """Called after each epoch; audited: whether `deploy` is to be scored as it is now."""

    def step(self, losses: Mapping[str, Tensor]) -> None:
        """Called for each `log`, before the backward pass."""


@dataclass
class Loop:
    """Epochs that resume, and the quantities logged in them.

    curves: what `log` and `track` were given, one mean an epoch.
    notes: what `note` was given. pictures: what `show` was given.
    modules: every module that a loop was given so far, as `deploy` or in `state`.
    """

    clock: Clock
    keeper: Keeper
    curves: dict[str, list[float]] = field(default_factory=dict)
    notes: dict[str, float] = field(default_factory=dict)
    pictures: dict[str, Tensor] = field(default_factory=dict)
    modules: list[nn.Module] = field(default_factory=list)
    _sums: dict[str, list[Tensor]] = field(default_factory=dict)
    _stages: int = 0

    def epochs(
        self, count: int, *, deploy: nn.Module | None, audit_every: int = 1, **state: Any
    ) -> Iterator[int]:
        """Epochs 0..count-1, going on where a killed run stopped, bit for bit.

        deploy: the model that would ship if the run stopped now; None where nothing would, as
            while a translator is trained.
        audit_every: after how many epochs `deploy` is audited; it always is after the last one.
        state: all else that changes in the loop: modules with their buffers, tensors, and what
            has `state_dict` and `load_state_dict`: optimisers, schedulers, endless streams.
        Raises RunFailed where a logged value is no longer finite, TypeError for state of another
        kind and ValueError for an `audit_every` below 1.
        """
        if audit_every < 1:
            raise ValueError(f"audit_every={audit_every}: it counts epochs, from 1")
        for name, item in state.items():
            if not isinstance(item, Tensor) and not hasattr(item, "load_state_dict"):
                raise TypeError(
                    f"state '{name}' is of type {type(item).__name__}, which a loop cannot keep; "
                    "give a tensor, a module or an object with state_dict and load_state_dict"
                )
        stage, self._stages = self._stages, self._stages + 1
        for item in (deploy, *state.values()):
            if isinstance(item, nn.Module) and not any(item is known for known in self.modules):
                self.modules.append(item)
        # Each epoch starts the clock afresh, so what a method drew before its loop (to fill a
        # bank, say) leaves no trace that a resumed run would lack.
        for epoch in range(self.keeper.restore(stage, deploy, state, self.curves), count):
            self.clock.start(stage, epoch)
            self._sums.clear()
            yield epoch
            self.close(f"epoch {epoch}")
            due = (epoch + 1) % audit_every == 0 or epoch + 1 == count
            self.keeper.end_of_epoch(
                *(stage, epoch, count, deploy, state, self.curves),
                audited=deploy is not None and due,
            )
        self.clock.start(stage, count)

    def steps(
        self,
        count: int,
        *,
        every: int,
        deploy: nn.Module | None,
        audit_every: int = 1,
        **state: Any,
    ) -> Iterator[int]:
        """Iterations 0..count-1, saved, audited and logged in chunks of `every`; see `epochs`.

        A chunk is an epoch to the keeper, to `audit_every` and to the curves. Batches come from
        `Stream.endless`, handed over as state, so that a pass goes on from chunk to chunk.
        """
        if every < 1:
            raise ValueError(f"every={every}: it counts iterations, from 1")
        chunks = -(-count // every)
        for chunk in self.epochs(chunks, deploy=deploy, audit_every=audit_every, **state):
            yield from range(chunk * every, min((chunk + 1) * every, count))

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

    def show(self, **images: Tensor) -> None:
        """Keep the first images of each kind, (B, C, H, W) in -1..1, for `plot translations`.

        They lie in the cache beside the weights, as the prepared images do.
        """
        self.pictures |= {
            kind: shown[:SHOWN].detach().float().cpu() for kind, shown in images.items()
        }


@dataclass(kw_only=True)
class _Training(Loop):
    """What methods and source-side stages see alike.

    classes: names in channel order. head: how channels of logits become these classes.
    augmentation: name in `primitives.views.SOURCE` of the task's mild, label-preserving view.
    source_loss: name of the loss that the source model was trained with.
    """

    classes: tuple[str, ...]
    head: Head
    seed: int
    start_model: nn.Module
    augmentation: str = "light"
    source_loss: str = "cross_entropy"

    def place(self, module: M) -> M:
        """A network that a method built, moved to the model's device and run in its precision."""
        lower(module, getattr(self.start_model, "precision", "float32"))
        return module.to(next(iter(self.start_model.state_dict().values())).device)

    def model(self) -> nn.Module:
        """A new, trainable copy of the model that training starts from, in eval mode."""
        return copy.deepcopy(self.start_model).eval().requires_grad_(True)


@dataclass(kw_only=True)
class SourceContext(_Training):
    """All that a source-side stage may use: labelled source images, and no target.

    source: the training split. validation: the held-out split of the source.
    """

    source: LabelledStream
    validation: LabelledStream


@dataclass(kw_only=True)
class Context(_Training):
    """All that a method may use; `target_split` is what `target` hands out."""

    needs: Needs
    target_split: Stream
    granted: Mapping[str, Any] = field(default_factory=dict)

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
            raise UndeclaredNeed(f"the method used {need} without declaring needs.{need}")
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

    def stage(self) -> nn.Module:
        """A fresh, frozen copy, in eval mode, of the stage that `needs.source_stage` names."""
        return copy.deepcopy(self._grant("source_stage")).eval().requires_grad_(False)
