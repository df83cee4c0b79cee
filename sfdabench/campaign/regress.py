"""Repeat the reference runs with the code as it is, on the phantom, and compare.

Everything is made anew in a folder that goes away afterwards: a cache would hide a change of the
phantoms, the preparation or the source training. Source training is judged by itself; the other
runs start from the source models of the reference, since one that is trained on another CPU is
another model (ADR 0014).
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sfdabench.campaign import reference
from sfdabench.campaign.board import board
from sfdabench.campaign.machine import fingerprint
from sfdabench.campaign.reference import (
    QUALITY,
    TRAINING,
    Change,
    Claim,
    Key,
    Listed,
    Listing,
    Reference,
    Score,
    Tier,
)
from sfdabench.campaign.workers import Job, Outcome, Servers, carry_out
from sfdabench.core import registry
from sfdabench.core.errors import BadInput
from sfdabench.core.files import atomic, held
from sfdabench.core.near import unknown
from sfdabench.core.paths import checkout, shipped
from sfdabench.core.progress import Progress
from sfdabench.core.stage import Stage
from sfdabench.run import artefacts
from sfdabench.run.plan import Run
from sfdabench.run.request import RunRequest
from sfdabench.store import labels, records
from sfdabench.store.records import Record

Scores = dict[tuple[str, ...], Score]
Chosen = list[tuple[Listing, Listed]]
THREADS = 1  # more of them add up in another order


@dataclass(frozen=True)
class Regression:
    """What came of it; `failed` are runs that did not end well.

    blind: scores whose tolerance would let a Dice of zero pass; only of an update.
    exact: how many scores were compared bit for bit, since this machine is known to give them;
        None of an update, which compares none so. learned: it is known from now on.
    """

    measured: int
    changes: tuple[Change, ...]
    claims: tuple[Claim, ...]
    failed: tuple[Outcome, ...]
    blind: tuple[Score, ...] = ()
    exact: int | None = None
    learned: bool = False

    @property
    def rule(self) -> str:
        """How scores were compared, in a sentence; empty of an update."""
        if self.exact is None:
            return ""
        rule = "this machine is not known: scores were compared within their tolerances"
        if self.exact:
            rule = f"this machine is known: {self.exact} scores were compared exactly"
            if self.exact < self.measured:
                rule += f", {self.measured - self.exact} within their tolerances"
        return f"{rule}; all are known from now on" if self.learned else rule

    @property
    def sound(self) -> bool:
        """Whether no run failed, no claim broke, and no score moved, went or came."""
        moved = any(change.state != "within" for change in self.changes)
        return not (moved or self.claims or self.failed)

    @property
    def summary(self) -> dict[str, Any]:
        """The same as JSON types."""
        return {
            "sound": self.sound,
            "measured": self.measured,
            "rule": self.rule,
            "changes": [
                {"state": c.state, "now": c.now, "exact": c.exact} | dataclasses.asdict(c.score)
                for c in self.changes
            ],
            "claims": [str(claim) for claim in self.claims],
            "failed": [{"run": o.job.name, "reason": o.reason} for o in self.failed],
            "blind": [score.name for score in self.blind],
        }


def default_folder() -> Path:
    """Where reference.toml, scores.csv and sources/ are: in the checkout, else in the wheel."""
    return shipped("results") / "reference"


def choose(
    found: Reference, tasks: Sequence[str], methods: Sequence[str], tier: Tier = "full"
) -> Chosen:
    """The runs of these tasks and methods, of all where none is named; "source_training" is one.

    Raises BadInput for a name that is not listed, and where the tier holds none of what is named.
    """
    names = {task.name for task in found.tasks}
    called = {run.called for task in found.tasks for run in task.all}
    wanted = [registry.canonical("tasks", name) for name in tasks]
    for flag, given, known in (("--task", wanted, names), ("--method", methods, called)):
        for name in given:
            if name not in known:
                raise BadInput(f"{flag} {name}: {unknown('entry of reference.toml', name, known)}")
    chosen = [
        (task, run)
        for task in found.tasks
        for run in task.of(tier)
        if (not wanted or task.name in wanted) and (not methods or run.called in methods)
    ]
    if not chosen:
        runs = f"run of {', '.join(methods)}" if methods else "run"
        where = f" for {', '.join(wanted)}" if wanted else ""
        part = " in the small tier" if tier == "small" else ""
        raise BadInput(f"no {runs} is listed{where}{part}")
    return chosen


def regress(
    folder: Path,
    *,
    tasks: Sequence[str] = (),
    methods: Sequence[str] = (),
    tier: Tier = "full",
    jobs: int = 1,
    learn: bool = False,
    progress: Progress,
) -> Regression:
    """Seed 0 of the listed runs of a tier against their reference, and the claims.

    Scores that this machine is known to give have to be the same bit for bit, others lie within
    their tolerance. learn: where all is sound, this machine is known to give what it gave now; what
    it is known to give of other runs stays.
    Raises BadInput where the reference lacks the source model of a task.
    """
    found = reference.read(folder)
    before = reference.read_scores(folder)
    machines, machine = reference.read_exact(folder), fingerprint(threads=THREADS)
    exact = machines.get(machine, {})
    order = list(before)
    chosen = choose(found, tasks, methods, tier)
    if len(chosen) < sum(len(task.all) for task in found.tasks):
        keys = {reference.run_key(task, run) for task, run in chosen}
        before = {key: score for key, score in before.items() if score.run in keys}
    got = measure(found, chosen, _shipped_sources(folder, chosen), jobs=jobs, progress=progress)
    changes = reference.compare(before, got.scores, exact)
    claims = reference.failing(found, got.scores)
    compared = len(exact.keys() & got.scores.keys() & before.keys())
    regression = Regression(
        len(got.scores), tuple(changes), tuple(claims), got.failed, exact=compared
    )
    if not (learn and regression.sound):
        return regression
    machines[machine] = exact | {key: score.value for key, score in got.scores.items()}
    reference.write_exact(folder, machines, order)
    return dataclasses.replace(regression, learned=True)


def update(
    folder: Path,
    changelog: Path,
    reason: str,
    *,
    tasks: Sequence[str] = (),
    methods: Sequence[str] = (),
    jobs: int = 1,
    progress: Progress,
) -> Regression:
    """The scores of the listed runs, into scores.csv; a line on why into the folder `changelog`.

    Where source training is among them, it is measured over all seeds, and the source model of
    seed 0 is what the other runs start from, now and later. Scores of runs that are not repeated
    stay, those of runs that are no longer listed go. Nothing is written where a run fails. Raises
    BadInput, before anything is measured, where training that stays is of other seeds, or a source
    model would be renewed and not all that starts from it. A second update of the same folder waits
    for the first.
    """
    with held(folder / "scores.csv", progress.say):
        return _updated(folder, changelog, reason, tasks, methods, jobs, progress)


def _updated(
    folder: Path,
    changelog: Path,
    reason: str,
    tasks: Sequence[str],
    methods: Sequence[str],
    jobs: int,
    progress: Progress,
) -> Regression:
    found = reference.read(folder)
    chosen = choose(found, tasks, methods)
    exists = (folder / "scores.csv").is_file()
    before = reference.read_scores(folder) if exists else {}
    seeds = found.tolerance.seeds
    listed = [reference.run_key(task, run) for task in found.tasks for run in task.all]
    staying = set(listed) - {reference.run_key(task, run) for task, run in chosen}
    kept = {key: score for key, score in before.items() if score.run in staying}
    for score in kept.values():
        if score.metric == QUALITY and len(score.seeds) != seeds:
            raise BadInput(
                f"{folder / 'scores.csv'}: {score.name} has {len(score.seeds)} seeds, "
                f"reference.toml asks for {seeds}; update all runs, without --task and --method"
            )
    if TRAINING in methods:
        raise BadInput(f"--method {TRAINING}: all runs start from it; update without --method")
    renewed = {task.name for task, run in chosen if run.method == TRAINING}
    others = [(task, run) for task, run in chosen if task.name not in renewed]
    shipped = _shipped_sources(folder, others)
    got = measure(found, chosen, shipped, renew=True, jobs=jobs, progress=progress)
    if got.failed:
        return Regression(len(got.scores), (), (), got.failed)
    after = {**kept, **got.scores}
    ordered = sorted(after.values(), key=lambda score: listed.index(score.run))
    for task in sorted(renewed):
        with atomic(reference.source_path(folder, task), "wb") as file:
            file.write(got.sources[task])
    reference.write_scores(folder, ordered)
    _update_exact(folder, got.scores, [score.key for score in ordered])
    write_fragment(changelog, reason, chosen)
    changes, claims = reference.compare(before, after), reference.failing(found, after)
    measured = got.scores.values()
    blind = [s for s in measured if s.metric == "dice" and s.value <= s.tolerance]
    return Regression(len(measured), tuple(changes), tuple(claims), (), tuple(blind))


def _update_exact(folder: Path, measured: Scores, order: Sequence[Key]) -> None:
    """Write what this machine measured; what others gave for these runs is out of date and goes."""
    runs = {score.run for score in measured.values()}
    machines = {
        machine: {key: value for key, value in exact.items() if key[:4] not in runs}
        for machine, exact in reference.read_exact(folder).items()
    }
    mine = machines.setdefault(fingerprint(threads=THREADS), {})
    mine.update({key: score.value for key, score in measured.items()})
    reference.write_exact(folder, machines, order)


def _shipped_sources(folder: Path, chosen: Chosen) -> dict[str, bytes]:
    """The packed source model of each task of which a run starts from one."""
    sources = {}
    for name in dict.fromkeys(task.name for task, run in chosen if run.method != TRAINING):
        path = reference.source_path(folder, name)
        if not path.is_file():
            raise BadInput(
                f"{path}: no such file; `sfdabench regress --update --task {name} --reason TEXT` "
                "makes it"
            )
        sources[name] = path.read_bytes()
    return sources


def write_fragment(changelog: Path, reason: str, chosen: Chosen) -> None:
    """A line of type `numbers` that names what it moves, below those of earlier updates."""
    moved: dict[str, list[str]] = {}
    for task, run in chosen:
        moved.setdefault(task.name, []).append(run.called)
    what = "; ".join(f"{task}: {', '.join(names)}" for task, names in moved.items())
    path = changelog / "reference.numbers.md"
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    with atomic(path) as file:
        file.write(f"{before}- `numbers`: `results/reference` ({what}): {reason.strip()}\n")


def changelog_folder() -> Path:
    """The fragments of the checkout. Raises BadInput in an installed package."""
    return _checkout("--update") / "changes"


def check_learns() -> None:
    """Raises BadInput in an installed package, which learns no machine."""
    _checkout("--learn")


def _checkout(flag: str) -> Path:
    root = checkout()
    if root is None:
        raise BadInput(f"regress {flag}: only in a checkout, whose reference it rewrites")
    return root


@dataclass(frozen=True)
class Measured:
    """Scores by key, the jobs that failed, and the packed source model that each task started from.

    A run of which a seed failed has no scores.
    """

    scores: Scores
    failed: tuple[Outcome, ...]
    sources: dict[str, bytes]


def measure(
    found: Reference,
    chosen: Chosen,
    shipped: Mapping[str, bytes],
    *,
    renew: bool = False,
    jobs: int,
    progress: Progress,
) -> Measured:
    """Train source models, then run all else from the packed ones of `shipped`, by task.

    renew: train all seeds, and start from what was trained instead.
    """
    with _fresh_surroundings() as place:
        protocols = (found.scores.protocol,)
        base = RunRequest(out=place, profile="phantom", device="cpu", protocols=protocols)
        trained, adapted = _Plan(found, base, progress), _Plan(found, base, progress)
        for task, run in chosen:
            if run.method == TRAINING:
                trained.add(task, run, seeds=found.tolerance.seeds if renew else 1)
            else:
                adapted.add(task, run, seeds=1)
        one_thread = {"OMP_NUM_THREADS": str(THREADS)}
        with board(len(trained.runs) + len(adapted.runs)) as shown, Servers(one_thread) as servers:

            def carried_out(planned: _Plan) -> list[Outcome]:
                return list(
                    carry_out(
                        list(planned.runs),
                        at_once=jobs,
                        variables=one_thread,
                        board=shown,
                        servers=servers,
                    )
                )

            outcomes, sources = carried_out(trained), dict(shipped)
            if renew and not any(outcome.reason for outcome in outcomes):
                sources |= trained.packed()
            if sources.keys() >= adapted.sources.keys():  # else there is nothing to start from
                adapted.unpack(sources)
                outcomes += carried_out(adapted)
        failed = tuple(outcome for outcome in outcomes if outcome.reason is not None)
        scores = [*trained.scores(outcomes), *adapted.scores(outcomes)]
        return Measured({score.key: score for score in scores}, failed, sources)


class _Plan:
    """Jobs that may be carried out together; base: what their runs share.

    runs: what each does, and its run as `run_key` gives it. sources: the cache and the stage of the
    source model of a task, for seed 0.
    """

    def __init__(self, found: Reference, base: RunRequest, progress: Progress) -> None:
        self.found, self.base, self.progress = found, base, progress
        self.runs: dict[Job, tuple[Run, tuple[str, ...]]] = {}
        self.sources: dict[str, tuple[Path, Stage]] = {}

    def add(self, task: Listing, run: Listed, *, seeds: int) -> None:
        """A listed run, or the training of a source model as the run that does nothing else."""
        training = run.method == TRAINING
        request = dataclasses.replace(
            self.base,
            method="source_only" if training else run.method,
            task=task.name,
            out=self.base.out / ("trained" if training else "adapted"),
            settings=labels.settings(run.overrides),
            source_settings=labels.pairs(task.source),
        )
        first = request.resolve(self.progress)
        self.sources[task.name] = (first.cache, first.source)
        for seed in range(seeds):
            one = dataclasses.replace(first, seed=seed)
            job = Job.of(one, request, labels.label(run.method, run.overrides))
            self.runs[job] = (one, reference.run_key(task, run))

    def packed(self) -> dict[str, bytes]:
        """The source models that are there."""
        from sfdabench.campaign.portable import pack

        return {
            task: pack(artefacts.read_card(artefacts.place(cache, stage)))
            for task, (cache, stage) in self.sources.items()
        }

    def unpack(self, sources: Mapping[str, bytes]) -> None:
        """Put these source models in place of what is there."""
        from sfdabench.campaign.portable import unpack

        for task, (cache, stage) in self.sources.items():
            unpack(sources[task], reference.source_path(Path("reference"), task), cache, stage)

    def scores(self, outcomes: Iterable[Outcome]) -> Iterator[Score]:
        """The kept scores of the runs of which every seed ended well."""
        well = {outcome.job for outcome in outcomes if outcome.reason is None}
        lost = {key for job, (_, key) in self.runs.items() if job not in well}
        by_run: dict[tuple[str, ...], list[Record]] = {}
        for one, key in self.runs.values():
            if key not in lost:
                by_run.setdefault(key, []).append(records.read(one.record_path))
        for key, got in by_run.items():
            yield from _scores(self.found, key, got)


def _scores(found: Reference, key: tuple[str, ...], by_seed: Sequence[Record]) -> Iterator[Score]:
    """The kept scores of a run from its records, one a seed."""

    def score(*of: str, values: tuple[float, ...]) -> Score:
        return Score((*key, *of), values[0], found.tolerance.of(of[-1], values), values)

    if key[1] == TRAINING:
        trained = [record.source for record in by_seed if record.source is not None]
        assert len(trained) == len(by_seed), "these runs train their source models"
        values = tuple(source.validation_dice for source in trained)
        yield score("source", "all", QUALITY, values=values)
        return
    protocol = found.scores.protocol
    for name in by_seed[0].scores[protocol]:
        for metric in found.scores.metrics:
            means = [record.scores[protocol][name][metric].mean for record in by_seed]
            known = tuple(mean for mean in means if mean is not None)
            if len(known) < len(means):
                what = f"{key[1]} on {key[0]}, {name} {metric}"
                raise BadInput(f"{what} is undefined; score by another protocol")
            yield score(protocol, name, metric, values=known)


@contextlib.contextmanager
def _fresh_surroundings() -> Iterator[Path]:
    """A folder of one's own with an empty cache, and no real data."""
    names = ("SFDABENCH_CACHE", "SFDABENCH_DATA")
    before = {name: os.environ.pop(name) for name in names if name in os.environ}
    with tempfile.TemporaryDirectory(prefix="sfdabench-regress-") as place:
        os.environ["SFDABENCH_CACHE"] = str(Path(place, "cache"))
        try:
            yield Path(place)
        finally:
            del os.environ["SFDABENCH_CACHE"]
            os.environ.update(before)
