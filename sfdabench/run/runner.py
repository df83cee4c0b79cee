"""One run: source model, adaptation, evaluation, record. Owns device, checkpoints and the guard."""

from __future__ import annotations

import importlib.metadata
import platform
import resource
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import sfdabench
from sfdabench.core import registry
from sfdabench.core.checkpoint import CheckpointKeeper, same_threads
from sfdabench.core.context import Context
from sfdabench.core.errors import BadInput, RunFailed
from sfdabench.core.fields import plain
from sfdabench.core.files import atomic, held
from sfdabench.core.method import Method
from sfdabench.core.needs import SETTINGS
from sfdabench.core.progress import Progress
from sfdabench.core.seeding import seed_all
from sfdabench.core.streams import Clock, LabelledStream, Stream
from sfdabench.evaluate.predict import predict, seal, unseal
from sfdabench.evaluate.scoring import Scorer, Scores
from sfdabench.models.segmenter import PREDICTED_TOGETHER, OnlineSegmenter, Segmenter
from sfdabench.models.weights import fill, from_bytes, sha256, to_bytes
from sfdabench.prepare.arrays import Prepared
from sfdabench.run import guard
from sfdabench.run.allocator import keep_freed_memory
from sfdabench.run.plan import Run
from sfdabench.run.streams import stream
from sfdabench.stages import source_training as source
from sfdabench.store import cases, records
from sfdabench.store.records import Record

SOURCE_INFO = ("selected_epoch", "validation_dice", "seconds")
LIBRARIES = ("torch", "numpy", "scipy", "pillow", "safetensors")


def find(run: Run) -> Record | None:
    """The finished record of this run, if there is one."""
    if not run.record_path.exists():
        return None
    record = records.read(run.record_path)
    return record if record.done else None


def execute(run: Run, progress: Progress, *, force: bool = False) -> Record:
    """Carry the run out, or find its record; returns the record, failed ones included.

    The record of the unadapted scores is made first, where there is none.
    Raises BadInput for faults of the data and of the backbone's weights, before any training.
    """
    path = run.record_path
    if run.recipe.backbone_weights is not None and (force or not path.exists()):
        initial_network(run)  # its refusal must not wait for the data, which may take minutes
    with held(path, progress.say):
        found = None if force else find(run)
        if found is not None:
            progress.say(f"found {path}")
            return found
        work = path.with_suffix(".work")
        if force:
            shutil.rmtree(work, ignore_errors=True)
        execution = Execution(run, progress, work)
        try:
            record = execution.record()
        except BadInput:
            if [path.name for path in work.glob("*")] == ["threads"]:  # nothing that could go on
                shutil.rmtree(work)
            raise
        records.write(path, record)
        if not execution.worth_resuming:
            shutil.rmtree(work, ignore_errors=True)
        return record


def initial_network(run: Run) -> nn.Module:
    """The network before source training; BadInput for backbone weights that do not fit it."""
    seed_all(run.seed)
    network = run.network.build(
        channels=run.task.channels,
        outputs=len(run.task.classes) + (run.task.head == "softmax"),
    )
    if run.recipe.backbone_weights is not None:
        run.network.load_backbone(network, run.recipe.backbone_weights)
    return network


class Execution:
    """The stages of one run, in order."""

    def __init__(self, run: Run, progress: Progress, work: Path) -> None:
        self.run, self.progress, self.work = run, progress, work
        self.task, self.device = run.task, torch.device(run.device)
        self.names = tuple(run.task.classes)
        self.worth_resuming = False
        self.protocols = {
            name: registry.load("protocols", name).on(run.task.target.dataset)
            for name in run.protocols
        }
        keep_freed_memory()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)

    def record(self) -> Record:
        """Everything that is known of this run when it is over, failed or done."""
        started = time.monotonic()
        self.prepare()
        with same_threads(self.work, self.progress.say):
            record = self._identity()
            record |= self._outcome(record)
        record["seconds"]["total"] = time.monotonic() - started
        kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        record["peak_memory_bytes"] = kilobytes * (1 if sys.platform == "darwin" else 1024)
        if self.device.type == "cuda":
            record["peak_device_bytes"] = torch.cuda.max_memory_allocated(self.device)
        return Record.model_validate(record)

    def _outcome(self, record: dict[str, Any]) -> dict[str, Any]:
        """What the stages came to, or why they did not."""
        try:
            return self._stages(record) | {"status": "done", "reason": None}
        except BadInput:
            raise
        except Exception as error:  # any failure of a method is a record, not a lost run
            # A full disk can be mended and the run go on; a mended method starts afresh.
            self.worth_resuming = isinstance(error, OSError)
            failure = {"status": "failed", "reason": _reason(error)}
            return failure | {"traceback": traceback.format_exc()}

    def _identity(self) -> dict[str, Any]:
        run = self.run
        return {
            "schema": records.SCHEMA,
            "key": run.key,
            "task": run.task_name,
            "method": run.method_name,
            "setting": _setting(run.chain),
            "fields": {name: plain(method) for name, method in run.chain},
            "overrides": run.overrides,
            "seed": run.seed,
            "profile": run.profile,
            "data": run.data,
            "recipe": run.source_inputs["recipe"],
            "source_overrides": run.source_overrides,
            "source_key": run.source_key,
            "manifest_sha256": records.digest(
                {"target": [run.target_train.content, run.target_test.content]}
            ),
            "spacing_unit": "mm" if all(self.target_test.spacing) else "pixel",
            "scored_on_training_cases": run.scored_on_training_cases,
            "cases": {"adapt": len(run.target_train.cases), "test": len(run.target_test.cases)},
            "device": run.device,
            "device_name": _device_name(self.device),
            "precision": run.precision,
            "threads": torch.get_num_threads(),
            "versions": {"sfdabench": sfdabench.__version__, "python": platform.python_version()}
            | {name: importlib.metadata.version(name) for name in LIBRARIES},
            "commit": _commit(),
            "seconds": {},
        }

    # Stage 1 and 2: arrays.

    def prepare(self) -> None:
        """Bring every split to arrays."""
        run, made = self.run, (self.run.cache, self.progress)
        self.source_train = [s.arrays(*made, "source") for s in run.source_train]
        self.source_test = [s.arrays(*made, "source test") for s in run.source_test]
        self.target_train = run.target_train.arrays(*made, "target")
        self.target_test = run.target_test.arrays(*made, "target test")

    def labelled(self, splits: Sequence[Prepared], name: str, clock: Clock) -> LabelledStream:
        """Labelled planes of several splits, one after the other."""
        images = [split.images() for split in splits]
        labels = [split.labels() for split in splits]
        return LabelledStream(
            name=name,
            images=images[0] if len(images) == 1 else np.concatenate(images),
            ids=tuple(i for split in splits for i in split.plane_ids),
            device=self.device,
            seed=self.run.seed,
            clock=clock,
            labels=labels[0] if len(labels) == 1 else np.concatenate(labels),
            classes=tuple(self.task.classes.values()),
            background=self.task.head == "softmax",
        )

    # Stage 3: the source model.

    def build(self) -> Segmenter:
        """The network, freshly initialised, on the device."""
        return Segmenter(initial_network(self.run)).to(self.device)

    def _source_model(self) -> tuple[Segmenter, source.SourceModel]:
        run = self.run

        def fit(model: Segmenter, work: Path) -> dict[str, Any]:
            clock = Clock()
            with self.progress.stage("source training", run.recipe.epochs) as advance:
                return source.train(
                    model,
                    run.recipe,
                    self.labelled(self.source_train, "source", clock),
                    self.labelled(self.source_test, "source test", Clock()),
                    self.task.head,
                    run.seed,
                    work,
                    advance,
                )

        found = source.cached(run.source_folder, self.build, fit, self.progress.say)
        model = self.build()
        state, _ = from_bytes(found.path.read_bytes(), found.path)
        fill(model.network, state, found.path)
        model.precision = run.precision
        return model.eval(), found

    # Stage 4: adaptation.

    def _closed_paths(self, method: Method) -> list[Path]:
        run, needs = self.run, method.needs
        paths = [*self.target_test.label_files]
        paths += [p for case in run.target_test.cases for p in case.label]
        if not needs.target_labels:
            paths += [*self.target_train.label_files]
            paths += [p for case in run.target_train.cases for p in case.label]
        splits = [*run.source_train, *run.source_test]
        if not needs.source_data:
            paths += [split.folder for split in (*self.source_train, *self.source_test)]
            paths += [p for s in splits for case in s.cases for p in (*case.image, *case.label)]
        # A file may serve both roles (one data set as source and target): what the method was
        # given stays open.
        given = {p for case in run.target_train.cases for p in case.image}
        return [path for path in paths if path not in given]

    def _granted(self, method: Method, clock: Clock) -> dict[str, Any]:
        granted: dict[str, Any] = {}
        if method.needs.target_labels:
            granted["target_labels"] = self.labelled([self.target_train], "target", clock)
        if method.needs.source_data:
            granted["source_data"] = self.labelled(self.source_train, "source", clock)
        if method.needs.class_ratio:
            labels = np.concatenate([split.labels() for split in self.source_train])
            granted["class_ratio"] = {
                name: float(np.isin(labels, values).mean())
                for name, values in self.task.classes.items()
            }
        return granted

    def _adapt(self, start: nn.Module, link: int) -> tuple[nn.Module, Context]:
        name, method = self.run.chain[link]
        clock = Clock()
        folder = self.work / f"{link}-{name}"
        test = stream(self.run, self.target_test, "target test")
        with self.progress.stage(f"adaptation ({name})") as advance:

            def at_epoch(stage: int, epoch: int, count: int, deploy: nn.Module) -> None:
                path = folder / "sealed" / f"{stage:02d}-{epoch:05d}.zip"
                seal(path, self._predict(deploy, test))
                advance(epoch + 1, count)

            context = Context(
                clock=clock,
                keeper=CheckpointKeeper(folder, at_epoch=at_epoch),
                needs=method.needs,
                classes=self.names,
                head=self.task.head,
                seed=self.run.seed,
                start_model=start,
                target_split=stream(self.run, self.target_train, "target", clock),
                augmentation=self.task.augmentation,
                source_loss=self.run.recipe.loss,
                granted=self._granted(method, clock),
            )
            seed_all(self.run.seed)
            with guard.closed(self._closed_paths(method)):
                deployed = method.adapt(context)
                if not isinstance(deployed, Segmenter):
                    raise RunFailed(f"{name} returned {type(deployed).__name__}, not a model")
                if method.needs.online != isinstance(deployed, OnlineSegmenter):
                    raise RunFailed(f"{name}: needs.online and an OnlineSegmenter go together")
                if isinstance(deployed, OnlineSegmenter):  # it learns, so labels stay closed
                    seal(self._online, self._predict(deployed, test, deployed.batch_size))
                    context.close("its pass over the test images")
        return deployed.eval(), context

    def _predict(
        self, model: nn.Module, test: Stream, batch: int = PREDICTED_TOGETHER
    ) -> Iterator[dict[str, np.ndarray]]:
        return predict(model, test, self.target_test, self.task, self.protocols, batch)

    @property
    def _online(self) -> Path:
        """The masks that a method predicted while it learnt, once."""
        return self.work / "online.zip"

    # Stage 5 and 6: scores and the record.

    def _stages(self, record: dict[str, Any]) -> dict[str, Any]:
        seconds = record["seconds"]
        start = time.monotonic()
        if self.run.method_name != "source_only":
            before = execute(self.run.unadapted, self.progress)
            if not before.done:
                raise RunFailed(f"source_only: {before.reason}")
            record["unadapted"] = before.key
        model, found = self._source_model()
        record["source_sha256"] = found.sha256
        record["memory_format"] = str(model.memory_format).removeprefix("torch.")
        record["source"] = {k: found.info[k] for k in SOURCE_INFO}
        seconds["source"] = time.monotonic() - start

        start = time.monotonic()
        deployed: nn.Module = model
        for link in range(len(self.run.chain)):
            deployed, context = self._adapt(deployed, link)
            record.setdefault("curves", {})[self.run.chain[link][0]] = context.curves
        seconds["adapt"] = time.monotonic() - start
        if sha256(model.weights()) != found.sha256:
            raise RunFailed("the method changed the source model; it must work on context.model()")

        start = time.monotonic()
        with self.progress.stage("evaluation") as advance:
            scorer = Scorer(self.task, self.run.target_test, self.target_test, self.protocols)
            test = stream(self.run, self.target_test, "target test")
            sealed = sorted(self._sealed().glob("*.zip"))
            total = len(sealed) + 1
            masks = unseal(self._online) if self.run.online else self._predict(deployed, test)
            final = scorer(masks)
            advance(1, total)
            dice = []
            for i, path in enumerate(sealed):
                dice.append(scorer(unseal(path), only="dice").mean_dice)
                advance(i + 2, total)
            audit = _audit(final, dice, lambda epoch: scorer(unseal(sealed[epoch])))
        weights = deployed.weights()  # type: ignore[operator]
        content = sha256(weights)
        with atomic(self.run.record_path.with_suffix(".safetensors"), "wb") as file:
            file.write(to_bytes(weights, {"sha256": content, "record": self.run.key}))
        cases.write(self.run.record_path.with_suffix(".csv"), _rows(final))
        seconds["evaluate"] = time.monotonic() - start
        return {
            "deployed_sha256": content,
            "scores": final.means,
            "empties": final.empties,
            "audit": audit,
        }

    def _sealed(self) -> Path:
        last = len(self.run.chain) - 1
        return self.work / f"{last}-{self.run.chain[last][0]}" / "sealed"


def _rows(scores: Scores) -> Iterator[dict[str, Any]]:
    for protocol, score in scores.rows:
        yield {
            "protocol": protocol,
            "case": score.case,
            "class": score.class_,
            "metric": score.metric,
            "value": "" if score.value is None else repr(score.value),
            "undefined": int(score.undefined),
        }


def _audit(
    final: Scores, epochs: Sequence[Mapping[str, float]], score: Callable[[int], Scores]
) -> dict[str, Any] | None:
    """Last model against the best epoch on test labels, protocol by protocol.

    epochs: mean Dice by protocol after each epoch. score: all scores of one of them. "best" is an
    oracle: no user can choose an epoch by labels that are not there.
    """
    if not epochs:
        return None
    best = {name: int(np.argmax([epoch[name] for epoch in epochs])) for name in final.means}
    scored = {epoch: score(epoch).means for epoch in set(best.values())}
    return {
        "criterion": "mean Dice over classes",
        "best": {
            "oracle": True,
            "epoch": best,
            "scores": {name: scored[epoch][name] for name, epoch in best.items()},
        },
        "last": {"epoch": len(epochs) - 1},
        "epochs": list(range(len(epochs))),
        "dice_by_epoch": {name: [epoch[name] for epoch in epochs] for name in best},
        "gap": {name: epochs[epoch][name] - final.mean_dice[name] for name, epoch in best.items()},
    }


def _setting(chain: Sequence[tuple[str, Method]]) -> str:
    """The most demanding setting of a chain."""
    return max((method.needs.setting for _, method in chain), key=SETTINGS.index)


def _reason(error: Exception) -> str:
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return (
            "out of GPU memory: lower --set batch_size (adaptation) or --source-set batch_size "
            f"or size (source training); {str(error).splitlines()[0]}"
        )
    if isinstance(error, RunFailed):
        return str(error)
    return f"{type(error).__name__}: {error}"


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return platform.machine()


def _commit() -> str | None:
    """Commit of the checkout this runs from, with '+' where it was changed; None in a wheel."""
    root = Path(sfdabench.__file__).parent.parent
    if not (root / ".git").exists() or shutil.which("git") is None:
        return None

    def git(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    head = git("rev-parse", "HEAD")
    if head.returncode != 0:
        return None
    dirty = git("status", "--porcelain", "--untracked-files=no").stdout.strip()
    return head.stdout.strip() + ("+" if dirty else "")
