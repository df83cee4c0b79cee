"""Making a stage, in a confined process: its value and granted folders in, a file of weights out.

Nothing here knows where labels lie that were not granted, nor where the result is scored.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from sfdabench.confine.channel import Channel
from sfdabench.core import registry
from sfdabench.core.checkpoint import CheckpointKeeper
from sfdabench.core.code import entry_code
from sfdabench.core.context import Context, SourceContext
from sfdabench.core.errors import RunFailed
from sfdabench.core.fields import override
from sfdabench.core.files import atomic
from sfdabench.core.method import Method
from sfdabench.core.network import Network
from sfdabench.core.seeding import seed_all
from sfdabench.core.stage import SourceStage, Stage
from sfdabench.core.streams import Clock, LabelledStream, Stream
from sfdabench.evaluate.predict import predict
from sfdabench.evaluate.sealed import seal
from sfdabench.models.composites import ALONE, describe, rebuild, rebuild_part
from sfdabench.models.part import Part
from sfdabench.models.segmenter import OnlineSegmenter, Precision, Segmenter
from sfdabench.models.weights import listed, not_finite, sha256, to_bytes
from sfdabench.prepare import streams
from sfdabench.run.artefacts import EPOCH, ONLINE, PICTURES, WEIGHTS, Artefact, read_card
from sfdabench.run.grants import Granted, Told


def make(
    channel: Channel,
    stage: Mapping[str, Any],
    grants: Mapping[str, Any],
    earlier: Mapping[str, str],
    work: str,
    device: str,
) -> dict[str, Any]:
    """Make a stage (a job); its weights are left in `work`, and the rest is returned.

    stage, grants: as their `plain` gives them. earlier: key -> folder of the artefact of each
    stage that it is made from. Sends {"advance": [done, total]} after each epoch. Where epochs
    are audited, {"audit": [loop, epoch, content]} asks whether these weights shall be predicted,
    and {"predict": composite} says that they lie in `work`.
    """
    folders = {key: Path(folder) for key, folder in earlier.items()}
    value = Stage.read(stage)
    check_code(value)
    return _Making(channel, value, Told.read(grants), folders, Path(work), device).make()


def check_code(stage: Stage) -> None:
    """Raise RunFailed where the code of an entry is no longer the one that the stage's key names.

    The parent has named it before this process imports it. Code that all stages share is compared
    for every job.
    """
    entries = {"maker": (stage.kind, stage.name), "network": ("networks", stage.network)}
    for what in entries.keys() & stage.code.keys():  # an imported model has no code
        kind, name = entries[what]
        if stage.code[what] != entry_code(kind, name):
            raise RunFailed(f"{name} was edited since this run began; give it again")


def check_backbone(channel: Channel, stage: Mapping[str, Any], backbone: str) -> None:
    """Raise BadInput where a file of backbone weights does not fit the network (a job)."""
    initial_network(Stage.read(stage), Path(backbone))


def system(channel: Channel) -> dict[str, Any]:
    """Return the default number of threads and the name of the CUDA device, if any (a job)."""
    cuda = torch.cuda.is_available()
    name = torch.cuda.get_device_name() if cuda else None
    return {"threads": torch.get_num_threads(), "cuda": name}


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
    """Return what a source-side stage stored: a model, or a part that stands in front of none."""
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


class _Making:
    """One stage while it is made, in the folder `work`."""

    def __init__(
        self,
        channel: Channel,
        stage: Stage,
        grants: Told,
        earlier: Mapping[str, Path],
        work: Path,
        device: str,
    ) -> None:
        self.channel, self.stage, self.grants, self.earlier = channel, stage, grants, earlier
        self.work, self.device = work, torch.device(device)
        self.maker = stage.maker()

    def make(self) -> dict[str, Any]:
        """Make it, leave its weights in `work`, and describe it."""
        model, loop = self._adapted() if isinstance(self.maker, Method) else self._trained()
        composite = describe(model)
        weights, memory_format = model.state_dict(), None
        if isinstance(model, Segmenter):
            weights, memory_format = model.weights(), str(model.memory_format)
        with atomic(self.work / WEIGHTS, "wb") as file:
            file.write(to_bytes(self._finite(weights), {"sha256": sha256(weights)}))
        if loop.pictures:
            shown: dict[str, Any] = {kind: maps.numpy() for kind, maps in loop.pictures.items()}
            with atomic(self.work / PICTURES, "wb") as file:
                np.savez_compressed(file, **shown)
        cuda = self.device.type == "cuda"
        return {
            "composite": composite,
            "curves": loop.curves,
            "notes": loop.notes,
            "threads": torch.get_num_threads(),
            "memory_format": memory_format and memory_format.removeprefix("torch."),
            "peak_device_bytes": torch.cuda.max_memory_allocated(self.device) if cuda else None,
        }

    def _finite(self, weights: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        """The weights. Raises RunFailed where some are not finite: nothing can be deployed then."""
        if broken := not_finite(weights):
            raise RunFailed(
                f"{self.stage.name} left weights that are NaN or infinite ({listed(broken)}); a "
                "lower learning rate may help"
            )
        return weights

    def _advance(self, epoch: int, count: int) -> None:
        self.channel.ask({"advance": [epoch + 1, count]})

    # Source-side stages.

    def _trained(self) -> tuple[nn.Module, SourceContext]:
        stage, maker = self.stage, self.maker
        assert isinstance(maker, SourceStage)
        clock = Clock()
        context = SourceContext(
            clock=clock,
            keeper=CheckpointKeeper(
                self.work, at_epoch=lambda _, epoch, count, *__: self._advance(epoch, count)
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
        return model_of(self._artefact(stage.start), str(self.device), stage.precision)

    def _artefact(self, stage: Stage) -> Artefact:
        return read_card(self.earlier[stage.key])

    def _labelled(self, role: str, name: str, clock: Clock) -> LabelledStream:
        """Labelled planes of all splits of a role."""
        problem = self.stage.problem
        return streams.labelled(
            [granted.read() for granted in self.grants.splits[role]],
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
        online = method.needs.online
        start, clock = self._start(), Clock()
        content = sha256(start.weights())

        def at_epoch(
            loop: int, epoch: int, count: int, deploy: nn.Module | None, audited: bool
        ) -> None:
            if self.grants.audited and deploy is not None and audited and not online:
                self._hand_over(loop, epoch, deploy)
            self._advance(epoch, count)

        context = Context(
            clock=clock,
            keeper=CheckpointKeeper(self.work, at_epoch=at_epoch),
            needs=method.needs,
            classes=tuple(stage.problem.classes),
            head=stage.problem.head,
            seed=stage.seed,
            start_model=start,
            target_split=self._target("target test" if online else "target", clock),
            augmentation=stage.problem.augmentation,
            source_loss=stage.problem.source_loss,
            granted=self._granted(method, clock),
        )
        seed_all(stage.seed)
        deployed = self._returned(method.adapt(context))
        if online != isinstance(deployed, OnlineSegmenter):
            raise RunFailed(f"{stage.name}: needs.online and an OnlineSegmenter go together")
        if isinstance(deployed, OnlineSegmenter):
            self._predict_online(deployed)
            context.close("its pass over the test images")
        if sha256(start.weights()) != content:
            raise RunFailed("the method changed the source model; it must work on context.model()")
        return deployed.eval(), context

    def _target(self, role: str, clock: Clock) -> Stream:
        (granted,) = self.grants.splits[role]
        seed = self.stage.seed
        return streams.images(granted.read(), "target", device=self.device, seed=seed, clock=clock)

    def _granted(self, method: Method, clock: Clock) -> dict[str, Any]:
        granted: dict[str, Any] = {}
        if method.needs.target_labels:
            granted["target_labels"] = self._labelled("target labels", "target", clock)
        if method.needs.source_data:
            granted["source_data"] = self._labelled("source", "source", clock)
        if method.needs.class_ratio:
            splits = [part.read() for part in self.grants.splits["class ratio"]]
            labels = np.concatenate([split.labels() for split in splits])
            granted["class_ratio"] = {
                name: float(np.isin(labels, values).mean())
                for name, values in self.stage.problem.classes.items()
            }
        for stage in self.stage.beside:
            artefact = self._artefact(stage)
            granted["source_stage"] = module_of(artefact, str(self.device), self.stage.precision)
        return granted

    def _predict_online(self, deployed: OnlineSegmenter) -> None:
        """Keep the masks of a model that learns while it predicts: they come once."""
        granted: Granted = self.grants.splits["target test"][0]
        assert self.grants.spec is not None
        prepared = granted.read()
        test = streams.images(prepared, "target test", device=self.device, seed=self.stage.seed)
        masks = predict(deployed, test, prepared, self.grants.spec, deployed.batch_size)
        seal(self.work / ONLINE, masks)

    def _hand_over(self, loop: int, epoch: int, deploy: nn.Module) -> None:
        """Leave the weights of an epoch in `work`, and wait until another process has predicted.

        This one cannot read the images of the test split.
        """
        wanted = self.channel.ask({"audit": [loop, epoch, sha256(deploy.state_dict())]})
        if not wanted:
            return  # the same weights were predicted before
        composite = describe(deploy)
        with atomic(self.work / EPOCH, "wb") as file:
            weights = deploy.weights()  # type: ignore[operator]  # describe: a Segmenter
            file.write(to_bytes(self._finite(weights)))
        self.channel.ask({"predict": composite})
