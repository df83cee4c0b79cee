"""Which recorded runs may stand in one figure: one task, one kind of data, one source model a seed.

Reads the store only.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

from sfdabench.core import registry
from sfdabench.core.errors import BadInput
from sfdabench.core.near import unknown
from sfdabench.core.needs import SETTINGS
from sfdabench.report.evidence import clashes, kind_of_source, settings
from sfdabench.store import labels, records
from sfdabench.store.records import Record, Stored


class Absent(BadInput):
    """There is no finished run to show; another task of the same figure may have some."""


@dataclass(frozen=True)
class Variant:
    """Finished runs of a method under one set of field values: one a seed, in the order of seeds.

    label: the method, and each field that differs from its default, such as "cbmt alpha=0.5".
    """

    label: str
    runs: tuple[Stored, ...]

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of `runs`."""
        return tuple(run.seed for run in self.runs)

    @property
    def oracle(self) -> bool:
        """Whether it learnt from target labels, which no user has."""
        return self.runs[0].setting == "supervised"

    @property
    def name(self) -> str:
        """What a figure calls it."""
        return f"{self.label} (oracle)" if self.oracle else self.label


@dataclass(frozen=True)
class Comparison:
    """What was run on a task; `problems` names records that could not be used.

    `only` says which of it may be set side by side.
    """

    results: Path
    task: str
    data: str
    profile: str
    variants: tuple[Variant, ...]
    problems: tuple[str, ...]

    def path(self, run: Stored) -> Path:
        """The record's file."""
        return self.results / run.path

    def unadapted(self, run: Stored) -> Record:
        """The record of the unadapted scores of a run. Raises BadInput as `unadapted` does."""
        return unadapted(run, self.results)

    def variant(self, label: str) -> Variant:
        """The variant of that label. Raises BadInput that names its command where it was not run.

        What was run is said too: a variant's label has every field that was changed.
        """
        for variant in self.variants:
            if variant.label == label:
                return variant
        for part in labels.split(label)[0].split("+"):
            if note := registry.explain("methods", part):
                raise BadInput(f"{note}; runs are called by that method and its fields")
            if part not in registry.names("methods"):
                raise BadInput(unknown("method", part, registry.names("methods")))
        recorded = ", ".join(f"'{variant.label}'" for variant in self.variants)
        raise BadInput(
            f"{self.results}: no finished run '{label}' of {self.task} ({self.data} data, "
            f"{self.profile} profile); recorded: {recorded}. Make it: {self.command(label)}"
        )

    def only(self, labels: Sequence[str]) -> Comparison:
        """The variants of these labels, in their order; all of them where none is named.

        Raises BadInput where runs of one seed do not share source model and data, any two the
        source recipe, or the seeds of a variant its fields.
        """
        chosen = tuple(self.variant(label) for label in labels) or self.variants
        unlike = [clash for variant in chosen for clash in settings(variant.runs)]
        for clash in [*clashes([run for variant in chosen for run in variant.runs]), *unlike]:
            raise BadInput(clash.fault(f"{self.results}, {self.task}"))
        return replace(self, variants=chosen)

    def command(self, label: str) -> str:
        """The command that makes a run of this label that may stand in this comparison."""
        more = _source_flags(self.variants[0].runs[0])
        recorded = next((v.runs[0] for v in self.variants if v.label == label), None)
        method, settings = labels.split(label)
        if recorded is not None:
            method, settings = recorded.method, labels.settings(recorded.overrides)
        return command(self.task, method, settings, self.results, more)


def label_of(record: Record) -> str:
    """A run's name: method and changed fields."""
    return labels.label(record.method, record.overrides)


def command(
    task: str, method: str, settings: Iterable[str], results: Path, more: Iterable[str] = ()
) -> str:
    """The command that makes a run, as a shell takes it; by itself on the phantom."""
    words = ["sfdabench", "run", "--method", method, "--task", task]
    words += [word for setting in settings for word in ("--set", setting)]
    return shlex.join([*words, "--out", str(results), *more])


def _source_flags(record: Record) -> list[str]:
    """The flags that give another run the data and the source model of this one, but its seed."""
    words = [w for pair in labels.pairs(record.source_overrides) for w in ("--source-set", pair)]
    words += ["--source", record.imported] if record.imported else []
    words += ["--data", "DIR"] if record.data == "real" else []
    usual = "paper" if record.data == "real" else "phantom"
    return words + (["--profile", record.profile] if record.profile != usual else [])


def unadapted(run: Stored, results: Path) -> Record:
    """The record of the unadapted scores of a run in the folder `results`.

    Raises BadInput, with the command that makes it, where it is missing or cannot be read.
    """
    try:
        return records.unadapted_of(run, results)
    except BadInput as error:
        more = [*_source_flags(run), "--seed", str(run.seed), "--device", run.device]
        more += ["--precision", run.precision] if run.precision != "float32" else []
        more += [word for name in run.scores for word in ("--protocol", name)]
        made = command(run.task, "source_only", (), results, more)
        raise BadInput(
            f"{error}; it holds the unadapted scores of {run.path}; make it: {made}"
        ) from error


def compare(
    results: Path,
    task: str | None,
    *,
    kind: str | None = None,
    profile: str | None = None,
    protocol: str | None = None,
    example: str = "source_only",
) -> Comparison:
    """The finished runs below `results` on a task, by variant.

    task: may be None where the folder holds one task only. kind, profile: needed where it holds
    several. protocol: of two records of one run, one that was scored by it counts. example: the
    label of a run to advise where there is none.
    Raises Absent where there is nothing to show, BadInput where kinds are mixed.
    """
    method, changes = labels.split(example)
    advice = f"make one: {command(task or 'refuge2rimone', method, changes, results)}"
    if not results.is_dir():
        raise BadInput(f"--results {results}: no such folder, so no run; {advice}")
    everything, problems = records.read_all(results)
    task = _task(results, task, {record.task for record in everything}, advice)
    found = [record for record in everything if record.task == task]
    found = _one(found, "data", "--kind", kind, f"{results}, {task}")
    found = _one(found, "profile", "--profile", profile, f"{results}, {task}")
    variants: dict[str, dict[int, Stored]] = {}
    for record in sorted(found, key=partial(_place, protocol)):
        what = f"{record.path} ({label_of(record)}, seed {record.seed})"
        if not record.done:
            problems.append(f"{what}: failed ({record.why}), left out")
            continue
        by_seed = variants.setdefault(label_of(record), {})
        first = by_seed.setdefault(record.seed, record)
        if first is not record and not _of_other_kinds(first, record):
            problems.append(f"{what}: recorded before in {first.path}")
    runs = [record for by_seed in variants.values() for record in by_seed.values()]
    if not runs:
        raise Absent(f"{results}: no run of {task} is finished; {'; '.join(problems)}")
    return Comparison(
        results,
        task,
        runs[0].data,
        runs[0].profile,
        tuple(
            Variant(label, tuple(run for _, run in sorted(by_seed.items())))
            for label, by_seed in variants.items()
        ),
        tuple(problems),
    )


def _of_other_kinds(first: Record, second: Record) -> bool:
    """Whether both are of the source model, of which each run has a record like itself."""
    return first.method == "source_only" and kind_of_source(first) != kind_of_source(second)


def _task(results: Path, task: str | None, recorded: set[str], advice: str) -> str:
    """The task to show; named, or the only one."""
    listed = ", ".join(sorted(recorded)) or "none"
    if task is None:
        if not recorded:
            raise Absent(f"{results}: holds no record that can be read; {advice}")
        if len(recorded) != 1:
            raise BadInput(f"{results}: holds records of these tasks: {listed}; add --task NAME")
        return recorded.pop()
    task = registry.canonical("tasks", task)
    if task not in recorded:
        known = registry.names("tasks")
        if task not in known:
            raise BadInput(f"--task {task}: {unknown('task', task, known)}")
        raise Absent(f"{results}: no record of task {task} (recorded: {listed}); {advice}")
    return task


def _one(
    found: Sequence[Stored],
    field: Literal["data", "profile"],
    flag: str,
    wanted: str | None,
    where: str,
) -> list[Stored]:
    """The records whose `field` is `wanted`; several values and none wanted is an error."""
    values = sorted({getattr(record, field) for record in found})
    if wanted is None and len(values) > 1:
        options = " or ".join(f"{flag} {value}" for value in values)
        raise BadInput(f"{where}: records of {field} {' and '.join(values)}; add {options}")
    if wanted is not None and wanted not in values:
        raise Absent(f"{flag} {wanted}: {where} holds {field} {' and '.join(values)} only")
    return [record for record in found if wanted in (None, getattr(record, field))]


def _place(protocol: str | None, record: Stored) -> tuple[int, str, bool, str]:
    """Variants by setting, the runs of one with those scored by `protocol` first."""
    unscored = protocol is not None and protocol not in record.scores
    return SETTINGS.index(record.setting), label_of(record), unscored, record.path
