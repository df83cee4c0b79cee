"""Reference scores: which runs are repeated, what they scored, and what counts as moved.

`reference.toml` is written by hand, `scores.csv` and the source models in `sources/` by
`sfdabench regress --update`. `exact.json` holds the same scores to the last bit, for each machine
on which they were measured: there nothing may move. Needs no torch.
"""

from __future__ import annotations

import csv
import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from annotated_types import Ge, Len
from pydantic import Field, FiniteFloat, TypeAdapter, ValidationError, model_validator

from sfdabench.campaign.machine import Fingerprint
from sfdabench.core import registry, toml
from sfdabench.core.errors import BadInput
from sfdabench.core.fields import NonNegative, Positive, override
from sfdabench.core.files import atomic
from sfdabench.core.near import unknown
from sfdabench.store import labels, rows
from sfdabench.store.labels import Fields

COLUMNS = (
    *("task", "method", "overrides", "source", "protocol", "class", "metric"),
    *("value", "tolerance", "seeds"),
)

Key = tuple[str, ...]  # what a score is of, by COLUMNS up to the metric
ByKey = Mapping[Key, float]

Tier = Literal["small", "full"]  # the small one is a part of the full one
TIERS: tuple[Tier, ...] = get_args(Tier)

TRAINING = "source_training"  # what the training of a task's source model is called, as a run
QUALITY = "validation_dice"  # what is kept of it


class Scored(toml.Part):
    """The scores that are kept of each run, class by class."""

    protocol: str
    metrics: Annotated[tuple[str, ...], Len(1)]


class Rule(toml.Part):
    """How far a score may move: its floor, where the run starts from a source model in `sources/`.

    Source training starts from nothing: max(deviations * standard deviation over seeds, floor).
    """

    seeds: Annotated[int, Ge(2)]
    deviations: Positive
    reason: str
    floor: dict[str, NonNegative]

    def of(self, metric: str, values: Sequence[float]) -> float:
        """The tolerance of a score that took these values, seed by seed."""
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        return max(self.deviations * spread, self.floor[metric])


class Listed(toml.Part):
    """A method of a task's list; `name` tells two runs of one method apart.

    tier: the smallest tier that repeats it.
    """

    method: str
    overrides: Fields = {}
    name: str = ""
    tier: Tier = "full"

    @property
    def called(self) -> str:
        """What claims and --method call it."""
        return self.name or self.method


class Listing(toml.Part):
    """The runs of a task; `source` overrides its source recipe for all of them."""

    name: str
    runs: Annotated[tuple[Listed, ...], Len(1)]
    source: dict[str, Any] = {}

    @property
    def all(self) -> tuple[Listed, ...]:
        """The training of its source model, then the runs that start from one."""
        return (Listed(method=TRAINING), *self.runs)

    def of(self, tier: Tier) -> tuple[Listed, ...]:
        """What a tier repeats: its runs, and where there is one, the training before them."""
        if tier == "full":
            return self.all
        runs = tuple(run for run in self.runs if run.tier == tier)
        return (Listed(method=TRAINING), *runs) if runs else ()


class Claim(toml.Part):
    """The score of `higher` exceeds that of `lower` by more than `margin`, and why it should."""

    task: str
    class_: str = Field(alias="class")
    metric: str
    higher: str
    lower: str
    margin: NonNegative = 0.0
    reason: str

    def __str__(self) -> str:
        gap = f" by more than {self.margin:g}" if self.margin else ""
        what = f"{self.class_} {self.metric}"
        return f"{self.task}: {what} of {self.higher} above {self.lower}{gap} ({self.reason})"


class Reference(toml.Part):
    """The whole of reference.toml."""

    scores: Scored
    tolerance: Rule
    tasks: tuple[Listing, ...]
    claims: tuple[Claim, ...] = ()

    @model_validator(mode="after")
    def _names(self) -> Self:
        if missing := {*self.scores.metrics, QUALITY} - set(self.tolerance.floor):
            raise ValueError(f"tolerance.floor lacks {', '.join(sorted(missing))}")
        runs = {task.name: [run.called for run in task.runs] for task in self.tasks}
        if len(runs) < len(self.tasks):
            raise ValueError("a task is listed twice")
        for task, names in runs.items():
            if twice := sorted({name for name in names if names.count(name) > 1}):
                raise ValueError(f"{task}: {', '.join(twice)} twice; give one a `name`")
        for claim in self.claims:
            for name in (claim.higher, claim.lower):
                if name not in runs.get(claim.task, ()):
                    raise ValueError(f"a claim names {name} on {claim.task}, which is not listed")
            if claim.metric not in self.scores.metrics:
                raise ValueError(f"a claim is on {claim.metric}, which is no metric of [scores]")
        return self


@dataclass(frozen=True)
class Score:
    """One kept score: its value for seed 0, its tolerance and the values of all seeds measured.

    key: what it is of, by COLUMNS up to the metric.
    """

    key: tuple[str, ...]
    value: float
    tolerance: float
    seeds: tuple[float, ...]

    @property
    def run(self) -> tuple[str, ...]:
        """The run that it is of, as `run_key` gives it."""
        return self.key[:4]

    @property
    def metric(self) -> str:
        """Name of the metric."""
        return self.key[-1]

    @property
    def name(self) -> str:
        """What the user reads."""
        task, method, overrides, *_, class_, metric = self.key
        run = labels.label(method, json.loads(overrides or "{}"))
        return f"{run} on {task}, {class_} {metric}"


def source_path(folder: Path, task: str) -> Path:
    """The source model of seed 0 that the runs of a task start from."""
    return folder / "sources" / f"{task}.safetensors"


def run_key(task: Listing, run: Listed) -> tuple[str, ...]:
    """A run as scores.csv names it."""
    return (task.name, run.method, _text(run.overrides), _text(task.source))


def _text(value: Mapping[str, Any]) -> str:
    return json.dumps(value, sort_keys=True) if value else ""


def read(folder: Path) -> Reference:
    """`folder`/reference.toml. Raises BadInput that names the file and the entry at fault.

    Unknown tasks, methods, classes and metrics are at fault too; an unknown field is found when
    its run is planned.
    """
    path = folder / "reference.toml"
    found = toml.read(path, Reference)
    try:
        _check_entries(found)
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from error
    return found


def _check_entries(found: Reference) -> None:
    protocol = registry.load("protocols", found.scores.protocol)
    for metric in found.scores.metrics:
        if metric not in protocol.metrics:
            kind = f"metric of protocol {found.scores.protocol}"
            raise BadInput(unknown(kind, metric, protocol.metrics))
    for task in found.tasks:
        registry.load("tasks", task.name)
        for run in task.runs:
            chain = run.method.split("+")
            for name in chain:
                registry.module_name("methods", name)
            methods = [
                override(registry.load("methods", name)(), run.overrides.get(name, {}), owner=name)
                for name in chain
                if registry.is_ours("methods", name)
            ]
            stages = {method.needs.source_stage for method in methods}
            if other := set(run.overrides) - {*chain, *stages}:
                raise BadInput(f"{run.called} overrides {', '.join(other)}, which it does not run")
    for claim in found.claims:
        classes = registry.load("tasks", claim.task).scored
        if claim.class_ not in classes:
            raise BadInput(unknown(f"class of {claim.task}", claim.class_, classes))


def read_scores(folder: Path) -> dict[tuple[str, ...], Score]:
    """`folder`/scores.csv by key. Raises BadInput that names the file and the line at fault."""
    path = folder / "scores.csv"
    if not path.is_file():
        raise BadInput(f"{path}: no such file; `sfdabench regress --update --reason TEXT` makes it")
    found: dict[tuple[str, ...], Score] = {}
    for number, line in rows.read(path, COLUMNS):
        try:
            score = _parse(line)
        except ValueError as error:
            raise BadInput(f"{path}, line {number}: {error}") from error
        if score.key in found:
            raise BadInput(f"{path}, line {number}: {score.name} given twice")
        found[score.key] = score
    return found


def _parse(line: Mapping[str, Any]) -> Score:
    if None in line or None in line.values():
        raise ValueError(f"not {len(COLUMNS)} values")
    given = json.loads(line["overrides"] or "{}")
    if not (isinstance(given, dict) and all(isinstance(one, dict) for one in given.values())):
        raise ValueError(f"overrides {line['overrides']} are not fields by method")
    seeds = tuple(float(value) for value in line["seeds"].split())
    if not seeds:
        raise ValueError("no value of any seed")
    value, tolerance = float(line["value"]), float(line["tolerance"])
    if not all(map(math.isfinite, (value, tolerance, *seeds))):
        raise ValueError("a number that is not finite, which nothing could exceed")
    return Score(tuple(line[name] for name in COLUMNS[:7]), value, tolerance, seeds)


def write_scores(folder: Path, scores: Iterable[Score]) -> None:
    """`folder`/scores.csv, whole or not at all; six digits, beyond which no tolerance looks."""
    with atomic(folder / "scores.csv") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for score in scores:
            numbers = (f"{score.value:.6f}", f"{score.tolerance:.6f}")
            seeds = " ".join(f"{value:.6f}" for value in score.seeds)
            writer.writerow([*score.key, *numbers, seeds])


class _Known(toml.Part):
    """A machine in exact.json: its fingerprint, and of each score its key and value for seed 0."""

    machine: dict[str, str]
    scores: tuple[tuple[Key, FiniteFloat], ...]


_FILE = TypeAdapter(tuple[_Known, ...])


def read_exact(folder: Path) -> dict[Fingerprint, dict[Key, float]]:
    """`folder`/exact.json: what each machine gives, by key; empty where there is no such file.

    Raises BadInput that names the file and the entry at fault.
    """
    path = folder / "exact.json"
    if not path.is_file():
        return {}
    try:
        machines = _FILE.validate_python(json.loads(path.read_bytes()))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise BadInput(f"{path}: {where}: {first['msg']}") from error
    except ValueError as error:
        raise BadInput(f"{path}: cannot be read ({error})") from error
    return {tuple(sorted(known.machine.items())): dict(known.scores) for known in machines}


def write_exact(folder: Path, machines: Mapping[Fingerprint, ByKey], order: Sequence[Key]) -> None:
    """`folder`/exact.json, whole or not at all: a line a score, of those of `order`."""
    texts = []
    for machine, exact in machines.items():
        rows = [json.dumps([key, exact[key]]) for key in order if key in exact]
        if rows:
            fields = json.dumps(dict(machine), indent=3).replace("\n}", "\n  }")
            lines = ",\n   ".join(rows)
            texts.append(f' {{"machine": {fields},\n  "scores": [\n   {lines}\n  ]}}')
    with atomic(folder / "exact.json") as file:
        file.write("[\n" + ",\n".join(texts) + "\n]\n")


@dataclass(frozen=True)
class Change:
    """A score that is not what it was.

    exact: its value on this machine, where that is known.
    state: "within" its tolerance, "moved" beyond it or, where its exact value is known, at all,
        "lost" where it was not measured again, "new" where no reference of it exists.
    """

    score: Score
    now: float | None
    state: Literal["within", "moved", "lost", "new"]
    exact: float | None = None

    def __str__(self) -> str:
        if self.state == "new":
            return f"{self.score.name}: {self.now:.4f}, and no reference yet (--update makes one)"
        if self.exact is not None and self.now is not None:
            known = "this machine is known, so nothing may move"
            return f"{self.score.name}: {self.exact!r} -> {self.now!r}, {known}"
        old = f"{self.score.name}: {self.score.value:.4f} -> "
        new = "nothing" if self.now is None else f"{self.now:.4f}"
        return f"{old}{new}, tolerance {self.score.tolerance:.4f}"


def compare(
    before: Mapping[tuple[str, ...], Score],
    now: Mapping[tuple[str, ...], Score],
    exact: ByKey | None = None,
) -> list[Change]:
    """What differs, in the order of the reference, then what is new.

    now: the same scores measured again, their values alone. exact: those that this machine is
    known to give, which are compared bit for bit.
    """
    exact = exact or {}
    changes = []
    for key, score in before.items():
        if key not in now:
            changes.append(Change(score, None, "lost"))
            continue
        value = now[key].value
        if key in exact:
            if value != exact[key]:
                changes.append(Change(score, value, "moved", exact[key]))
            continue
        gap = abs(value - score.value)
        if gap > 1e-6:  # the file keeps six digits
            changes.append(Change(score, value, "moved" if gap > score.tolerance else "within"))
    changes += [
        Change(score, score.value, "new") for key, score in now.items() if key not in before
    ]
    return changes


def failing(reference: Reference, scores: Mapping[tuple[str, ...], Score]) -> list[Claim]:
    """Claims that do not hold, of those whose two scores are both there."""
    listed = {
        (task.name, run.called): run_key(task, run) for task in reference.tasks for run in task.runs
    }
    failed = []
    for claim in reference.claims:
        rest = (reference.scores.protocol, claim.class_, claim.metric)
        keys = [(*listed[claim.task, name], *rest) for name in (claim.higher, claim.lower)]
        if all(key in scores for key in keys):
            higher, lower = (scores[key].value for key in keys)
            if not higher > lower + claim.margin:
                failed.append(claim)
    return failed
