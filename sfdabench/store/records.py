"""The record of a run: one JSON file, written whole or not at all, and read by one typed model."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from annotated_types import Ge, Interval, MinLen
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    StringConstraints,
    ValidationError,
    model_validator,
)
from pydantic_core import from_json

from sfdabench.core.errors import BadInput
from sfdabench.core.files import atomic
from sfdabench.core.needs import SETTINGS

SCHEMA: Literal[2] = 2
LONGEST = 200  # characters of a refusal: a damaged file may hold a name of any length


def _setting(value: str) -> str:
    if value not in SETTINGS:
        raise ValueError(f"no setting; one of {', '.join(SETTINGS)}")
    return value


def _json(value: Any) -> Any:
    """Refuse what JSON has no number for; pydantic lets a JsonValue be infinite."""
    json.dumps(value, allow_nan=False)
    return value


def _printable(value: str) -> str:
    if not value.isprintable():
        raise ValueError("not one line of text")
    return value


Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Entry = Annotated[str, StringConstraints(pattern=r"^\w+$")]  # of the registry; a field, a curve
Chain = Annotated[str, StringConstraints(pattern=r"^\w+(\+\w+)*$")]
Line = Annotated[str, AfterValidator(_printable)]
Name = Annotated[Line, MinLen(1)]
Count = Annotated[int, Interval(ge=0, lt=2**63)]
Number = Annotated[float, Interval(ge=-1e60, le=1e60)]  # sums and squares of many stay finite
Fraction = Annotated[float, Interval(ge=0, le=1)]
Duration = Annotated[float, Interval(ge=0, le=1e12)]  # seconds
Value = Annotated[JsonValue, AfterValidator(_json)]
Fields = dict[Entry, dict[Entry, Value]]  # method -> field -> value


class _Part(BaseModel):
    """A part of a record: frozen, without a key that it does not know, and all numbers finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, defer_build=True)


class Score(_Part):
    """A metric of a class over cases.

    mean, std: in the metric's unit, None where they are over too few cases to exist.
    n: cases in the mean. undefined: cases that had no value before the protocol's rule.
    """

    mean: Number | None
    std: Number | None
    n: Count
    undefined: Count

    @model_validator(mode="after")
    def _over_cases(self) -> Self:
        if (self.mean is None) != (self.n == 0):
            raise ValueError("a mean is over one case or more, and no mean over none")
        return self


Metrics = dict[Entry, Score]
Means = dict[Entry, dict[Name, Metrics]]  # protocol -> class -> metric


class Empties(_Part):
    """How many cases of a class had an empty prediction, an empty reference, and both."""

    prediction: Count
    reference: Count
    both: Count


class Cases(_Part):
    """How many target cases a run adapted to, and how many it was scored on."""

    adapt: Count
    test: Count


class Source(_Part):
    """How the source model was chosen: its epoch, its validation Dice, the seconds of training."""

    selected_epoch: Count
    validation_dice: Fraction
    seconds: Duration | None = None


class StageMade(_Part):
    """A stage of a run: its maker, its key, the code that made it, the hash of its weights.

    code: part -> revision or digest, as `core.code` names them. seconds: that making it took.
    """

    maker: Name
    name: Name
    key: Digest
    code: dict[Name, Line]
    sha256: Digest
    seconds: Duration = 0.0


class Seconds(_Part):
    """The wall-clock time of each part of a run, and of all; None for a part that did not end.

    source, adapt: of making the stages, whichever run made them. evaluate, total: of this run.
    """

    source: Duration | None = None
    adapt: Duration | None = None
    evaluate: Duration | None = None
    total: Duration


class Best(_Part):
    """The best audited epoch of each protocol, by its place in `epochs`, and all its scores."""

    oracle: Literal[True] = True
    epoch: dict[Entry, Count]
    scores: Means


class Last(_Part):
    """The last audited epoch, by its place in `epochs`."""

    epoch: Count


class Audit(_Part):
    """The last model against the best epoch on test labels, which no user has.

    epochs: the running number, from 0, of each epoch that was audited, in order.
    dice_by_epoch: protocol -> mean Dice over classes after each of them.
    gap: protocol -> Dice of the best of them minus that of the deployed model.
    """

    criterion: Line
    best: Best
    last: Last
    epochs: Annotated[tuple[Count, ...], MinLen(1)]
    dice_by_epoch: dict[Entry, tuple[Fraction, ...]]
    gap: dict[Entry, Annotated[float, Interval(ge=-1, le=1)]]

    @model_validator(mode="after")
    def _of_its_epochs(self) -> Self:
        count, protocols = len(self.epochs), self.dice_by_epoch.keys()
        if list(self.epochs) != sorted(set(self.epochs)):
            raise ValueError("epochs are not in order")
        if any(part.keys() != protocols for part in (self.gap, self.best.epoch, self.best.scores)):
            raise ValueError("its parts are of other protocols")
        if any(len(dice) != count for dice in self.dice_by_epoch.values()):
            raise ValueError(f"dice_by_epoch is not of {count} epochs")
        if any(place >= count for place in (*self.best.epoch.values(), self.last.epoch)):
            raise ValueError(f"names an epoch beyond the {count} audited ones")
        return self


class Record(_Part):
    """All that is known of a run when it is over.

    key: the hash of all inputs. reason, traceback: of a failed run. fields, overrides: by method,
    all values and those that the user changed. recipe: of the source training. source_stages: the
    fields of other source-side stages, by name.
    source_key: of the stage that gave the source model; imported: the name of a model that the
    user brought. source: None where the source model was not trained here.
    stages: everything that was made or found for this run, in the order of making.
    composite: how to rebuild a deployed model that is more than the network.
    lock: what closed labels, and source data that are not declared, to the processes of the run,
    the weakest of them; None where a stage was made without one, by an earlier version.
    unadapted: the key of the `source_only` record that holds the scores of the source model; None
    for `source_only` itself, and for a run that failed before it.
    scores, empties: of the deployed model, by protocol. curves: method -> name -> value by epoch.
    """

    model_config = ConfigDict(populate_by_name=True)

    schema_version: Literal[2] = Field(SCHEMA, alias="schema")
    key: Digest
    status: Literal["done", "failed"]
    reason: Annotated[str, MinLen(1)] | None
    traceback: str | None = None
    task: Entry
    method: Chain
    setting: Annotated[str, AfterValidator(_setting)]
    fields: Fields
    overrides: Fields
    seed: Count
    profile: Name
    data: Literal["phantom", "real"]
    recipe: dict[Entry, Value]
    source_overrides: dict[Entry, Value]
    source_stages: Fields = {}
    source_key: Digest | None
    source_sha256: Digest | None = None
    source: Source | None = None
    imported: Name | None = None
    stages: tuple[StageMade, ...] = ()
    deployed_sha256: Digest | None = None
    composite: dict[str, Value] | None = None
    unadapted: Digest | None = None
    manifest_sha256: Digest
    spacing_unit: Literal["mm", "pixel"]
    scored_on_training_cases: bool
    cases: Cases
    device: Name
    device_name: Line
    precision: Literal["float32", "bfloat16"]
    memory_format: Line | None = None
    threads: Annotated[int, Ge(1)]
    versions: dict[Name, Line]
    commit: Line | None
    seconds: Seconds
    lock: Literal["landlock", "audit hook"] | None = None
    peak_memory_bytes: Count
    peak_device_bytes: Count | None = None
    scores: Means = {}
    empties: dict[Entry, dict[Name, Empties]] = {}
    audit: Audit | None = None
    curves: dict[Entry, dict[Entry, tuple[Number, ...]]] = {}

    @property
    def chain(self) -> tuple[str, ...]:
        """The methods of the run, in order."""
        return tuple(self.method.split("+"))

    @property
    def done(self) -> bool:
        """Whether the run ended well."""
        return self.status == "done"

    @property
    def why(self) -> str:
        """Why the run failed, in one line."""
        return _line(self.reason or "", len(self.reason or ""))

    @model_validator(mode="after")
    def _of_its_methods(self) -> Self:
        if len(set(self.chain)) < len(self.chain):
            raise ValueError(f"{self.method} names a method twice")
        named = self.fields.keys() | self.source_stages.keys()
        if set(self.chain) != self.fields.keys() or not self.overrides.keys() <= named:
            raise ValueError(f"fields or overrides are not those of {self.method}")
        if not self.curves.keys() <= self.fields.keys():
            raise ValueError(f"curves are not those of {self.method}")
        return self

    @model_validator(mode="after")
    def _of_its_status(self) -> Self:
        if self.done == (self.reason is not None):
            raise ValueError("a failed run has a reason, a finished one has none")
        if self.done and not (self.scores and self.source_sha256 and self.deployed_sha256):
            raise ValueError("a finished run has scores, a source model and a deployed one")
        if self.method == "source_only" and self.unadapted is not None:
            raise ValueError("unadapted: source_only holds these scores itself")
        if self.done and self.method != "source_only" and self.unadapted is None:
            raise ValueError("unadapted: names no record of source_only")
        return self

    @model_validator(mode="after")
    def _of_its_protocols(self) -> Self:
        if self.scores.keys() != self.empties.keys():
            raise ValueError("empties are of other protocols than the scores")
        audited = self.audit.best.scores if self.audit else self.scores
        if audited.keys() != self.scores.keys():
            raise ValueError("audit is of other protocols than the scores")
        for protocol, of_protocol in self.scores.items():
            if not of_protocol.keys() <= self.empties[protocol].keys():
                raise ValueError(f"empties.{protocol} are of other classes than the scores")
        for means in (self.scores, audited):
            if any("dice" not in of_class for one in means.values() for of_class in one.values()):
                raise ValueError("a class has no Dice")
        return self


class Stored(Record):
    """A record in a folder of results; `path` is its file, relative to that folder."""

    path: str


def digest(inputs: Mapping[str, Any]) -> str:
    """Return the hash of a run's inputs, which names its record."""
    text = json.dumps(inputs, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def record_path(out: Path, task: str, method: str, key: str) -> Path:
    """Return where a record lies: `out`/TASK/METHOD/KEY.json, with 16 digits of the key."""
    return out / task / method / f"{key[:16]}.json"


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write indented JSON, whole or not at all. Raises ValueError for a NaN in it."""
    with atomic(path) as file:
        json.dump(value, file, indent=1, allow_nan=False)
        file.write("\n")


def write(path: Path, record: Record) -> None:
    """Write a record to its file, atomically."""
    write_json(path, record.model_dump(mode="json", by_alias=True, exclude={"path"}))


def read(path: Path) -> Record:
    """Read one record.

    Raises BadInput, in one line that names the file and the cure, for anything that is not a
    whole record of this version.
    """
    return _parsed(path, _content(path))


def _content(path: Path) -> bytes:
    if path.suffix != ".json":
        raise BadInput(f"{path}: a record ends in .json; give {path.with_suffix('.json')}")
    try:
        if path.exists() and not path.is_file():  # reading a pipe would wait for ever
            raise BadInput(f"{path}: no file; move it out of the results folder")
        return path.read_bytes()
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror or error})") from error


def _parsed(path: Path, content: bytes) -> Record:
    try:
        value = from_json(content, allow_inf_nan=False)
    except ValueError as error:
        raise BadInput(f"{path}: not a whole record ({error}); delete it and run again") from error
    if not isinstance(value, dict) or "schema" not in value:
        raise BadInput(f"{path}: not a record of sfdabench; move it out of the results folder")
    version = value["schema"]
    if type(version) is not int or version != SCHEMA:
        raise BadInput(
            f"{path}: record schema {_line(str(version))}, this version of sfdabench reads "
            f"{SCHEMA}; delete it and run again"
        )
    try:
        return Record.model_validate_json(content, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        what = f"{where}: {first['msg']}" if where else first["msg"].removeprefix("Value error, ")
        raise BadInput(
            f"{path}: not a record of this version ({_line(what)}); delete it and run again"
        ) from error


def _line(text: str, longest: int = LONGEST) -> str:
    """One line that a terminal can show, whatever stands in the file."""
    printable = "".join(c if c.isprintable() else " " for c in text[: 2 * longest])
    line = " ".join(printable.split())
    return line if len(line) <= longest else f"{line[:longest]}..."


def read_all(out: Path) -> tuple[list[Stored], list[str]]:
    """Read every record `out`/task/method/*.json in path order.

    Returns them, and a message for each that cannot be read. Folders of results inside `out` are
    other comparisons, such as those that a checkout ships in the folder that runs go to by default.
    """
    records, problems = [], []
    for path in sorted(out.glob("*/*/*.json")):
        inside = path.relative_to(out)
        if any(part.startswith(".") for part in inside.parts):
            continue
        shown = os.fsencode(path).decode(errors="replace")
        try:
            if shown != str(path):
                raise BadInput(f"{shown}: the name is no UTF-8; move it out of the results folder")
            records.append(Stored(**dict(read(path)), path=str(inside)))
        except BadInput as error:
            problems.append(str(error))
    return records, problems


def unadapted_of(record: Record, out: Path) -> Record:
    """Read the record in folder `out` that holds the unadapted scores of a run.

    That of `source_only` is its own. Raises BadInput where it is missing, or where the file in its
    place is of another source model.
    """
    if record.method == "source_only":
        return record
    if record.unadapted is None:
        raise BadInput(f"{record.method} of seed {record.seed} failed before it had one to compare")
    path = record_path(out, record.task, "source_only", record.unadapted)
    before = read(path)
    same = (before.key, before.method, before.task, before.source_sha256) == (
        *(record.unadapted, "source_only", record.task, record.source_sha256),
    )
    if not (same and before.done):
        raise BadInput(f"{path}: not the finished run of source_only that it should be")
    return before
