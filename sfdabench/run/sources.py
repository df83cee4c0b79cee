"""Source models in the cache: imported by the user, or trained by an earlier run."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfdabench.confine import client
from sfdabench.core import registry
from sfdabench.core.errors import BadInput
from sfdabench.core.fields import pairs, plain
from sfdabench.core.files import atomic, held
from sfdabench.core.near import unknown
from sfdabench.core.stage import Problem, Stage
from sfdabench.core.task import Task
from sfdabench.core.weights_file import content_hash, metadata, with_metadata
from sfdabench.prepare.preparation import Preparation
from sfdabench.run import artefacts
from sfdabench.run.artefacts import WEIGHTS, Artefact, Card, left_by_maker
from sfdabench.run.grants import confined

if TYPE_CHECKING:
    from sfdabench.run.plan import Run

LEAST_DIGITS = 4  # of a key that is given in short
NAME = re.compile(r"[a-z0-9][a-z0-9_.-]*")


def every(cache: Path) -> list[Artefact]:
    """Return all source models in the cache, imported and trained, whose cards can be read."""
    return every_and_faults(cache)[0]


def every_and_faults(cache: Path) -> tuple[list[Artefact], list[str]]:
    """Return all source models in the cache, and a line on each card that cannot be read."""
    shelf = artefacts.read_all(cache)
    return [a for a in shelf.artefacts if is_source(a.stage)], [*shelf.faults.values()]


def is_source(stage: Stage) -> bool:
    """Whether a stage is a source model: trained from a fresh network, or imported."""
    return stage.start is None


def name_of(stage: Stage) -> str:
    """What --source calls it: an imported model's name, or the first digits of a key."""
    return stage.name if stage.kind == "imported" else stage.key[:12]


def find_artefact(cache: Path, name: str) -> Artefact:
    """Return the source model of that name, or whose key begins with it.

    Raises BadInput where there is none, or several.
    """
    models, faults = every_and_faults(cache)
    named = [a for a in models if a.stage.kind == "imported" and a.stage.name == name]
    short = name.rpartition("-")[2]
    by_key = [a for a in models if len(short) >= LEAST_DIGITS and a.card.key.startswith(short)]
    chosen = named or by_key
    if not chosen:
        known = [name_of(a.stage) for a in models]
        raise BadInput(
            f"--source {name}: {unknown('source model', name, known)}; `sfdabench source list` "
            + "\n".join(["describes them", *faults])
        )
    if len(chosen) > 1:
        several = ", ".join(a.folder.name for a in chosen)
        raise BadInput(f"--source {name}: stands for {several}; give more digits of the key")
    return chosen[0]


def find(cache: Path, name: str) -> Stage:
    """Return the stage of the source model that `find_artefact` finds."""
    return find_artefact(cache, name).stage


def row(artefact: Artefact) -> dict[str, Any]:
    """Return what a line of `source list` says of a source model."""
    stage, card = artefact.stage, artefact.card
    trained = stage.kind != "imported"
    dice = card.notes.get("validation_dice")
    data = [split["dataset"] for split in stage.sees["source"]] if trained else []
    return {
        "name": name_of(stage),
        "made": f"trained on {', '.join(data)}" if trained else f"imported for {card.task}",
        "network": stage.network,
        "size": size_of(stage),
        "seed": stage.seed if trained else None,
        "validation Dice": None if dice is None else f"{100 * dice:.1f}",
        "weights": card.sha256[:12],
    }


def size_of(stage: Stage) -> int | None:
    """The side in pixels of the images that a source model works on; None where it is unknown."""
    if stage.kind == "imported":
        return stage.fields["size"]
    return stage.sees["source"][0]["how"]["size"]


def settings_of(stage: Stage, given: Sequence[str]) -> list[str]:
    """Return the size and the network of a source model as --source-set texts.

    Raises BadInput where the user gave others: what was trained cannot be chosen again.
    """
    own: dict[str, Any] = {"size": size_of(stage), "network": stage.network}
    own |= dict(stage.network_fields)
    for name, text in pairs(given, "--source-set").items():
        if name not in own or str(own[name]) != text:
            raise BadInput(
                f"--source-set {name}={text}: the source model {name_of(stage)} is trained "
                "already; leave it out"
            )
    return [setting(n, v) for n, v in own.items()]


def check_fits(stage: Stage, problem: Problem, task: str) -> None:
    """Raise BadInput where a source model has other classes or channels, or another head."""
    mine, wanted = stage.problem, problem
    for what, have, want in (
        ("classes", plain(mine.classes), plain(wanted.classes)),
        ("head", mine.head, wanted.head),
        ("channels", mine.channels, wanted.channels),
    ):
        if have != want:
            raise BadInput(
                f"--source {name_of(stage)}: has {what} {have}, task {task} asks for {want}"
            )


def alike(cache: Path, run: Run) -> list[Stage]:
    """Return the trained source models that a run could have trained itself.

    All is the same but the content of the source files, which nobody can compare.
    """
    wanted, task = run.source, run.task
    size = run.recipe.size
    how: dict[str, list[dict[str, Any]]] = {"source": [], "validation": []}
    for d in task.source:
        kind = {"dataset": d.dataset, "data": run.data}
        learnt = Preparation.of(task, d, size, "source").for_training(run.recipe)
        held_out = Preparation.of(task, d, size, "source test")
        how["source"].append(kind | {"how": plain(learnt)})
        how["validation"].append(kind | {"how": plain(held_out)})
    return [a.stage for a in every(cache) if _alike(a.stage, wanted, how)]


def _alike(stage: Stage, wanted: Stage, how: Mapping[str, Any]) -> bool:
    same = ("kind", "name", "fields", "network", "network_fields", "problem", "seed")
    if any(plain(getattr(stage, n)) != plain(getattr(wanted, n)) for n in same):
        return False
    have = {role: [_describe(split) for split in stage.sees[role]] for role in how}
    return have == how and stage.sees.get("backbone") == wanted.sees.get("backbone")


def _describe(split: Mapping[str, Any]) -> dict[str, Any]:
    return {name: split[name] for name in ("dataset", "data", "how")}


def import_file(
    file: Path,
    *,
    cache: Path,
    task: str,
    network: str | None,
    profile: str,
    settings: Sequence[str] = (),
    name: str | None = None,
) -> Artefact:
    """Copy a source model of the user's own into the cache.

    network: entry of the registry; None takes what the file says of itself (`export` writes it),
    else the profile's. settings: size and fields of the network, as --source-set.
    Raises BadInput for a file that is no state dict of that network, naming the keys, and for a
    name that is taken by another model.
    """
    from sfdabench.run.choose import choose_recipe

    value: Task = registry.load("tasks", task)
    if profile not in value.profiles:
        raise BadInput(f"--profile {profile}: {unknown('profile', profile, value.profiles)}")
    about = _about(file)
    chosen = [*settings]
    if network is not None:
        chosen.append(f"network={network}")
    else:
        given = pairs(settings, "--source-set")
        own_settings = _own_settings(about).items()
        chosen = [*(text for n, text in own_settings if n not in given), *settings]
    recipe, built, _ = choose_recipe(value, profile, chosen)
    problem = Problem(
        classes=value.classes,
        head=value.head,
        channels=value.channels,
        augmentation=value.augmentation,
        source_loss=recipe.loss,
    )
    composite = about.get("composite")
    unnamed = Stage(
        kind="imported",
        name="",
        fields={},
        code={},
        network=recipe.network,
        network_fields=built.fields,
        problem=problem,
    )
    data = _converted(file, unnamed, composite)
    content = content_hash(data, file)
    called = name or _free_name(file, content, cache)
    if not NAME.fullmatch(called):
        raise BadInput(f"--name {called}: give small letters, digits, '-', '_' and '.'")
    fields = {"sha256": content, "size": recipe.size, "composite": composite}
    stage = replace(unnamed, name=called, fields=fields)
    for other in every(cache):
        if other.stage.kind == "imported" and other.stage.name == called:
            if other.card.key == stage.key:
                return other
            raise BadInput(
                f"--name {called}: another model is imported under this name; import {file} with "
                "`sfdabench source import --name` and a name of its own"
            )
    own = registry.canonical("tasks", task)
    return put(cache, stage, data, composite=composite, task=own, size=recipe.size)


def _converted(file: Path, stage: Stage, composite: Mapping[str, Any] | None) -> bytes:
    """The weights in a user's file as a safetensors file of the stage's network.

    The file is read, and the network built, by a process that can read nothing else.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / WEIGHTS
        arguments = {"file": str(file.resolve()), "stage": stage.plain(), "composite": composite}
        grant = confined((file,), (Path(folder),), ())
        client.call("sfdabench.run.importing:convert", arguments | {"out": str(out)}, grant)
        return left_by_maker(out).read_bytes()


def _free_name(file: Path, content: str, cache: Path) -> str:
    """The file's name, with the start of its hash where another model is called so already."""
    called = re.sub(r"[^a-z0-9_.-]+", "-", file.stem.lower()).strip("-.") or "model"
    others = {
        a.card.sha256 for a in every(cache) if a.stage.kind == "imported" and a.stage.name == called
    }
    return called if others <= {content} else f"{called}-{content[:8]}"


def _about(file: Path) -> dict[str, Any]:
    """What `write_model` wrote into a file of itself; nothing for files of others.

    Raises BadInput where the file is missing or broken.
    """
    if not file.is_file():
        raise BadInput(f"{file}: no such file")
    if file.suffix != ".safetensors":
        return {}
    try:
        about = json.loads(metadata(file.read_bytes(), file).get("sfdabench", "{}"))
    except json.JSONDecodeError as error:
        raise BadInput(f"{file}: its description cannot be read ({error})") from error
    return about if isinstance(about, dict) else {}


def _own_settings(about: Mapping[str, Any]) -> dict[str, str]:
    """Size, network and its fields as texts of --source-set, by field, where a file says them."""
    if not {"size", "network", "network_fields"} <= about.keys():
        return {}
    own = {"size": about["size"], "network": about["network"], **about["network_fields"]}
    return {name: setting(name, value) for name, value in own.items()}


def setting(name: str, value: Any) -> str:
    """Return a field and its value as --source-set takes them."""
    return f"{name}={value if isinstance(value, str) else json.dumps(value)}"


def put(
    cache: Path,
    stage: Stage,
    data: bytes,
    *,
    notes: Mapping[str, float] | None = None,
    composite: dict[str, Any] | None = None,
    task: str | None = None,
    size: int | None = None,
    seconds: float = 0.0,
) -> Artefact:
    """Write a source model into its place in the cache; the card comes last.

    data: its weights, as a safetensors file.
    """
    folder = artefacts.place(cache, stage)
    with held(folder, lambda _: None):
        shutil.rmtree(folder, ignore_errors=True)
        content = content_hash(data, folder / WEIGHTS)
        with atomic(folder / WEIGHTS, "wb") as file:
            file.write(with_metadata(data, {"sha256": content}, folder / WEIGHTS))
        card = Card(
            key=stage.key,
            stage=stage.plain(),
            sha256=content,
            composite=composite,
            files=artefacts.hashes(folder),
            notes=dict(notes or {}),
            seconds=seconds,
            task=task,
            size=size,
        )
        return artefacts.write_card(folder, card)


def export(artefact: Artefact, out: Path) -> None:
    """Write a source model as one safetensors file that `import_file` reads.

    Raises BadInput for a path that is taken or has another suffix.
    """
    if out.suffix != ".safetensors":
        raise BadInput(f"{out}: give a file that ends in .safetensors")
    if out.exists():
        raise BadInput(f"{out}: is there already; name another file")
    write_model(artefact, out)


def write_model(artefact: Artefact, out: Path) -> None:
    """Write the weights of an artefact, with what its network is, as one safetensors file.

    Raises BadInput where the weights are not those of its card.
    """
    stage = artefact.stage
    about = {
        "network": stage.network,
        "network_fields": stage.network_fields,
        "size": size_of(_first(stage)),
        "problem": plain(stage.problem),
        "composite": artefact.card.composite,
    }
    written = {"sha256": artefact.card.sha256, "sfdabench": json.dumps(about)}
    with atomic(out, "wb") as file:
        file.write(with_metadata(artefact.weights(), written, artefact.folder / WEIGHTS))


def _first(stage: Stage) -> Stage:
    """The source model that a stage goes back to."""
    return stage if stage.start is None else _first(stage.start)
