"""Adapt a source model to a folder of the user's own images, and write their masks.

There are no labels and no scores: nothing here could tell whether adaptation helped.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

import sfdabench
from sfdabench.core import registry
from sfdabench.core.dataset import Case
from sfdabench.core.errors import BadInput
from sfdabench.core.files import atomic
from sfdabench.core.paths import cache_root, check_writable
from sfdabench.core.progress import Progress
from sfdabench.core.stage import Stage
from sfdabench.core.task import Task
from sfdabench.evaluate.sealed import MaskSpec, unseal
from sfdabench.prepare.own_images import SPLIT, OwnImages
from sfdabench.prepare.preparation import Preparation
from sfdabench.prepare.split import find_cases
from sfdabench.prepare.verify import not_read
from sfdabench.run import sources
from sfdabench.run.artefacts import Artefact, left_by_maker
from sfdabench.run.choose import check_fit, check_order, choose_methods, choose_recipe
from sfdabench.run.plan import Run, asks_for_source, choose_device
from sfdabench.run.realise import predicted
from sfdabench.run.stages import Stages

NAME = "own_images"  # what keys and folders call the user's images


@dataclass(frozen=True)
class Asked:
    """The flags of `sfdabench adapt`.

    source: a file of weights, or the name of a source model in the cache. task: the task whose
    classes and preprocessing the model has; None takes the one that it was imported for.
    """

    source: str
    images: Path
    method: str
    out: Path
    task: str | None = None
    network: str | None = None
    profile: str = "paper"
    settings: tuple[str, ...] = ()
    source_settings: tuple[str, ...] = ()
    seed: int = 0
    device: str = "auto"
    precision: str = "float32"


@dataclass(frozen=True)
class Adapted:
    """The files that were written: the masks, the weights, and the description of both.

    empty: class -> the images in which not one pixel was given to it.
    """

    masks: list[Path]
    weights: Path
    description: Path
    empty: dict[str, list[str]]


def adapt(asked: Asked, progress: Progress) -> Adapted:
    """Adapt the source model to the images, and predict each image on its own grid.

    Writes OUT/masks (a label map a case, 1..K in the order of the classes; a folder a class where
    classes may overlap), OUT/model.safetensors and OUT/adapted.json. Raises BadInput before
    anything is computed where a flag, the source model or the images are at fault.
    """
    check_writable(asked.out, "--out")
    if (asked.out / "adapted.json").exists():
        raise BadInput(f"--out {asked.out}: holds an adapted model already; name a new folder")
    cache = cache_root()
    check_writable(cache, "SFDABENCH_CACHE", need_bytes=500 * 2**20)
    artefact, task_name = _source(asked, cache)
    run = _run(asked, artefact, task_name, cache, progress)
    for note in not_read(run.target_train.cases):
        progress.say(note)
    stages = Stages(run, progress, audits=False)
    stages.prepare()
    for stage in run.final.order:
        stages.realise(stage)
    final = stages.realise(run.final)
    empty: dict[str, list[str]] = {name: [] for name in run.task.classes}
    with progress.stage("prediction") as advance:
        masks = list(_write_masks(run, stages, final, asked.out / "masks", empty, advance))
    return _describe(asked, run, final, masks, empty)


def _source(asked: Asked, cache: Path) -> tuple[Artefact, str]:
    """The source model, and the task whose classes and preprocessing it has."""
    path = Path(asked.source)
    if path.suffix and path.is_file():
        if asked.task is None:
            raise BadInput(
                f"--source {path}: say with --task whose classes and preprocessing it has; "
                "`sfdabench list tasks` lists them"
            )
        artefact = sources.import_file(
            path,
            cache=cache,
            task=asked.task,
            network=asked.network,
            profile=asked.profile,
            settings=asked.source_settings,
        )
        return artefact, registry.canonical("tasks", asked.task)
    if path.suffix in (".safetensors", ".pth", ".pt"):
        raise BadInput(f"--source {path}: no such file")
    for flag, given in (("--network", asked.network), ("--source-set", asked.source_settings)):
        if given:
            raise BadInput(f"{flag}: goes with a file; the source model {asked.source} has its own")
    artefact = sources.find_artefact(cache, asked.source)
    task = asked.task or artefact.card.task
    if task is None:
        raise BadInput(
            f"--source {asked.source}: say with --task whose preprocessing the images take"
        )
    return artefact, registry.canonical("tasks", task)


def _run(asked: Asked, source: Artefact, task_name: str, cache: Path, progress: Progress) -> Run:
    task: Task = registry.load("tasks", task_name)
    if asked.profile not in task.profiles:
        raise BadInput(
            f"--profile {asked.profile}: task {task_name} has {', '.join(task.profiles)}"
        )
    chosen = choose_methods(asked.method, asked.settings, asked.profile, tuple(task.classes))
    for name, method in chosen.chain:
        if asks_for_source(method.needs) or method.needs.target_labels:
            what = "labels" if method.needs.target_labels else "source data"
            raise BadInput(f"--method {name}: needs {what}, of which there are none here")
    recipe, network, overrides = choose_recipe(
        task, asked.profile, sources.settings_of(source.stage, ())
    )
    check_fit(chosen.chain, task_name, task.head, recipe.network, network)
    check_order(chosen.chain, ("strict",))
    target = registry.load("datasets", task.target.dataset)
    dataset = OwnImages(task.channels, target.frame_crop)
    how = Preparation.of(task, _own(task), recipe.size, "target test")
    split = find_cases(NAME, dataset, SPLIT, asked.images.resolve(), cache, how, progress)
    run = Run(
        task_name=task_name,
        task=task,
        chain=chosen.chain,
        overrides=chosen.overrides,
        recipe=recipe,
        network=network,
        source_overrides=overrides,
        seed=asked.seed,
        profile=asked.profile,
        data="real",
        source_train=(),
        source_test=(),
        target_train=split,
        unlabelled_train=split,
        target_test=split,
        protocol_names=("strict",),
        device=choose_device(asked.device),
        precision=asked.precision,  # type: ignore[arg-type]
        out=asked.out,
        cache=cache,
        given_source=source.stage,
    )
    sources.check_fits(source.stage, run.problem, task_name)
    return run


def _own(task: Task) -> Any:
    """The target's domain without its channels by name: a user's file has its own."""
    return replace(task.target, channels=())


def _write_masks(
    run: Run,
    stages: Stages,
    final: Artefact,
    folder: Path,
    empty: dict[str, list[str]],
    advance: Any,
) -> Iterator[Path]:
    """Predict and write the masks case by case; `empty` collects those without a pixel."""
    split, task = run.target_test, replace(run.task, regions={})
    spec = MaskSpec.of(task, run.protocols)
    with TemporaryDirectory() as temporary:
        out = final.online if run.online else Path(temporary) / "masks.zip"
        if not run.online:
            grants = replace(stages.test(), spec=spec)
            predicted(final, grants, out, device=run.device, precision=run.precision)
        cases = unseal(left_by_maker(out), spec.shapes(stages.target_test))
        for i, (case, masks) in enumerate(zip(split.cases, cases, strict=True)):
            for name, mask in zip(task.classes, masks["strict"], strict=True):
                if not mask.any():
                    empty[name].append(case.id)
            yield from _write(split.dataset, case, masks["strict"], task, folder)
            advance(i + 1, len(split.cases))


def _write(dataset: Any, case: Case, masks: np.ndarray, task: Task, folder: Path) -> Iterator[Path]:
    """Boolean (K, *space) as one label map of 1..K, or as a file a class, 255 inside."""
    if task.head.exclusive:
        label = np.zeros(masks.shape[1:], np.uint8)
        for value, mask in enumerate(masks, 1):
            label[mask] = value
        yield dataset.write_mask(case, label, folder / case.id)
        return
    for name, mask in zip(task.classes, masks, strict=True):
        yield dataset.write_mask(case, mask.astype(np.uint8) * 255, folder / name / case.id)


def _describe(
    asked: Asked,
    run: Run,
    final: Artefact,
    masks: Sequence[Path],
    empty: dict[str, list[str]],
) -> Adapted:
    """Leave the weights, and last the description of what was done."""
    weights, description = asked.out / "model.safetensors", asked.out / "adapted.json"
    sources.write_model(final, weights)
    about = {
        "task": run.task_name,
        "method": run.method_name,
        "fields": {name: method.fields for name, method in run.chain},
        "seed": run.seed,
        "source": _named(run.source),
        "adapted": _named(run.final),
        "sha256": final.card.sha256,
        "images": len(run.target_train.cases),
        "classes": {name: i for i, name in enumerate(run.task.classes, 1)}
        if run.task.head.exclusive
        else dict.fromkeys(run.task.classes, 255),
        "empty": empty,
        "device": run.device,
        "precision": run.precision,
        "sfdabench": sfdabench.__version__,
    }
    with atomic(description) as file:
        json.dump(about, file, indent=1)
        file.write("\n")
    return Adapted(list(masks), weights, description, empty)


def _named(stage: Stage) -> dict[str, Any]:
    return {"name": stage.name, "key": stage.key}
