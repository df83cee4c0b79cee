"""The runs behind a cell of a table: which belong to it, and which may be set beside each other."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sfdabench.report import benchmark as papers
from sfdabench.report.benchmark import Benchmark, Block, Column, Layout, Row
from sfdabench.store import labels
from sfdabench.store.records import Means, Record, Score, Stored

WEAKER_LOCKS = {
    "audit hook": "behind an audit hook only",
    None: "in the process that holds the labels",  # of a version before confined processes
}


@dataclass(frozen=True)
class Run:
    """One seed behind a cell: its record, and the scores to read from it.

    scores: None where the row asks for the best epoch, and the run had none.
    """

    record: Stored
    scores: Means | None

    def score(self, protocol: str, name: str, metric: str | None) -> Score | None:
        """The score of a class, None where it is not recorded."""
        metrics = (self.scores or {}).get(protocol, {}).get(name, {})
        return None if metric is None else metrics.get(metric)


@dataclass(frozen=True)
class Evidence:
    """What stands behind a cell.

    values: seed -> the number in the column's unit, None where it is undefined.
    failed: the records of seeds without a finished run.
    mixed: why the runs must not be averaged. apart: why they must not be compared with others.
    unscored: the protocol that a run was not scored by.
    """

    runs: tuple[Run, ...]
    values: Mapping[int, float | None]
    failed: tuple[Stored, ...]
    mixed: str | None
    apart: str | None
    unscored: str | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Clash:
    """Where the runs of one comparison differ in what they must share; `members` by its value."""

    what: str
    plural: str
    of_seed: str
    members: Mapping[str, Sequence[Stored]]

    def __str__(self) -> str:
        return f"{len(self.members)} {self.plural}{self.of_seed}: {', '.join(self.members)}"

    def fault(self, where: str) -> str:
        """The records on each side, and what to do."""
        listed = "; ".join(
            f"{name}: {_few([r.path for r in members])}" for name, members in self.members.items()
        )
        return (
            f"{where}: {len(self.members)} {self.plural}{self.of_seed} in one comparison "
            f"({listed}); move the records that do not belong here to another folder"
        )


def matching(
    benchmark: Benchmark, block: Block, row: Row, column: Column, shown: Sequence[Stored]
) -> list[Stored]:
    """The runs of a cell; those of a mean are its columns'."""
    task = papers.task_of(block, row, column)
    if task is None or column.mean_of:
        return []
    return [r for r in shown if r.task == task and matches(r, benchmark, row, column)]


def matches(record: Stored, benchmark: Benchmark, row: Row, column: Column) -> bool:
    """Whether a record is a run of this cell.

    A field that the cell overrides must have the cell's value, and one that the user set must have
    the value it has in this row anyway; all others are at their defaults.
    """
    if record.method != row.method:
        return False
    for name, expected in papers.full_fields(benchmark, row, column).items():
        have = record.fields.get(name, {})
        asked = {*row.overrides.get(name, {}), *column.overrides.get(name, {})}
        asked |= set(record.overrides.get(name, {}))
        if any(f not in expected or f not in have or have[f] != expected[f] for f in asked):
            return False
    return True


def clashes(done: Sequence[Stored]) -> list[Clash]:
    """Runs of one seed must share source model and data, all of them the source recipe.

    A supervised bound may learn from another split, which its hash of the data counts: such runs
    share the data among themselves.
    """
    names = sorted({name for record in done for name in record.recipe})
    varied = [name for name in names if len({brief(r.recipe.get(name)) for r in done}) > 1]

    def recipe(record: Stored) -> str:
        return " and ".join(f"{name} {brief(record.recipe.get(name))}" for name in varied)

    found = []
    for seed in sorted({record.seed for record in done}):
        of_seed = [record for record in done if record.seed == seed]
        where = f" of seed {seed}"
        models = _grouped((brief(r.source_sha256), r) for r in of_seed)
        found.append(Clash("source model", "source models", where, models))
        for bound in (False, True):
            group = [r for r in of_seed if (r.setting == "supervised") == bound]
            states = _grouped((brief(r.manifest_sha256), r) for r in group)
            found.append(Clash("state of the data", "states of the data", where, states))
    members = _grouped((recipe(r), r) for r in done)
    found.append(Clash("source recipe", "source recipes", "", members))
    return [clash for clash in found if len(clash.members) > 1]


def settings(done: Sequence[Stored]) -> list[Clash]:
    """Runs that stand for one method and one label must share every field of it.

    A record is labelled by what its user set; a default that has changed since shows in `fields`.
    """
    found = []
    for method in dict.fromkeys(record.method for record in done):
        runs = [record for record in done if record.method == method]
        values = {r.path: dict(labels.flat(r.method, r.fields)) for r in runs}
        names = dict.fromkeys(name for fields in values.values() for name in fields)
        varied = [n for n in names if len({brief(f.get(n)) for f in values.values()}) > 1]
        if varied:
            members = _grouped(
                (", ".join(f"{n}={labels.text(values[r.path].get(n))}" for n in varied), r)
                for r in runs
            )
            found.append(Clash("setting", f"settings of {method}", "", members))
    return found


def _grouped(pairs: Iterable[tuple[str, Stored]]) -> dict[str, list[Stored]]:
    groups: dict[str, list[Stored]] = {}
    for key, record in pairs:
        groups.setdefault(key, []).append(record)
    return groups


def outside(where: str, done: Sequence[Stored]) -> tuple[dict[str, str], list[str]]:
    """Path -> why a run cannot be compared with the others, and a message for each clash.

    What most runs share is the comparison; with no majority, all of them are outside.
    """
    found: dict[str, str] = {}
    faults = []
    for clash in clashes(done):
        ranked = sorted(clash.members, key=lambda name: -len(clash.members[name]))
        first, second = (len(clash.members[name]) for name in ranked[:2])
        for name, members in clash.members.items():
            why = str(clash)
            if first > second:
                why = f"{clash.what}{clash.of_seed} is {name}, that of the others {ranked[0]}"
            if first == second or name != ranked[0]:
                found |= {r.path: why for r in members if r.path not in found}
        faults.append(clash.fault(where))
    return found, faults


def by_seed(found: Iterable[Stored]) -> dict[int, list[Stored]]:
    """The finished runs of each seed, in the order of seeds."""
    groups: dict[int, list[Stored]] = {}
    for record in found:
        if record.done:
            groups.setdefault(record.seed, []).append(record)
    return dict(sorted(groups.items()))


def recorded_twice(found: Sequence[Stored]) -> list[str]:
    """A line for each seed with several runs that may stand for each other.

    Those of the source model may differ in what each run has one for: device and protocols.
    """
    return [
        f"seed {seed} is recorded {len(members)} times, the first with the protocol counts "
        f"({_few([r.path for r in members])})"
        for seed, members in by_seed(found).items()
        if _repeats(members) and not clashes(members) and not settings(members)
    ]


def _repeats(members: Sequence[Stored]) -> bool:
    if all(record.method == "source_only" for record in members):
        return len({kind_of_source(record) for record in members}) < len(members)
    return len(members) > 1


def kind_of_source(record: Record) -> tuple[str, ...]:
    """What tells records of one source model apart: each run has one like itself."""
    return (record.device, record.precision, *sorted(record.scores))


def within(found: Sequence[Stored], apart: Mapping[str, str]) -> list[Stored]:
    """Of records of the source model, those in the comparison; others where a seed has no such.

    Each run leaves one of its own source model, so that a run outside the comparison would take
    the row of the unadapted model with it.
    """
    inside = {record.seed for record in found if record.done and record.path not in apart}
    return [r for r in found if r.path not in apart or r.seed not in inside]


def gather(
    layout: Layout, row: Row, column: Column, found: Sequence[Stored], apart: Mapping[str, str]
) -> Evidence:
    """The runs among `found`, one a seed, and what they measured."""
    seeds = by_seed(found)
    protocol = column.protocol or layout.protocol
    runs = [_chosen(row, members, protocol) for members in seeds.values()]
    failed = tuple(r for r in found if not r.done and r.seed not in seeds)
    unscored = any(r.scores is not None and protocol not in r.scores for r in runs)
    done = [record for members in seeds.values() for record in members]
    mixed = clashes(done) + settings([r for r in done if r.method == row.method])
    return Evidence(
        runs=tuple(runs),
        values={run.record.seed: _value(run, column, protocol) for run in runs},
        failed=failed,
        mixed=str(mixed[0]) if mixed else None,
        apart=next((apart[r.path] for r in done if r.path in apart), None),
        unscored=protocol if column.metric and unscored else None,
        notes=tuple(_notes(row, column, protocol, runs, failed)),
    )


def _notes(
    row: Row, column: Column, protocol: str, runs: Sequence[Run], failed: Sequence[Stored]
) -> list[str]:
    notes = [f"seed {r.seed} failed: {r.why}" for r in failed]
    if row.read == "best" and runs:
        listed = ", ".join(_best_epoch(run.record, protocol) for run in runs)
        notes.append(f"best epoch on test labels, from 1: {listed}")
    dropped = sum(
        score.undefined
        for run in runs
        for name in column.classes
        if (score := run.score(protocol, name, column.metric))
    )
    if dropped:
        notes.append(f"undefined in {dropped} cases of {len(runs)} runs")
    return notes + weaker_locks([run.record for run in runs])


def weaker_locks(done: Sequence[Stored]) -> list[str]:
    """Say of finished runs how many were not behind Landlock, the lock that the kernel enforces."""
    counts: Counter[str | None] = Counter(record.lock for record in done)
    return [
        f"{counts[lock]} {'run' if counts[lock] == 1 else 'runs'} {where}"
        for lock, where in WEAKER_LOCKS.items()
        if counts[lock]
    ]


def _best_epoch(record: Stored, protocol: str) -> str:
    if record.audit is None or protocol not in record.audit.best.epoch:
        return "none"
    return str(record.audit.epochs[record.audit.best.epoch[protocol]] + 1)


def _chosen(row: Row, members: Sequence[Stored], protocol: str) -> Run:
    """The first record of a run that was scored by the protocol, else the first."""
    found = [_run(row, record) for record in members]
    scored = (run for run in found if protocol in (run.scores or {}))
    return next(scored, found[0])


def _run(row: Row, record: Stored) -> Run:
    """The scores of a record that the row asks for."""
    if row.read == "best":
        return Run(record, record.audit.best.scores if record.audit else None)
    return Run(record, record.scores)


def mean_of(parts: Sequence[Evidence]) -> Evidence:
    """The plain mean of several columns, for each seed that all of them have."""
    seeds = [seed for seed in parts[0].values if all(seed in part.values for part in parts)]
    values: dict[int, float | None] = {}
    for seed in seeds:
        known = [value for part in parts if (value := part.values[seed]) is not None]
        values[seed] = statistics.fmean(known) if len(known) == len(parts) else None
    return Evidence(
        runs=tuple(run for part in parts for run in part.runs if run.record.seed in values),
        values=values,
        failed=tuple({r.path: r for part in parts for r in part.failed}.values()),
        mixed=next((part.mixed for part in parts if part.mixed), None),
        apart=next((part.apart for part in parts if part.apart), None),
        unscored=next((part.unscored for part in parts if part.unscored), None),
        notes=tuple(dict.fromkeys(note for part in parts for note in part.notes)),
    )


def _value(run: Run, column: Column, protocol: str) -> float | None:
    """A run's number in the column's unit; None where it is undefined or not recorded."""
    if column.curve:
        curve = run.record.curves.get(run.record.chain[-1], {}).get(column.curve, ())
        values: list[float | None] = [curve[0] if curve else None]
    else:
        scores = [run.score(protocol, name, column.metric) for name in column.classes]
        values = [score.mean if score else None for score in scores]
    known = [value for value in values if value is not None]
    return column.scale * statistics.fmean(known) if len(known) == len(values) else None


def brief(value: Any) -> str:
    """The first digits of a hash, the name of a file (its folder differs between machines)."""
    text = str(value).rpartition("/")[2]
    return text[:8] if len(text) == 64 else text


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
