"""Realise a stage: find its artefact by its key, or make it once and keep it.

A stage is made from its value and from granted paths alone, never from the objects of a run, so
that another process can make it.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from sfdabench.core import registry
from sfdabench.core.checkpoint import CheckpointKeeper, same_threads
from sfdabench.core.context import Context, SourceContext
from sfdabench.core.errors import BadInput, RunFailed
from sfdabench.core.fields import override
from sfdabench.core.files import atomic, held
from sfdabench.core.method import Method
from sfdabench.core.network import Network
from sfdabench.core.progress import Progress
from sfdabench.core.protocol import Protocol
from sfdabench.core.seeding import seed_all
from sfdabench.core.stage import SourceStage, Stage
from sfdabench.core.streams import Clock, LabelledStream, Stream
from sfdabench.core.task import Task
from sfdabench.evaluate.predict import predict, seal
from sfdabench.models.composites import ALONE, describe, rebuild, rebuild_part
from sfdabench.models.part import Part
from sfdabench.models.segmenter import (
    PREDICTED_TOGETHER,
    OnlineSegmenter,
    Precision,
    Segmenter,
)
from sfdabench.models.weights import sha256, to_bytes
from sfdabench.prepare import streams
from sfdabench.prepare.arrays import Prepared
from sfdabench.run import artefacts, guard
from sfdabench.run.artefacts import CARD, ONLINE, WEIGHTS, Artefact, Card, Point

Role = str


@dataclass(frozen=True)
class Granted:
    """A prepared split: the folder of its images, and of its labels where the role grants them."""

    images: Path
    labels: Path | None = None

    def open(self) -> Prepared:
        """Open its arrays. Raises BadInput where they are not what their index says."""
        return Prepared.open(self.images, self.labels)


@dataclass(frozen=True)
class Audit:
    """The test images that the model of each audited epoch predicts.

    The masks are sealed on disk and scored when adaptation is over; they never reach a method.
    """

    task: Task
    protocols: Mapping[str, Protocol]
    test: Granted


@dataclass(frozen=True)
class Grants:
    """What one stage may read.

    splits: role -> prepared splits, by the roles of `Stage.sees`.
    backbone: the file of pretrained weights. closed: paths that the guard refuses meanwhile.
    """

    splits: Mapping[Role, tuple[Granted, ...]] = field(default_factory=dict)
    backbone: Path | None = None
    audit: Audit | None = None
    closed: Sequence[Path] = ()

    @property
    def folders(self) -> list[Path]:
        """Every prepared folder that is granted."""
        splits = [split for role in self.splits.values() for split in role]
        images = [split.images for split in splits]
        images += [self.audit.test.images] if self.audit else []
        return [*images, *(split.labels for split in splits if split.labels is not None)]


def initial_network(stage: Stage, backbone: Path | None) -> nn.Module:
    """Build the network of a stage as it is before any training, seeded.

    backbone: file of pretrained weights. Raises BadInput where they do not fit it.
    """
    seed_all(stage.seed)
    entry = network_of(stage)
    network = entry.build(channels=stage.problem.channels, outputs=stage.problem.outputs)
    if backbone is not None:
        entry.load_backbone(network, backbone)
    return network


def network_of(stage: Stage) -> Network:
    """Return the entry that builds the network of a stage, with its field values."""
    entry = registry.load("networks", stage.network)
    return override(entry(), stage.network_fields, owner=f"network {stage.network}")


def module_of(artefact: Artefact, device: str, precision: Precision) -> nn.Module:
    """What a source-side stage stored: a model, or a part that stands in front of none."""
    about = artefact.card.composite
    if about is not None and about.get("name") == ALONE:
        part = rebuild_part(about, artefact.state(), artefact.folder / WEIGHTS)
        return part.to(device)
    return model_of(artefact, device, precision)


def model_of(artefact: Artefact, device: str, precision: Precision) -> Segmenter:
    """Return the stored model in eval mode: a fresh network, filled from the stored weights.

    Raises BadInput where they are damaged or of another network.
    """
    network = initial_network(artefact.stage, None)
    path = artefact.folder / WEIGHTS
    model = rebuild(network, artefact.card.composite, artefact.state(), path, precision)
    return model.to(device).eval()


def find(
    cache: Path, stage: Stage, protocols: Collection[str], say: Callable[[str], None]
) -> Artefact | None:
    """Return the artefact of a stage if it is whole and was audited by all these protocols."""
    folder = artefacts.place(cache, stage)
    if not folder.exists():
        return None
    try:
        artefact = artefacts.read_card(folder)
        artefacts.check(artefact)
        artefacts.touch(artefact)
    except BadInput as error:
        say(f"{error}; made anew")
        return None
    lacking = set(protocols) - set(artefact.card.protocols)
    if lacking:
        say(
            f"{folder.name}: its epochs were not predicted for {', '.join(sorted(lacking))}; "
            "made again for that"
        )
        return None
    return artefact


def realise(
    stage: Stage,
    grants: Callable[[], Grants],
    *,
    protocols: Collection[str] = (),
    cache: Path,
    device: str,
    progress: Progress,
    force: bool = False,
) -> Artefact:
    """Find the artefact of a stage, or make it; what it starts from must be in the cache.

    grants: asked only where the stage is made. protocols: those that its epochs are audited by.
    One process makes it at a time, and a killed one's work goes on. Raises what the maker raises;
    its work is kept where the system is at fault (a full disk), so that the next call goes on.
    """
    folder = artefacts.place(cache, stage)
    with held(folder, progress.say):
        artefact = None if force else find(cache, stage, protocols, progress.say)
        if artefact is not None:
            return artefact
        work = folder.with_name(f"{folder.name}.work")
        if force:
            shutil.rmtree(work, ignore_errors=True)
        try:
            with same_threads(work, progress.say):
                card = _Making(stage, grants(), work, cache, device, progress).card()
        except OSError:
            raise
        except BadInput:
            if [path.name for path in work.glob("*")] == ["threads"]:  # nothing that could go on
                shutil.rmtree(work)
            raise
        except Exception:
            shutil.rmtree(work, ignore_errors=True)
            raise
        return _close(card, work, folder)


def _close(card: Card, work: Path, folder: Path) -> Artefact:
    """Move what was made into its place; where it was killed before, the rest of it."""
    kept = {WEIGHTS, ONLINE, *(point.file for point in card.points)}
    (folder / CARD).unlink(missing_ok=True)  # what is there without a card is no artefact
    for name in sorted(kept):
        if (work / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (work / name).replace(folder / name)
    for path in artefacts.files(folder):
        if path.relative_to(folder).as_posix() not in kept:
            path.unlink()
    artefact = artefacts.write_card(
        folder, card.model_copy(update={"files": artefacts.hashes(folder)})
    )
    shutil.rmtree(work)
    return artefact


class _Making:
    """One stage while it is made, in the folder `work`."""

    def __init__(
        self,
        stage: Stage,
        grants: Grants,
        work: Path,
        cache: Path,
        device: str,
        progress: Progress,
    ) -> None:
        self.stage, self.grants, self.work, self.cache = stage, grants, work, cache
        self.device, self.progress = torch.device(device), progress
        self.maker = stage.maker()

    def card(self) -> Card:
        """Make it, leave its weights in `work`, and describe it."""
        started = time.monotonic()
        make = self._adapted if isinstance(self.maker, Method) else self._trained
        model, loop = make()
        composite = describe(model)
        weights, memory_format = model.state_dict(), None
        if isinstance(model, Segmenter):
            weights, memory_format = model.weights(), str(model.memory_format)
        content = sha256(weights)
        with atomic(self.work / WEIGHTS, "wb") as file:
            file.write(to_bytes(weights, {"sha256": content}))
        audit = self.grants.audit
        points = self._points()
        return Card(
            key=self.stage.key,
            stage=self.stage.plain(),
            sha256=content,
            composite=composite,
            files={},
            curves=loop.curves,
            notes=loop.notes,
            seconds=time.monotonic() - started,
            threads=torch.get_num_threads(),
            memory_format=memory_format and memory_format.removeprefix("torch."),
            protocols=tuple(audit.protocols) if audit else (),
            points=tuple(
                Point(stage=p["stage"], epoch=p["epoch"], file=p["file"]) for p in points.values()
            ),
        )

    # Source-side stages.

    def _trained(self) -> tuple[nn.Module, SourceContext]:
        stage, maker = self.stage, self.maker
        assert isinstance(maker, SourceStage)
        count = getattr(maker, "epochs", None)
        called = "source training" if stage.start is None else f"source stage ({stage.name})"
        with self.progress.stage(called, count) as advance:
            clock = Clock()
            context = SourceContext(
                clock=clock,
                keeper=CheckpointKeeper(
                    self.work, at_epoch=lambda _, epoch, n, *__: advance(epoch + 1, n)
                ),
                source=self._labelled("source", "source", clock),
                validation=self._labelled("validation", "source test", Clock()),
                start_model=self._start(),
                classes=tuple(stage.problem.classes),
                head=stage.problem.head,
                seed=stage.seed,
                augmentation=stage.problem.augmentation,
            )
            seed_all(stage.seed)
            module = maker.train(context)
            if stage.start is not None and isinstance(module, Part):
                return module.eval(), context
            return self._returned(module), context

    def _start(self) -> Segmenter:
        """The model that the stage begins with, on the device."""
        stage = self.stage
        if stage.start is None:
            return Segmenter(initial_network(stage, self.grants.backbone)).to(self.device)
        artefact = artefacts.read_card(artefacts.place(self.cache, stage.start))
        return model_of(artefact, str(self.device), stage.precision)

    def _labelled(self, role: Role, name: str, clock: Clock) -> LabelledStream:
        """Labelled planes of all splits of a role."""
        problem = self.stage.problem
        return streams.labelled(
            [granted.open() for granted in self.grants.splits[role]],
            name,
            device=self.device,
            seed=self.stage.seed,
            clock=clock,
            classes=tuple(problem.classes.values()),
            background=problem.head.exclusive,
        )

    def _returned(self, model: nn.Module) -> Segmenter:
        if not isinstance(model, Segmenter):
            raise RunFailed(f"{self.stage.name} returned {type(model).__name__}, not a model")
        return model.eval()

    # Adaptation.

    def _adapted(self) -> tuple[Segmenter, Context]:
        stage, method = self.stage, self.maker
        assert isinstance(method, Method)
        assert stage.start is not None
        online = method.needs.online
        start, clock = self._start(), Clock()
        content = sha256(start.weights())
        audit = self.grants.audit
        prepared = None if audit is None else audit.test.open()
        with self.progress.stage(f"adaptation ({stage.name})") as advance:

            def at_epoch(
                loop: int, epoch: int, count: int, deploy: nn.Module | None, audited: bool
            ) -> None:
                if audit is not None and deploy is not None and audited and not online:
                    self._seal(loop, epoch, deploy, audit, prepared)
                advance(epoch + 1, count)

            context = Context(
                clock=clock,
                keeper=CheckpointKeeper(self.work, at_epoch=at_epoch),
                needs=method.needs,
                classes=tuple(stage.problem.classes),
                head=stage.problem.head,
                seed=stage.seed,
                start_model=start,
                target_split=self._target(online, clock),
                augmentation=stage.problem.augmentation,
                source_loss=stage.problem.source_loss,
                granted=self._granted(method, clock),
            )
            seed_all(stage.seed)
            with guard.closed(self.grants.closed, [*self.grants.folders, self.work]):
                deployed = self._returned(method.adapt(context))
                if online != isinstance(deployed, OnlineSegmenter):
                    raise RunFailed(
                        f"{stage.name}: needs.online and an OnlineSegmenter go together"
                    )
                if isinstance(deployed, OnlineSegmenter):  # it learns, so labels stay closed
                    assert audit is not None
                    assert prepared is not None
                    masks = self._masks(deployed, audit, prepared, deployed.batch_size)
                    seal(self.work / ONLINE, masks)
                    context.close("its pass over the test images")
        if sha256(start.weights()) != content:
            raise RunFailed("the method changed the source model; it must work on context.model()")
        return deployed.eval(), context

    def _target(self, online: bool, clock: Clock) -> Stream:
        role = "target test" if online else "target"
        (granted,) = self.grants.splits[role]
        return streams.images(
            granted.open(), "target", device=self.device, seed=self.stage.seed, clock=clock
        )

    def _granted(self, method: Method, clock: Clock) -> dict[str, Any]:
        granted: dict[str, Any] = {}
        if method.needs.target_labels:
            granted["target_labels"] = self._labelled("target labels", "target", clock)
        if method.needs.source_data:
            granted["source_data"] = self._labelled("source", "source", clock)
        if method.needs.class_ratio:
            splits = [part.open() for part in self.grants.splits["class ratio"]]
            labels = np.concatenate([split.labels() for split in splits])
            granted["class_ratio"] = {
                name: float(np.isin(labels, values).mean())
                for name, values in self.stage.problem.classes.items()
            }
        for stage in self.stage.beside:
            artefact = artefacts.read_card(artefacts.place(self.cache, stage))
            granted["source_stage"] = module_of(artefact, str(self.device), self.stage.precision)
        return granted

    # Sealed masks.

    def _masks(
        self, model: nn.Module, audit: Audit, prepared: Prepared, batch: int = PREDICTED_TOGETHER
    ) -> Iterator[dict[str, np.ndarray]]:
        test = streams.images(prepared, "target test", device=self.device, seed=self.stage.seed)
        return predict(model, test, prepared, audit.task, audit.protocols, batch)

    def _seal(
        self, loop: int, epoch: int, deploy: nn.Module, audit: Audit, prepared: Prepared | None
    ) -> None:
        """Keep the masks of an epoch; those of weights that did not move are there already."""
        assert prepared is not None
        name, points = f"{loop:02d}-{epoch:05d}", self._points()
        content = sha256(deploy.state_dict())
        later = [other for other in points if other >= name]  # of a run that was killed since
        for other in later:
            del points[other]
        last = points[max(points)] if points else None
        file = f"audit/{name}.zip"
        if last is not None and last["content"] == content:
            file = last["file"]
        else:
            seal(self.work / file, self._masks(deploy, audit, prepared))
        points[name] = {"stage": loop, "epoch": epoch, "file": file, "content": content}
        with atomic(self.work / "audit.json") as journal:
            json.dump(points, journal)

    def _points(self) -> dict[str, Any]:
        path = self.work / "audit.json"
        with contextlib.suppress(FileNotFoundError):
            return json.loads(path.read_text(encoding="utf-8"))
        return {}
