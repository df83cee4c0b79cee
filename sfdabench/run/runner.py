"""One run: its stages realised, their result scored, and a record of it all."""

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

import sfdabench
from sfdabench.core.checkpoint import same_threads, threads
from sfdabench.core.errors import BadInput, RunFailed
from sfdabench.core.fields import plain
from sfdabench.core.files import atomic, held
from sfdabench.core.needs import SETTINGS
from sfdabench.core.progress import Progress
from sfdabench.core.stage import digest
from sfdabench.evaluate.predict import predict, unseal
from sfdabench.evaluate.scoring import Scorer, Scores
from sfdabench.models.weights import to_bytes
from sfdabench.prepare import streams
from sfdabench.run.allocator import keep_freed_memory
from sfdabench.run.artefacts import Artefact
from sfdabench.run.plan import Chain, Run
from sfdabench.run.realise import initial_network, model_of
from sfdabench.run.stages import Stages
from sfdabench.store import cases, records
from sfdabench.store.records import Record

LIBRARIES = ("torch", "numpy", "scipy", "pillow", "safetensors")


def find(run: Run) -> Record | None:
    """Return the finished record of this run, or None."""
    if not run.record_path.exists():
        return None
    record = records.read(run.record_path)
    return record if record.done else None


def execute(run: Run, progress: Progress, *, force: bool = False) -> Record:
    """Carry out a run, or find its record; a failed run returns a record too.

    force: adapt and score again; the source model stays. The scores of the unadapted model are a
    record of their own, which comes first.
    Raises BadInput for faults of the data and of the backbone's weights, before any training.
    """
    path = run.record_path
    if run.recipe.backbone_weights is not None and (force or not path.exists()):
        initial_network(run.source, run.recipe.backbone_weights)  # must not wait for the data
    return _recorded(run, Stages(run, progress, force=force), progress)


def _recorded(run: Run, stages: Stages, progress: Progress) -> Record:
    """The record in its place: found, or made by one process while others wait."""
    path = run.record_path
    with held(path, progress.say):
        record = None if stages.force else find(run)
        if record is not None:
            progress.say(f"found {path}")
            return record
        work = path.with_suffix(".work")
        try:
            with same_threads(work, progress.say):
                record = Execution(run, stages, progress).record()
        except BadInput:  # a killed run keeps it, and goes on with as many threads
            shutil.rmtree(work)
            raise
        records.write(path, record)
        shutil.rmtree(work)
        return record


class Execution:
    """The parts of one run, in order."""

    def __init__(self, run: Run, stages: Stages, progress: Progress) -> None:
        self.run, self.stages, self.progress = run, stages, progress
        self.device = torch.device(run.device)
        keep_freed_memory()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)

    def record(self) -> Record:
        """Carry out the run and return its record, whether it failed or not."""
        started = time.monotonic()
        self.stages.prepare()
        known = self._identity()
        known |= self._outcome(known)
        known["seconds"]["total"] = time.monotonic() - started
        kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        known["peak_memory_bytes"] = kilobytes * (1 if sys.platform == "darwin" else 1024)
        if self.device.type == "cuda":
            known["peak_device_bytes"] = torch.cuda.max_memory_allocated(self.device)
        return Record.model_validate(known)

    def _outcome(self, known: dict[str, Any]) -> dict[str, Any]:
        """What the run came to, or why it did not."""
        try:
            return self._parts(known) | {"status": "done", "reason": None}
        except BadInput:
            raise
        except Exception as error:  # any failure of a method is a record, not a lost run
            return {
                "status": "failed",
                "reason": _reason(error),
                "traceback": traceback.format_exc(),
            }

    def _identity(self) -> dict[str, Any]:
        run = self.run
        return {
            "schema": records.SCHEMA,
            "key": run.key,
            "task": run.task_name,
            "method": run.method_name,
            "setting": _setting(run.chain),
            "fields": {name: plain(method) for name, method in run.chain},
            "source_stages": {name: plain(s) for name, s in run.source_stages.items()},
            "overrides": run.overrides,
            "seed": run.seed,
            "profile": run.profile,
            "data": run.data,
            "recipe": run.recipe_inputs,
            "source_overrides": run.source_overrides,
            "source_key": run.source.key,
            "imported": run.source.name if run.source.kind == "imported" else None,
            "manifest_sha256": digest(
                {"target": [run.target_train.content, run.target_test.content]}
            ),
            "spacing_unit": self._spacing_unit(),
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

    def _spacing_unit(self) -> str:
        return "mm" if all(case.spacing for case in self.stages.target_test.cases) else "pixel"

    def _parts(self, known: dict[str, Any]) -> dict[str, Any]:
        """Realise the stages, score the last one; what is known goes into `known` as it comes."""
        run, stages = self.run, self.stages
        source = stages.realise(run.source)
        known["source_sha256"] = source.card.sha256
        known["memory_format"] = source.card.memory_format
        if source.card.notes:
            known["source"] = {
                "selected_epoch": source.card.notes["selected_epoch"],
                "validation_dice": source.card.notes["validation_dice"],
                "seconds": source.card.seconds,
            }
        known["stages"] = self._made()
        if run.unadapted is not None:
            known["unadapted"] = self._unadapted(run.unadapted)
        for stage in run.final.order:
            artefact = stages.realise(stage)
            known["stages"] = self._made()
            if stage.kind == "methods":
                known.setdefault("curves", {})[stage.name] = artefact.card.curves
        final = stages.realise(run.final)
        links = [stages.realise(stage).card for stage in run.links]
        known["seconds"] |= {
            "source": source.card.seconds,
            "adapt": sum(card.seconds for card in links),
        }
        with threads(final.card.threads or torch.get_num_threads()):
            known["threads"] = torch.get_num_threads()
            started = time.monotonic()
            scored = self._scored(final)
            known["seconds"]["evaluate"] = time.monotonic() - started
        return scored

    def _unadapted(self, run: Run) -> str:
        """The key of the record of the unadapted source model, which is made first."""
        quiet = Progress(quiet=True)
        shared = self.stages.of(run)
        record = _recorded(run, shared, quiet)
        if not record.done:
            raise RunFailed(f"the source model could not be scored: {record.reason}")
        return record.key

    def _made(self) -> list[dict[str, Any]]:
        """The stages that there are by now, as a record names them."""
        return [
            {
                "maker": artefact.stage.kind,
                "name": artefact.stage.name,
                "key": artefact.card.key,
                "code": dict(artefact.stage.code),
                "sha256": artefact.card.sha256,
                "seconds": artefact.card.seconds,
            }
            for artefact in self.stages.artefacts.values()
        ]

    def _scored(self, final: Artefact) -> dict[str, Any]:
        """Predict with the stored weights, score, and keep weights and scores of cases."""
        run = self.run
        with self.progress.stage("evaluation") as advance:
            scorer = Scorer(run.task, run.target_test, self.stages.target_test, run.protocols)
            points = [] if run.online or not run.links else list(final.sealed)
            total = len(points) + 1
            scores = scorer(unseal(final.online) if run.online else self._predicted(final))
            advance(1, total)
            dice: list[dict[str, float]] = []
            for i, path in enumerate(points):
                first = points.index(path)  # an epoch that moved no weight shares its masks
                known = dice[first] if first < i else None
                dice.append(known or scorer(unseal(path), only="dice").mean_dice)
                advance(i + 2, total)
            epochs = final.epochs if points else []
            audit = _audit(scores, epochs, dice, lambda i: scorer(unseal(points[i])))
        path = run.record_path
        with atomic(path.with_suffix(".safetensors"), "wb") as file:
            metadata = {"sha256": final.card.sha256, "record": run.key}
            file.write(to_bytes(final.state(), metadata))
        cases.write(path.with_suffix(".csv"), _rows(scores))
        return {
            "deployed_sha256": final.card.sha256,
            "composite": final.card.composite,
            "scores": scores.means,
            "empties": scores.empties,
            "audit": audit,
        }

    def _predicted(self, artefact: Artefact) -> Iterator[dict[str, np.ndarray]]:
        """Masks of the stored model, case by case."""
        run, test = self.run, self.stages.target_test
        model = model_of(artefact, run.device, run.precision)
        images = streams.images(test, "target test", device=self.device, seed=run.seed)
        return predict(model, images, test, run.task, run.protocols)


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
    final: Scores,
    epochs: Sequence[int],
    dice: Sequence[Mapping[str, float]],
    score: Callable[[int], Scores],
) -> dict[str, Any] | None:
    """Last model against the best epoch on test labels, protocol by protocol.

    epochs: the running number of each audited epoch. dice: its mean Dice by protocol. score: all
    scores of one of them. "best" is an oracle: no user can choose an epoch by labels that are not
    there.
    """
    if not dice:
        return None
    best = {name: int(np.argmax([epoch[name] for epoch in dice])) for name in final.means}
    scored = {epoch: score(epoch).means for epoch in set(best.values())}
    return {
        "criterion": "mean Dice over classes",
        "best": {
            "oracle": True,
            "epoch": best,
            "scores": {name: scored[epoch][name] for name, epoch in best.items()},
        },
        "last": {"epoch": len(dice) - 1},
        "epochs": list(epochs),
        "dice_by_epoch": {name: [epoch[name] for epoch in dice] for name in best},
        "gap": {name: dice[epoch][name] - final.mean_dice[name] for name, epoch in best.items()},
    }


def _setting(chain: Chain) -> str:
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
