"""Every run that the tables and figures of a benchmark ask for: planned, estimated, carried out.

Needs no torch: the runs happen in workers.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sfdabench.campaign.workers import Job, Outcome
from sfdabench.core import registry
from sfdabench.core.errors import BadInput, Incompatible
from sfdabench.core.near import unknown
from sfdabench.core.paths import shipped
from sfdabench.core.progress import Progress
from sfdabench.report import benchmark as papers
from sfdabench.report.benchmark import Benchmark
from sfdabench.report.units import duration
from sfdabench.run import artefacts
from sfdabench.run.choose import check_order
from sfdabench.run.plan import Run
from sfdabench.run.request import RunRequest
from sfdabench.store import labels, records
from sfdabench.store.labels import Fields
from sfdabench.store.records import Record

State = Literal["found", "failed", "unreadable", "to run"]


@dataclass(frozen=True)
class Wanted:
    """A task and a method with its field values, which one or several rows or figures ask for.

    protocols: of the tables whose rows they are, and of the figures.
    """

    task: str
    method: str
    overrides: Fields
    protocols: tuple[str, ...]

    @property
    def label(self) -> str:
        """The method, and the fields that a row or a figure sets."""
        return labels.label(self.method, self.overrides)


@dataclass(frozen=True)
class Planned:
    """One run of the sweep.

    reason: of its failed record, or why that cannot be read: the file may be someone else's, so
        the run is not begun. seconds: what a run "to run" will take, None where no record tells.
    """

    run: Run
    job: Job
    state: State
    reason: str | None
    seconds: float | None


@dataclass(frozen=True)
class Skipped:
    """What a row asks for and cannot be run."""

    task: str
    method: str
    reason: str


@dataclass(frozen=True)
class Sweep:
    """Runs in the order in which they are begun, and what is not among them.

    problems: records that cannot be read, and protocols by which a run cannot be scored.
    """

    planned: tuple[Planned, ...]
    skipped: tuple[Skipped, ...]
    problems: tuple[str, ...]

    @property
    def jobs(self) -> list[Job]:
        """What is missing, in order."""
        return [one.job for one in self.planned if one.state == "to run"]

    def sharing(self) -> str:
        """How many stages the runs are made of, and how many they would be if none were shared."""
        stages = [stage.key for one in self.planned for stage in one.run.final.order]
        runs, distinct = len(self.planned), len(set(stages))
        return f"{runs} runs of {distinct} stages, each made once ({len(stages)} without sharing)"

    def forecast(self, jobs: int) -> str:
        """How much work is left, `jobs` at a time, as far as records tell."""
        times = [one.seconds for one in self.planned if one.state == "to run"]
        known = [seconds for seconds in times if seconds is not None]
        parts = [f"{len(times)} to run"]
        if known:
            shared = f" ({duration(sum(known) / jobs)} with {jobs} jobs)" if jobs > 1 else ""
            parts.append(f"{len(known)} take about {duration(sum(known))}{shared}")
        if len(known) < len(times):
            parts.append(f"time unknown of {len(times) - len(known)}")
        return "; ".join(parts)


def find_benchmark(name: str) -> Benchmark:
    """A benchmark by the name of its folder, or by the folder itself."""
    if (Path(name) / "benchmark.toml").is_file():
        return papers.read(Path(name))
    folder = papers.default_folder()
    known = [path.parent.name for path in folder.glob("*/benchmark.toml")]
    if name not in known:
        raise BadInput(unknown("benchmark", name, known))
    return papers.read(folder / name)


def wanted(benchmark: Benchmark, tasks: Collection[str] = ()) -> list[Wanted]:
    """What the tables, then the figures ask for, each once; `tasks` leaves out the others.

    A run is scored by the protocols of all that ask for it.
    """
    found: dict[str, Wanted] = {}
    for one in _asked(benchmark):
        if tasks and one.task not in tasks:
            continue
        key = json.dumps([one.task, one.method, one.overrides], sort_keys=True)
        before = found[key].protocols if key in found else ()
        protocols = dict.fromkeys((*before, *one.protocols))
        found[key] = dataclasses.replace(one, protocols=tuple(protocols))
    return list(found.values())


def _asked(benchmark: Benchmark) -> Iterator[Wanted]:
    """What each cell of a table and each value of a figure asks for."""
    for table in benchmark.tables:
        for task, row, column in papers.cells(table):
            overrides = {
                name: {**row.overrides.get(name, {}), **column.overrides.get(name, {})}
                for name in row.method.split("+")
            }
            yield Wanted(task, row.method, overrides, (column.protocol or table.protocol,))
    for figure in benchmark.figures:
        for value in figure.values:
            overrides = {figure.method: {figure.field: value}}
            yield Wanted(figure.task, figure.method, overrides, (figure.protocol,))


def plan(
    name: str,
    base: RunRequest,
    *,
    seeds: int | None = None,
    tasks: Sequence[str] = (),
    retry_failed: bool = False,
    progress: Progress,
) -> Sweep:
    """All runs of a benchmark, one seed after the other, those of one source model together.

    base: what all runs share, the first seed among it; the benchmark says their method, task and
        settings. A protocol that it names scores each run that it can score.
    seeds: how many; None for as many as the benchmark asks for.
    retry_failed: a run whose record is a failure is to run again.
    Raises BadInput for flags, a benchmark or data at fault, before anything is computed, and
    where nothing of the benchmark can be run.
    """
    benchmark = find_benchmark(name)
    papers.validate(benchmark)
    numbers = range(base.seed, base.seed + (seeds or benchmark.seeds))
    chosen = _choose_tasks(benchmark, tasks)
    asked: dict[str, tuple[Run, RunRequest, Wanted]] = {}
    skipped, left_out = [], []
    for one in wanted(benchmark, chosen):
        if not papers.implemented(one.method, registry.names("methods")):
            skipped.append(Skipped(one.task, one.label, "no such method here"))
            continue
        settings = labels.settings(one.overrides)
        request = dataclasses.replace(
            base, method=one.method, task=one.task, settings=settings, protocols=()
        )
        try:
            first = request.resolve(progress)
            protocols = list(dict.fromkeys((*one.protocols, *base.protocols)))
            fitting, unfit = fitting_protocols(first, protocols)
        except Incompatible as error:
            skipped.append(Skipped(one.task, one.label, str(error)))
            continue
        left_out += [f"{one.label} on {one.task}: {reason}; scored without" for reason in unfit]
        key = first.key  # one that a row spells out and another leaves at its default is one run
        first, request, one = asked.get(key, (first, request, one))
        more = tuple(name for name in fitting if name not in first.protocol_names)
        first = dataclasses.replace(first, protocol_names=(*first.protocol_names, *more))
        asked[key] = (first, request, one)
    if not asked:
        why = "; ".join(f"{s.method} on {s.task}: {s.reason}" for s in skipped)
        raise BadInput(f"nothing of benchmark {name} can be run: {why}")
    ours, problems = records.read_all(base.out)
    shipped_sets = sorted(path for path in shipped("results").iterdir() if path.is_dir())
    history = [*ours, *(record for one in shipped_sets for record in records.read_all(one)[0])]
    runs = [
        (dataclasses.replace(first, seed=number), request, one)
        for first, request, one in asked.values()
        for number in numbers
    ]
    planned = _in_order(runs, numbers, history, retry_failed)
    return Sweep(planned, tuple(skipped), (*left_out, *problems))


def fitting_protocols(run: Run, protocols: Sequence[str]) -> tuple[list[str], list[str]]:
    """Those that can score the run, and why the others cannot.

    Raises Incompatible where none can: no table would show the run.
    """
    fitting: list[str] = []
    unfit: list[Incompatible] = []
    for name in protocols:
        try:
            check_order(run.chain, [name])
            fitting.append(name)
        except Incompatible as error:
            unfit.append(error)
    if not fitting:
        raise unfit[0]
    return fitting, [str(error) for error in unfit]


def _choose_tasks(benchmark: Benchmark, names: Sequence[str]) -> list[str]:
    known = {one.task for one in _asked(benchmark)}
    chosen = [registry.canonical("tasks", name) for name in names]
    for name in chosen:
        if name not in known:
            raise BadInput(f"--task {name}: {unknown('task of this benchmark', name, known)}")
    return chosen


def _in_order(
    runs: Collection[tuple[Run, RunRequest, Wanted]],
    seeds: Sequence[int],
    history: Sequence[Record],
    retry_failed: bool,
) -> tuple[Planned, ...]:
    """Seed by seed, and within one the runs of a source model after each other."""
    first_seen: dict[str, int] = {}
    for run, _, _ in runs:
        first_seen.setdefault(run.source.key, len(first_seen))
    order = sorted(runs, key=lambda r: (seeds.index(r[0].seed), first_seen[r[0].source.key]))
    planned: list[Planned] = []
    made: set[Path] = set()
    for run, request, one in order:
        job = Job.of(run, request, one.label)
        state, reason = state_of(run)
        if state == "failed" and retry_failed:
            state = "to run"
        seconds = None
        if state == "to run":
            source = artefacts.place(run.cache, run.source)
            trains = source not in made and not artefacts.exists(run.cache, run.source)
            seconds = estimate(run, history, trains=trains)
            made.add(source)
        planned.append(Planned(run, job, state, reason, seconds))
    return tuple(planned)


def state_of(run: Run) -> tuple[State, str | None]:
    """Whether its record exists, and the reason of one that is failed or cannot be read."""
    if not run.record_path.exists():
        return "to run", None
    try:
        record = records.read(run.record_path)
    except BadInput as error:
        return "unreadable", str(error)
    return ("found", None) if record.done else ("failed", record.reason)


def estimate(run: Run, history: Sequence[Record], *, trains: bool) -> float | None:
    """Seconds from finished runs of the same task, method and amount of work on the same device.

    trains: whether it trains its source model too. None where no record tells both parts.
    """
    recipe = run.recipe_inputs
    alike = [
        record
        for record in history
        if record.done
        and (record.task, record.profile, record.data, record.device)
        == (run.task_name, run.profile, run.data, run.device)
        and all(recipe.get(name) == value for name, value in record.recipe.items())
    ]
    fields = {name: method.fields for name, method in run.chain}
    own = [
        (record.seconds.adapt or 0) + (record.seconds.evaluate or 0)
        for record in alike
        if record.method == run.method_name and _work(record.fields) == _work(fields)
    ]
    trained = [r.source.seconds for r in alike if r.source and r.source.seconds is not None]
    training = trained if trains else [0.0]
    if not own or not training:
        return None
    return statistics.median(own) + statistics.median(training)


def _work(fields: Mapping[str, Mapping[str, Any]]) -> dict[tuple[str, str], Any]:
    """The fields that say how long a method works; the others cost about the same."""
    return {
        (method, name): value
        for method, values in fields.items()
        for name, value in values.items()
        if "epochs" in name or name == "batch_size"
    }


def results(sweep: Sweep, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """What a sweep came to: its counts, its runs, and what was skipped, as JSON types.

    A run is done, found, failed or not run; one whose record cannot be read counts as failed, what
    was skipped as not run.
    """
    ended = {outcome.job: outcome for outcome in outcomes}
    runs = [_result(one, ended.get(one.job)) for one in sweep.planned]
    states = [run["state"] for run in runs] + ["not run"] * len(sweep.skipped)
    return {
        "counts": {name: states.count(name) for name in ("done", "found", "failed", "not run")},
        "runs": runs,
        "skipped": [vars(one) for one in sweep.skipped],
    }


def _result(one: Planned, outcome: Outcome | None) -> dict[str, Any]:
    state: str = {"to run": "not run", "unreadable": "failed"}.get(one.state, one.state)
    reason, seconds = one.reason, None
    if outcome is not None:
        reason, seconds = outcome.reason, outcome.seconds
        state = "failed" if reason else "done"
    return {
        "state": state,
        "task": one.job.task,
        "method": one.run.method_name,
        "overrides": one.run.overrides,
        "seed": one.job.seed,
        "record": str(one.run.record_path),
        "reason": reason,
        "seconds": seconds,
        "estimate": one.seconds,
    }
