"""One run: its stages realised, their result scored, and a record of it all."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import sfdabench
from sfdabench.confine import client, lock
from sfdabench.confine.child import JobFailed
from sfdabench.core.errors import BadInput, RunFailed
from sfdabench.core.files import atomic, held
from sfdabench.core.needs import SETTINGS
from sfdabench.core.progress import Progress
from sfdabench.core.stage import digest
from sfdabench.core.threads import same_threads
from sfdabench.core.weights_file import with_metadata
from sfdabench.evaluate.scoring import Scorer, Scores
from sfdabench.evaluate.sealed import unseal
from sfdabench.run.artefacts import WEIGHTS, Artefact, left_by_maker
from sfdabench.run.choose import Chain
from sfdabench.run.grants import confined
from sfdabench.run.plan import Run
from sfdabench.run.realise import default_threads, predicted, system
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
    backbone = run.recipe.backbone_weights
    if backbone is not None and (force or not path.exists()):  # must not wait for the data
        arguments = {"stage": run.source.plain(), "backbone": str(backbone.resolve())}
        grant = confined((backbone,), (), ())
        client.call("sfdabench.run.making:check_backbone", arguments, grant)
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
            stages.threads = same_threads(work, default_threads(), progress.say)
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

    def record(self) -> Record:
        """Carry out the run and return its record, whether it failed or not."""
        started = time.monotonic()
        self.stages.prepare()
        known = self._identity()
        known |= self._outcome(known)
        known["seconds"]["total"] = time.monotonic() - started
        usage = self.stages.usage
        known["peak_memory_bytes"] = max(_peak_memory(), usage.peak_memory_bytes)
        known["peak_device_bytes"] = usage.peak_device_bytes
        return Record.model_validate(known)

    def _outcome(self, known: dict[str, Any]) -> dict[str, Any]:
        """What the run came to, or why it did not."""
        try:
            return self._parts(known) | {"status": "done", "reason": None}
        except (BadInput, client.ProcessDied):  # of a kill there is no record: it goes on
            raise
        except Exception as error:  # any failure of a method is a record, not a lost run
            return {
                "status": "failed",
                "reason": _reason(error),
                "traceback": _trace(error),
            }

    def _identity(self) -> dict[str, Any]:
        run = self.run
        return {
            "schema": records.SCHEMA,
            "key": run.key,
            "task": run.task_name,
            "method": run.method_name,
            "setting": _setting(run.chain),
            "fields": {name: method.fields for name, method in run.chain},
            "source_stages": dict(run.source_stages),
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
            "device_name": _device_name(run.device),
            "precision": run.precision,
            "threads": self.stages.threads,
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
        started = time.monotonic()
        scored = self._scored(final, known)
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

    def _scored(self, final: Artefact, known: dict[str, Any]) -> dict[str, Any]:
        """Predict with the stored weights, score, and keep weights and scores of cases."""
        run = self.run
        with self.progress.stage("evaluation") as advance:
            prepared = self.stages.target_test
            shapes = self.stages.spec.shapes(prepared)
            scorer = Scorer(run.task, run.target_test, prepared, run.protocols)
            points = [] if run.online or not run.links else list(final.sealed)
            total = len(points) + 1
            masks = final.online if run.online else self._predicted(final, known)
            known["lock"] = self._lock()
            scores = scorer(unseal(masks, shapes))
            advance(1, total)
            dice: list[dict[str, float]] = []
            for i, path in enumerate(points):
                first = points.index(path)  # an epoch that moved no weight shares its masks
                same = dice[first] if first < i else None
                dice.append(same or scorer(unseal(path, shapes), only="dice").mean_dice)
                advance(i + 2, total)
            epochs = final.epochs if points else []
            audit = _audit(scores, epochs, dice, lambda i: scorer(unseal(points[i], shapes)))
        path = run.record_path
        with atomic(path.with_suffix(".safetensors"), "wb") as file:
            metadata = {"sha256": final.card.sha256, "record": run.key}
            file.write(with_metadata(final.weights(), metadata, final.folder / WEIGHTS))
        cases.write(path.with_suffix(".csv"), _rows(scores))
        return {
            "deployed_sha256": final.card.sha256,
            "composite": final.card.composite,
            "scores": scores.means,
            "empties": scores.empties,
            "audit": audit,
        }

    def _predicted(self, final: Artefact, known: dict[str, Any]) -> Path:
        """The file of the masks that the stored model predicts, in a process that has no label."""
        run = self.run
        out = run.record_path.with_suffix(".work") / "predicted" / "masks.zip"
        known["threads"] = predicted(
            final,
            self.stages.test(),
            out,
            self.stages.usage,
            device=run.device,
            precision=run.precision,
            threads=final.card.threads or self.stages.threads,
        )
        return left_by_maker(out)

    def _lock(self) -> str | None:
        """The weakest lock that any process of the run had; None where one had none."""
        locks = [a.card.lock for a in self.stages.artefacts.values() if a.stage.kind != "imported"]
        return next((name for name in (None, "audit hook") if name in locks), lock.best())


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
    return str(error) if isinstance(error, RunFailed) else f"{type(error).__name__}: {error}"


def _trace(error: Exception) -> str:
    """Where it was raised: in the process of a stage, or in this one."""
    return error.trace if isinstance(error, JobFailed) else traceback.format_exc()


def _device_name(device: str) -> str:
    return system()["cuda"] if device == "cuda" else platform.machine()


def _peak_memory() -> int:
    """The most memory that this process held, in bytes; 0 where the system does not say."""
    if sys.platform == "win32":
        return 0
    import resource

    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes * (1 if sys.platform == "darwin" else 1024)


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
