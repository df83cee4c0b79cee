"""A record and its data -> masks on the original images, for viewers and for `sfdabench score`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from sfdabench.core import registry
from sfdabench.core.dataset import Case, Dataset
from sfdabench.core.errors import BadInput
from sfdabench.core.paths import data_root
from sfdabench.core.progress import Progress
from sfdabench.core.stage import digest
from sfdabench.core.task import Task
from sfdabench.evaluate.predict import predict
from sfdabench.evaluate.saved import read_mask
from sfdabench.evaluate.score import region_masks
from sfdabench.models.composites import rebuild
from sfdabench.models.segmenter import Segmenter
from sfdabench.models.weights import from_bytes, sha256
from sfdabench.prepare import streams
from sfdabench.run.plan import Run
from sfdabench.run.request import RunRequest
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


def deployed(run: Run, path: Path) -> Segmenter:
    """The model that the run of the record at `path` deployed, in eval mode on the run's device.

    Raises BadInput where the weights beside the record are missing or not those that it names.
    """
    record, weights = records.read(path), path.with_suffix(".safetensors")
    if not weights.exists():
        raise BadInput(f"{weights}: the weights of this record are not beside it")
    state, _ = from_bytes(weights.read_bytes(), weights)
    if sha256(state) != record.deployed_sha256:
        raise BadInput(f"{weights}: not the weights that {path.name} names; run it again")
    problem = run.problem
    network = run.network.build(channels=problem.channels, outputs=problem.outputs)
    model = rebuild(network, record.composite, state, weights, run.precision)
    return model.to(run.device).eval()


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
    model = deployed(run, path)
    split, task = run.target_test, replace(run.task, regions={})
    prepared = split.arrays(run.cache, progress, "target test")
    test = streams.images(prepared, "target test", device=run.device, seed=run.seed)
    strict = {"strict": registry.load("protocols", "strict")}
    written: list[Path] = []
    with progress.stage("prediction") as advance:
        cases = zip(split.cases, predict(model, test, prepared, task, strict), strict=True)
        for i, (case, masks) in enumerate(cases):
            truth = region_masks(split.dataset.read_label(case), task)
            for folder, found in (("predictions", masks["strict"]), ("references", truth)):
                written += _write(split.dataset, case, found, task, out / folder)
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
