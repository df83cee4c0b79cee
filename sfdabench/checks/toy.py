"""The toy problem that the contracts run on: two domains of bright blobs, and a small network."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sfdabench.core import registry
from sfdabench.core.checkpoint import CheckpointKeeper
from sfdabench.core.context import Context, SourceContext
from sfdabench.core.fields import override
from sfdabench.core.head import SIGMOID, Head
from sfdabench.core.method import Method
from sfdabench.core.needs import Needs
from sfdabench.core.seeding import generator, seed_all
from sfdabench.core.stage import SourceStage
from sfdabench.core.streams import Clock, LabelledStream, Stream
from sfdabench.core.task import Training
from sfdabench.evaluate.predict import probabilities
from sfdabench.models import composites
from sfdabench.models.composites import describe
from sfdabench.models.segmenter import PREDICTED_TOGETHER, OnlineSegmenter, Segmenter
from sfdabench.models.weights import sha256
from sfdabench.networks.unet_boundary import UNetBoundary
from sfdabench.networks.unet_dual import UNetDual
from sfdabench.networks.unet_small import UNetSmall
from sfdabench.primitives.losses import segmentation_loss
from sfdabench.primitives.views import SOURCE

CLASS_NAMES = ("cup", "disc", "vessel", "fovea", "lesion")
CPU = torch.device("cpu")
SELDOM = 1e9  # patience of a keeper that saves the first epoch and the last one


@dataclass(frozen=True)
class Toy:
    """A variant of the problem.

    count: target images. size: (H, W). classes: structures, nested under a sigmoid head.
    foreground: False for a target that shows none. labels: seed of the target's label maps.
    """

    count: int = 9
    size: tuple[int, int] = (24, 24)
    classes: int = 2
    head: Head = SIGMOID
    foreground: bool = True
    labels: int = 0

    @property
    def values(self) -> tuple[tuple[int, ...], ...]:
        """Label values of each class: ring k holds value k + 1, class 0 is innermost."""
        if self.head.exclusive:
            return tuple((k + 1,) for k in range(self.classes))
        return tuple(
            tuple(range(1 + self.classes - 1 - k, self.classes + 1)) for k in range(self.classes)
        )


def draw(toy: Toy, domain: str, count: int, *, foreground: bool) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 3, H, W) uint8 and label maps (N, H, W) uint8: concentric bright rings."""
    height, width = toy.size
    y, x = np.mgrid[:height, :width]
    images, labels = [], []
    for i in range(count):
        rng = generator("toy", domain, i)
        centre = rng.uniform(0.35, 0.65, 2) * (height, width)
        radius = np.hypot(y - centre[0], x - centre[1]) / (min(height, width) * 0.4)
        level = np.clip(np.floor((1 - radius) * (toy.classes + 1)) + 0.999, 0, toy.classes)
        label = level.astype(np.uint8) if foreground else np.zeros(toy.size, np.uint8)
        tint = (40, 25, 10) if domain == "source" else (25, 35, 20)
        base = 60 if domain == "source" else 85
        shown = base + label[None] * np.array(tint)[:, None, None]
        noise = rng.normal(0, 8 if domain == "source" else 14, (3, height, width))
        images.append(np.clip(shown + noise, 0, 255).astype(np.uint8))
        labels.append(label)
    return np.stack(images), np.stack(labels)


def _labelled(
    toy: Toy, name: str, clock: Clock, images: np.ndarray, labels: np.ndarray
) -> LabelledStream:
    return LabelledStream(
        name=name,
        images=images,
        ids=tuple(f"{name}-{i}" for i in range(len(images))),
        device=CPU,
        seed=0,
        clock=clock,
        labels=labels,
        classes=toy.values,
        background=toy.head.exclusive,
    )


def _source_data(
    toy: Toy, needs: Needs, clock: Clock, images: np.ndarray, labels: np.ndarray
) -> LabelledStream:
    """The labelled source; where each rater counts, every other image has a second rater's mask."""
    if needs.raters == "each":
        smaller = np.minimum(labels, np.roll(labels, 1, axis=(1, 2)))
        labels = np.where(np.arange(len(labels))[:, None, None] % 2, smaller, labels)
    return _labelled(toy, "source", clock, images, labels)


def source_model(toy: Toy, needs: Needs) -> Segmenter:
    """A copy of the toy's source model, of a network that has what the method asks for."""
    return copy.deepcopy(_source_model(toy.classes, toy.head, _network(needs)))


NETWORKS = {
    "penultimate": UNetSmall(width=4, depth=2),
    "auxiliary": UNetDual(width=4, depth=2),
    "boundary": UNetBoundary(width=4, depth=2),
}


def _network(needs: Needs) -> str:
    """The feature by which the toy's network is chosen; "penultimate" is what all of them have."""
    rarer = sorted(needs.network & {"auxiliary", "boundary"})
    return rarer[0] if rarer else "penultimate"


def _build(toy: Toy, network: str) -> nn.Module:
    return NETWORKS[network].build(channels=3, outputs=toy.head.outputs(toy.classes))


@cache
def _source_model(classes: int, head: Head, network: str) -> Segmenter:
    toy = Toy(classes=classes, head=head)
    seed_all(0)
    model = Segmenter(_build(toy, network))
    stream = _labelled(toy, "source", Clock(), *draw(toy, "source", 16, foreground=True))
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(12):
        for images, masks in stream.pairs(8, SOURCE["none"]):
            if network == "auxiliary":
                main, other = (segmentation_loss(m, masks, head) for m in model.heads(images))
                loss = main + 0.1 * other
            else:
                loss = segmentation_loss(model(images), masks, head)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return model.eval()


def _stage(name: str, toy: Toy) -> nn.Module:
    """What a source-side stage makes of the toy's source, at its smoke values."""
    return copy.deepcopy(_trained_stage(name, toy.classes, toy.head))


@cache
def _trained_stage(name: str, classes: int, head: Head) -> nn.Module:
    entry: type[SourceStage] = registry.load("stages", name)
    stage = override(entry(), entry.smoke, owner=name)
    with tempfile.TemporaryDirectory() as work:
        return train(stage, Toy(classes=classes, head=head), Path(work))[0]


class Killed(BaseException):
    """Stands for `kill -9`: no method may catch it."""


@dataclass
class ToyKeeper(CheckpointKeeper):
    """A keeper that kills the loop on request and remembers what loops are given.

    given: every object in `deploy` and in the state of each loop so far.
    """

    kill_after: int | None = None
    given: list[Any] = field(default_factory=list)
    _epochs: int = 0

    def restore(
        self,
        stage: int,
        deploy: nn.Module | None,
        state: Mapping[str, Any],
        curves: dict[str, list[float]],
    ) -> int:
        """Restore as ever; the loop's objects are known from here on, before its first step."""
        self.given += [deploy, *state.values()]
        return super().restore(stage, deploy, state, curves)

    def end_of_epoch(self, *arguments: Any, **named: Any) -> None:
        """Save as ever, then die where asked to."""
        super().end_of_epoch(*arguments, **named)
        self._epochs += 1
        if self.kill_after is not None and self._epochs > self.kill_after:
            raise Killed


@dataclass
class Attempt:
    """What came of one adaptation on the toy.

    prediction: probabilities (N, K, H, W) of the target images, as the deployed model scores.
    gradients: loss name -> its largest gradient at any trainable parameter, over all steps.
    """

    start: Segmenter
    deployed: nn.Module
    prediction: Tensor
    gradients: dict[str, float]

    @property
    def fingerprint(self) -> str:
        """A hash of all that the deployed model holds and of what it predicts."""
        return sha256({**self.deployed.state_dict(), "prediction": self.prediction})


def attempt(
    method: Method,
    toy: Toy,
    work: Path,
    *,
    seed: int = 0,
    kill_after: int | None = None,
    cut: str | None = None,
    watched: bool = True,
) -> Attempt:
    """Adapt on the toy; a second call with the same `work` goes on where the first was killed.

    kill_after: raise Killed after this epoch, or batch of an online method; counted from 0.
    cut: name of a logged loss whose gradient is replaced by zeros at every step.
    watched: measure the gradient of every logged loss, which takes longer than the steps do.
    Everything that any need could ask for is at hand, so that a method that reaches for what it
    does not declare is caught by the grant and by what comes out, not by its absence. Raises
    TypeError where `adapt` returns no module.
    """
    needs = method.needs
    start = source_model(toy, needs)
    clock = Clock()
    images, _ = draw(toy, "target", toy.count, foreground=toy.foreground)
    _, labels = draw(toy, f"labels-{toy.labels}", toy.count, foreground=toy.foreground)
    s_images, s_labels = draw(toy, "source", 8, foreground=True)
    names = CLASS_NAMES[: toy.classes]
    copies: list[nn.Module] = []
    gradients: dict[str, float] = {}

    def look(losses: Mapping[str, Tensor]) -> None:
        parameters = _trainable([*copies, *keeper.given])
        for name, loss in losses.items():
            gradients.setdefault(name, 0.0)
            if loss.requires_grad and parameters:
                reached = torch.autograd.grad(
                    loss, parameters, retain_graph=True, allow_unused=True
                )
                largest = (float(g.abs().max()) for g in reached if g is not None)
                gradients[name] = max(gradients[name], *largest, 0.0)

    def sever(losses: Mapping[str, Tensor]) -> None:
        if cut is not None and cut in losses and losses[cut].requires_grad:
            losses[cut].register_hook(torch.zeros_like)

    at_step = look if watched else None
    keeper = ToyKeeper(
        work,
        at_step=at_step if cut is None else sever,
        patience=SELDOM if kill_after is None else 0.0,
        kill_after=kill_after,
    )
    context = _RecordingContext(
        clock=clock,
        keeper=keeper,
        needs=needs,
        classes=names,
        head=toy.head,
        seed=seed,
        start_model=start,
        target_split=Stream(
            name="target",
            images=images,
            ids=tuple(f"target-{i}" for i in range(toy.count)),
            device=CPU,
            seed=seed,
            clock=clock,
        ),
        granted={
            "target_labels": _labelled(toy, "target", clock, images, labels),
            "source_data": _source_data(toy, needs, clock, s_images, s_labels),
            "source_stage": _stage(needs.source_stage, toy) if needs.source_stage else start,
            "class_ratio": {
                name: float(np.isin(s_labels, values).mean())
                for name, values in zip(names, toy.values, strict=True)
            },
        },
        copies=copies,
    )
    seed_all(seed)
    deployed = method.adapt(context)
    if not isinstance(deployed, nn.Module):
        raise TypeError(f"adapt returned a {type(deployed).__name__}, not a module")
    size = deployed.batch_size if isinstance(deployed, OnlineSegmenter) else PREDICTED_TOGETHER
    maps = []
    for i, map_ in enumerate(probabilities(deployed, context.target_split, toy.head, size)):
        maps.append(map_)
        # an online model learns while it predicts: a map is there once its batch was learnt
        if needs.online and kill_after is not None and i // size == kill_after:
            raise Killed
    return Attempt(start, deployed, torch.stack(maps), gradients)


def train(
    stage: SourceStage, toy: Toy, work: Path, *, kill_after: int | None = None
) -> tuple[nn.Module, dict[str, float]]:
    """Train a source-side stage on the toy's source; returns its module, and what it noted.

    It starts from a fresh network where it is called source training, else from the toy's source
    model. A second call with the same `work` goes on where the first was killed.
    """
    clock = Clock()
    fresh = isinstance(stage, Training)
    seed_all(0)
    network = _build(toy, "penultimate")
    start = Segmenter(network) if fresh else source_model(toy, Needs())
    splits = [
        _labelled(toy, name, of, *draw(toy, domain, count, foreground=True))
        for name, domain, count, of in (
            ("source", "source", 9, clock),
            ("source test", "source held out", 4, Clock()),
        )
    ]
    context = SourceContext(
        clock=clock,
        keeper=ToyKeeper(
            work, patience=SELDOM if kill_after is None else 0.0, kill_after=kill_after
        ),
        classes=CLASS_NAMES[: toy.classes],
        head=toy.head,
        seed=0,
        start_model=start,
        source=splits[0],
        validation=splits[1],
    )
    seed_all(0)
    return stage.train(context), context.notes


def predict(model: nn.Module, toy: Toy) -> Tensor:
    """Probabilities (N, K, H, W) that a model gives for the toy's target images."""
    images, _ = draw(toy, "target", toy.count, foreground=toy.foreground)
    ids = tuple(map(str, range(toy.count)))
    stream = Stream("target", images, ids, device=CPU, seed=0, clock=Clock())
    return torch.stack([*probabilities(model, stream, toy.head, PREDICTED_TOGETHER)])


def rebuild(deployed: nn.Module, toy: Toy, needs: Needs) -> Segmenter:
    """The model that a reader makes of what a run stores of its deployed model.

    Raises RunFailed for a model of which nothing can be stored.
    """
    network, about = _build(toy, _network(needs)), describe(deployed)
    return composites.rebuild(network, about, deployed.weights(), "the deployed model", "float32")  # type: ignore[operator]


def _trainable(objects: Iterable[Any]) -> list[nn.Parameter]:
    """Parameters with a gradient of all modules and optimisers among `objects`, each once."""
    parameters: dict[int, nn.Parameter] = {}
    for item in objects:
        mine: Iterable[nn.Parameter] = ()
        if isinstance(item, nn.Module):
            mine = item.parameters()
        elif isinstance(item, torch.optim.Optimizer):
            mine = (p for group in item.param_groups for p in group["params"])
        parameters |= {id(p): p for p in mine if p.requires_grad}
    return [*parameters.values()]


@dataclass(kw_only=True)
class _RecordingContext(Context):
    """Remembers the models it hands out, to look at their gradients."""

    copies: list[nn.Module]

    def model(self) -> nn.Module:
        model = super().model()
        self.copies.append(model)
        return model
