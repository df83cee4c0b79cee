"""A record and its data -> masks on the original images, for viewers and for `sfdabench score`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from sfdabench.core import registry
from sfdabench.core.dataset import Case, Dataset
from sfdabench.core.errors import BadInput
from sfdabench.core.paths import data_root
from sfdabench.core.progress import Progress
from sfdabench.core.stage import digest
from sfdabench.core.task import Task
from sfdabench.core.weights_file import content_hash
from sfdabench.evaluate.saved import read_mask
from sfdabench.evaluate.score import region_masks
from sfdabench.evaluate.sealed import MaskSpec, unseal
from sfdabench.run.artefacts import left_by_maker
from sfdabench.run.plan import Run
from sfdabench.run.realise import predict_with
from sfdabench.run.request import RunRequest
from sfdabench.run.stages import Stages
from sfdabench.store import records


def planned(
    path: Path, data: Path | None, device: str, progress: Progress, *, source: bool = False
) -> Run:
    """The run that a record belongs to, whose weights give the masks that were scored.

    source: whether its source data are needed too.

    Raises BadInput where the record is not of a finished run or of one that learnt while it
    predicted, and where the data are other files or the source model is another one now. Fields
    of the method are not compared: what they led to is in the weights.
    """
    record = records.read(path)
    if not record.done:
        raise BadInput(f"--record {path}: this run failed ({record.reason}); it has no model")
    run = RunRequest.from_record(path, record, data, device).resolve(progress, source_data=source)
    if run.online:
        raise BadInput(
            f"--record {path}: {run.method_name} learnt while it predicted, and its weights have "
            "seen all images by now; only the scores of those predictions are kept"
        )
    found = [run.target_train.content, run.target_test.content]
    if digest({"target": found}) != record.manifest_sha256:
        where = "the phantom of this version" if run.data == "phantom" else data_root(data)
        raise BadInput(f"--record {path}: made from other files than those of {where}")
    if source and run.source.key != record.source_key:
        raise BadInput(
            f"--record {path}: its source model was made otherwise than this version would "
            "(recipe, network, data); run it again"
        )
    return run


def weights_of(path: Path) -> dict[str, Any]:
    """Return what the record at `path` deployed, as a request of `run.predicting.masks`.

    Raises BadInput where the weights beside the record are missing or not those that it names.
    """
    record, weights = records.read(path), path.with_suffix(".safetensors")
    if not weights.exists():
        raise BadInput(f"{weights}: the weights of this record are not beside it")
    if content_hash(weights.read_bytes(), weights) != record.deployed_sha256:
        raise BadInput(f"{weights}: not the weights that {path.name} names; run it again")
    return {
        "weights": str(weights.resolve()),
        "composite": record.composite,
        "sha256": record.deployed_sha256,
    }


def strict_masks(
    run: Run, path: Path, progress: Progress, cases: Sequence[str] | None = None
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the name of each test case and its boolean (K, *space) of protocol `strict`.

    path: the record of the run. cases: names of those that are predicted, all of them where None.
    Raises BadInput as `weights_of` does.
    """
    request, stages = weights_of(path), Stages(run, progress)
    whole = stages.target_test
    chosen = [i for i, name in enumerate(whole.ids) if cases is None or name in cases]
    strict = {"strict": registry.load("protocols", "strict")}
    spec = MaskSpec.of(replace(run.task, regions={}), strict)
    grants = replace(stages.test(), spec=spec)
    part = whole.subset(chosen)
    with TemporaryDirectory() as folder:
        out = Path(folder) / "masks.zip"
        predict_with(
            run.source,
            request | {"out": str(out)},
            grants,
            device=run.device,
            precision=run.precision,
            cases=chosen,
        )
        for name, masks in zip(
            part.ids, unseal(left_by_maker(out), spec.shapes(part)), strict=True
        ):
            yield name, masks["strict"]


@dataclass(frozen=True)
class Exported:
    """Masks written, and the flags of each `sfdabench score` that repeats the record from them."""

    files: list[Path]
    score: list[list[str]]


def export(path: Path, out: Path, data: Path | None, device: str, progress: Progress) -> Exported:
    """Write `out`/predictions and `out`/references: a mask a case, over its original image.

    Exclusive classes share one label map; classes that may overlap get a folder each. Masks are
    those that protocol `strict` scores.
    """
    run = planned(path, data, device, progress)
    split, task = run.target_test, replace(run.task, regions={})
    written: list[Path] = []
    with progress.stage("prediction") as advance:
        predicted = strict_masks(run, path, progress)
        for i, (case, (_, masks)) in enumerate(zip(split.cases, predicted, strict=True)):
            truth = region_masks(split.dataset.read_label(case), task)
            for folder, of_case in (("predictions", masks), ("references", truth)):
                written += _write(split.dataset, case, of_case, task, out / folder)
            advance(i + 1, len(split.cases))
    values = _file_values(split.dataset, split.cases[0], task)
    return Exported(written, [*_score_flags(out, run.task, values)])


def _written_as(task: Task) -> dict[str, int]:
    """Class -> the value, in the suite's labels, that a mask holds for it."""
    return {name: min(values) for name, values in task.classes.items()}


def _file_values(dataset: Dataset, case: Case, task: Task) -> dict[str, int]:
    """Class -> its value in a written file; data sets have encodings of their own."""
    shape, found = dataset.read_label(case).shape, {}
    with TemporaryDirectory() as folder:
        for name, value in _written_as(task).items():
            stem = Path(folder) / case.id
            written, _ = read_mask(dataset.write_mask(case, np.full(shape, value, np.uint8), stem))
            found[name] = int(written.flat[0])
    return found


def _score_flags(out: Path, task: Task, values: Mapping[str, int]) -> Iterator[list[str]]:
    """One call for a shared label map, one a class for those that have a folder each.

    A region of several overlapping classes lies in no one folder, so it has no call.
    """
    if task.head.exclusive:
        wanted = [
            word
            for name, members in task.scored.items()
            for word in ("--class", f"{name}={','.join(str(values[m]) for m in members)}")
        ]
        yield _flags(out, "", wanted)
        return
    for name, members in task.scored.items():
        if len(members) == 1:
            yield _flags(out, members[0], ["--class", f"{name}={values[members[0]]}"])


def _flags(out: Path, folder: str, classes: Sequence[str]) -> list[str]:
    prediction, reference = (str(out / side / folder) for side in ("predictions", "references"))
    paths = ["--prediction", prediction, "--reference", reference]
    return [*paths, *classes, "--protocol", "strict"]


def _write(
    dataset: Dataset, case: Case, masks: np.ndarray, task: Task, folder: Path
) -> Iterator[Path]:
    """Boolean (K, *space) as one label map, or as one file a class where classes may overlap."""
    values = _written_as(task)
    if task.head.exclusive:
        label = np.zeros(masks.shape[1:], np.uint8)
        for value, mask in zip(values.values(), masks, strict=True):
            label[mask] = value
        yield dataset.write_mask(case, label, folder / case.id)
        return
    for (name, value), mask in zip(values.items(), masks, strict=True):
        yield dataset.write_mask(case, mask * np.uint8(value), folder / name / case.id)
