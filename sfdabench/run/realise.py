"""Realise a stage: find its artefact by its key, or have it made once and keep it.

A stage is made by a confined process, from its value and from granted paths alone. What that
process leaves is looked at here, by a process that runs no code of a method.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Collection, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt, ValidationError

from sfdabench.confine import client
from sfdabench.confine.client import Process, Usage
from sfdabench.confine.lock import Lock
from sfdabench.core.errors import BadInput, RunFailed
from sfdabench.core.files import atomic, held
from sfdabench.core.progress import Progress
from sfdabench.core.stage import Stage
from sfdabench.core.threads import same_threads
from sfdabench.core.weights_file import content_hash
from sfdabench.run import artefacts
from sfdabench.run.artefacts import (
    CARD,
    EPOCH,
    ONLINE,
    PICTURES,
    WEIGHTS,
    Artefact,
    Card,
    Point,
    left_by_maker,
)
from sfdabench.run.grants import Grants, confined

OPEN, SEALED = "open", "sealed"  # of a work folder: what the maker may write, and what it may not


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
    threads: int | None = None,
    usage: Usage | None = None,
    force: bool = False,
) -> Artefact:
    """Find the artefact of a stage, or make it; what it starts from must be in the cache.

    grants: asked only where the stage is made. protocols: those that its epochs are audited by.
    threads: that it computes on, unless it was begun on others; the system's default where None.
    usage: what the processes take is added to it.
    One process makes it at a time, and a killed one's work goes on. Raises what the maker raises;
    its work is kept where the system is at fault (a full disk, a kill), so that the next call goes
    on.
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
            given = grants()
            count = same_threads(work, threads or default_threads(), progress.say)
            making = _Making(stage, given, work, cache, device, progress, count)
            card = making.card(usage or Usage())
        except OSError:
            raise
        except BadInput:
            if not any(path.is_file() for path in (work / OPEN).rglob("*")):  # nothing to go on
                shutil.rmtree(work, ignore_errors=True)
            raise
        except Exception:
            shutil.rmtree(work, ignore_errors=True)
            raise
        return _close(card, work, folder)


@cache
def system() -> Mapping[str, Any]:
    """Return what torch says of this machine: its number of threads, and its CUDA device or None.

    Asked of a confined process, so that this one need not load torch.
    """
    return client.call("sfdabench.run.making:system", {}, confined((), (), ()))


def default_threads() -> int:
    """Return the number of threads that torch computes on unless it is told."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    return int(given) if given.isdecimal() and int(given) > 0 else system()["threads"]


def _close(card: Card, work: Path, folder: Path) -> Artefact:
    """Move what was made into its place; where it was killed before, the rest of it."""
    places = dict.fromkeys((WEIGHTS, ONLINE, PICTURES), OPEN)
    places |= {point.file: SEALED for point in card.points}
    (folder / CARD).unlink(missing_ok=True)  # what is there without a card is no artefact
    for name in sorted(places):
        path = work / places[name] / name
        if os.path.lexists(path):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            left_by_maker(path).replace(folder / name)
    for path in artefacts.files(folder):
        if path.relative_to(folder).as_posix() not in places:
            path.unlink()
    artefact = artefacts.write_card(
        folder, card.model_copy(update={"files": artefacts.hashes(folder)})
    )
    shutil.rmtree(work)
    return artefact


class Made(BaseModel):
    """What a maker says of a stage beside its weights; it is not trusted, so it is checked."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, defer_build=True)

    composite: dict[str, Any] | None
    curves: dict[str, list[float]]
    notes: dict[str, float]
    threads: PositiveInt
    memory_format: str | None
    peak_device_bytes: NonNegativeInt | None


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
        threads: int,
    ) -> None:
        self.stage, self.grants, self.work, self.cache = stage, grants, work, cache
        self.device, self.progress, self.threads = device, progress, threads
        self.open, self.sealed = work / OPEN, work / SEALED

    def card(self, usage: Usage) -> Card:
        """Have it made, its weights left in `work`, and describe it."""
        self.open.mkdir(parents=True, exist_ok=True)
        made, lock = self._made(used := Usage())
        used.peak_device_bytes = made.peak_device_bytes
        usage.include(used)
        audited, points = self.grants.audited, self._points()
        spec = self.grants.spec
        weights = left_by_maker(self.open / WEIGHTS)
        try:
            content = content_hash(weights.read_bytes(), weights)
        except BadInput as error:
            raise RunFailed(str(error)) from error
        return Card(
            key=self.stage.key,
            stage=self.stage.plain(),
            sha256=content,
            composite=made.composite,
            files={},
            curves=made.curves,
            notes=made.notes,
            seconds=used.seconds,
            threads=made.threads,
            lock=lock,
            memory_format=made.memory_format,
            protocols=tuple(spec.protocols) if spec is not None else (),
            points=tuple(
                Point(stage=p["stage"], epoch=p["epoch"], file=p["file"]) for p in points.values()
            )
            if audited
            else (),
        )

    def _made(self, used: Usage) -> tuple[Made, Lock | None]:
        stage, grants = self.stage, self.grants
        folders = {s.key: artefacts.place(self.cache, s) for s in stage.order[:-1]}
        arguments = {
            "stage": stage.plain(),
            "grants": grants.plain(),
            "earlier": {key: str(folder) for key, folder in folders.items()},
            "work": str(self.open),
            "device": self.device,
        }
        # The sealed masks of an earlier stage are not for this one.
        earlier = [folder / name for folder in folders.values() for name in (CARD, WEIGHTS)]
        grant = confined((*grants.read_by_maker, *earlier), (self.open,), grants.closed)
        with contextlib.ExitStack() as stack:
            count = stage.fields.get("epochs") if stage.kind == "stages" else None
            advance = stack.enter_context(self.progress.stage(_called(stage), count))
            maker = stack.enter_context(
                client.process("sfdabench.run.making:make", arguments, grant, threads=self.threads)
            )
            predictor = _Predictor(self, stack)

            def hear(message: Mapping[str, Any]) -> Any:
                match message:
                    case {"advance": [int(done), int(total)]}:
                        return advance(done, total)
                    case {"audit": [int(loop), int(epoch), str(content)]}:
                        return predictor.wants(loop, epoch, content)
                    case {"predict": dict() | None as composite}:
                        return predictor.predict(composite)
                raise RunFailed(f"{stage.name} sent a message that means nothing: {[*message]}")

            result = maker.result(hear)
            used.include(maker.usage)
        try:
            return Made.model_validate(result), maker.lock
        except ValidationError as error:
            first = error.errors()[0]
            raise RunFailed(
                f"{stage.name} left a result that is none: {'.'.join(map(str, first['loc']))}: "
                f"{first['msg']}"
            ) from error

    def _points(self) -> dict[str, Any]:
        path = self.work / "audit.json"
        with contextlib.suppress(FileNotFoundError):
            return json.loads(path.read_text(encoding="utf-8"))
        return {}


def _called(stage: Stage) -> str:
    """What progress calls the making of a stage."""
    if stage.kind == "methods":
        return f"adaptation ({stage.name})"
    return "source training" if stage.start is None else f"source stage ({stage.name})"


class _Predictor:
    """Predicts the test images with the weights of each audited epoch, in a process of its own.

    The process that makes the stage waits meanwhile. It cannot read the test images, nor the
    masks, which are scored when the stage is over.
    """

    def __init__(self, making: _Making, stack: contextlib.ExitStack) -> None:
        self.making, self.stack = making, stack
        self.process: Process | None = None
        self.points = making._points()
        self.waiting: tuple[str, dict[str, Any]] | None = None

    def wants(self, loop: int, epoch: int, content: str) -> bool:
        """Take note of an epoch; return whether its weights are to be handed over."""
        name = f"{loop:02d}-{epoch:05d}"
        for later in [other for other in self.points if other >= name]:  # of a killed run
            del self.points[later]
        last = self.points[max(self.points)] if self.points else None
        known = last is not None and last["content"] == content
        file = last["file"] if known and last is not None else f"audit/{name}.zip"
        point = {"stage": loop, "epoch": epoch, "file": file, "content": content}
        self.waiting = (name, point)
        if known:
            self._keep()
        return not known

    def predict(self, composite: Mapping[str, Any] | None) -> None:
        """Have the weights predicted that the maker left, and their masks sealed."""
        if self.waiting is None:
            raise RunFailed(f"{self.making.stage.name} handed over weights that nobody asked for")
        making = self.making
        out = making.sealed / self.waiting[1]["file"]
        out.parent.mkdir(parents=True, exist_ok=True)
        if self.process is None:
            self.process = self._start()
        weights = making.open / EPOCH
        request = {"weights": str(weights), "composite": composite, "sha256": None}
        self.process.ask(request | {"out": str(out)})
        weights.unlink(missing_ok=True)
        self._keep()

    def _keep(self) -> None:
        assert self.waiting is not None
        name, self.points[name] = self.waiting
        self.waiting = None
        with atomic(self.making.work / "audit.json") as journal:
            json.dump(self.points, journal)

    def _start(self) -> Process:
        making, grants = self.making, self.making.grants
        assert grants.test is not None
        assert grants.spec is not None
        arguments = {
            "stage": making.stage.plain(),
            "images": str(grants.test.images),
            "cases": None,
            "spec": grants.spec.plain(),
            "device": making.device,
            "precision": making.stage.precision,
        }
        grant = confined((grants.test.images, making.open), (making.sealed,), grants.closed)
        return self.stack.enter_context(
            client.process(
                "sfdabench.run.predicting:masks", arguments, grant, threads=making.threads
            )
        )


def predicted(
    artefact: Artefact, grants: Grants, out: Path, usage: Usage | None = None, **options: Any
) -> int:
    """Predict images with the stored weights of an artefact, and seal the masks in `out`.

    options: as `predict_with` takes them. Raises BadInput where the weights are not those of the
    artefact's card.
    """
    card = artefact.card
    weights = str(artefact.folder / WEIGHTS)
    request = {"weights": weights, "composite": card.composite, "sha256": card.sha256}
    return predict_with(artefact.stage, request | {"out": str(out)}, grants, usage, **options)


def predict_with(
    stage: Stage,
    request: Mapping[str, Any],
    grants: Grants,
    usage: Usage | None = None,
    *,
    device: str,
    precision: str,
    threads: int | None = None,
    cases: Collection[int] | None = None,
) -> int:
    """Predict images with one file of weights; return the number of threads that it took.

    What predicts is a fresh network in a confined process, filled from the weights.

    stage: whose network it is. request: as `predicting.masks` takes it. grants: of which `test`
    and `spec` say what is predicted. cases: positions of those that are, all of them where None.
    usage: what the process takes is added to it.
    """
    assert grants.test is not None
    assert grants.spec is not None
    arguments = {
        "stage": stage.plain(),
        "images": str(grants.test.images),
        "cases": None if cases is None else list(cases),
        "spec": grants.spec.plain(),
        "device": device,
        "precision": precision,
    }
    out = Path(request["out"])
    out.parent.mkdir(parents=True, exist_ok=True)
    read = (grants.test.images, Path(request["weights"]))
    grant = confined(read, (out.parent,), grants.closed)
    job = "sfdabench.run.predicting:masks"
    with client.process(job, arguments, grant, threads=threads) as process:
        count = process.ask(dict(request))["threads"]
        process.finish()
        (usage or Usage()).include(process.usage)
        return count
