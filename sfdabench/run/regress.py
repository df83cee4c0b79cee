"""Repeat the reference runs with the code as it is, on the phantom, and compare.

Everything is made anew in a folder that goes away afterwards: a cache would hide a change of the
phantoms, the preparation or the source training.
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

from sfdabench.core import registry
from sfdabench.core.errors import BadInput
from sfdabench.core.files import atomic
from sfdabench.core.near import unknown
from sfdabench.core.paths import checkout, shipped
from sfdabench.core.progress import Progress
from sfdabench.run import reference
from sfdabench.run.board import board
from sfdabench.run.plan import Run
from sfdabench.run.reference import Change, Claim, Listed, Listing, Reference, Score
from sfdabench.run.workers import Flags, Job, Outcome, carry_out
from sfdabench.store import labels, records

Scores = dict[tuple[str, ...], Score]
Chosen = list[tuple[Listing, Listed]]


@dataclass(frozen=True)
class Regression:
    """What came of it; `failed` are runs that did not end well.

    blind: scores whose tolerance would let a Dice of zero pass; only of an update.
    """

    measured: int
    changes: tuple[Change, ...]
    claims: tuple[Claim, ...]
    failed: tuple[Outcome, ...]
    blind: tuple[Score, ...] = ()

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
            "changes": [
                {"state": c.state, "now": c.now} | dataclasses.asdict(c.score) for c in self.changes
            ],
            "claims": [str(claim) for claim in self.claims],
            "failed": [{"run": o.job.name, "reason": o.reason} for o in self.failed],
            "blind": [score.name for score in self.blind],
        }


def default_folder() -> Path:
    """Where reference.toml and scores.csv are: in the checkout, else in the wheel."""
    return shipped("results") / "reference"


def choose(found: Reference, tasks: Sequence[str], methods: Sequence[str]) -> Chosen:
    """The listed runs of these tasks and methods, of all where none is named.

    Raises BadInput for a name that is not listed, and where nothing is left.
    """
    names = {task.name for task in found.tasks}
    called = {run.called for task in found.tasks for run in task.runs}
    wanted = [registry.canonical("tasks", name) for name in tasks]
    for flag, given, known in (("--task", wanted, names), ("--method", methods, called)):
        for name in given:
            if name not in known:
                raise BadInput(f"{flag} {name}: {unknown('entry of reference.toml', name, known)}")
    chosen = [
        (task, run)
        for task in found.tasks
        for run in task.runs
        if (not wanted or task.name in wanted) and (not methods or run.called in methods)
    ]
    if not chosen:
        raise BadInput(f"no run of {', '.join(methods)} is listed for {', '.join(wanted)}")
    return chosen


def regress(
    folder: Path,
    *,
    tasks: Sequence[str] = (),
    methods: Sequence[str] = (),
    jobs: int = 1,
    progress: Progress,
) -> Regression:
    """Seed 0 of the listed runs against their reference: scores, what they add to the source
    model's, and claims.
    """
    found = reference.read(folder)
    before = reference.read_scores(folder)
    chosen = choose(found, tasks, methods)
    if len(chosen) < sum(len(task.runs) for task in found.tasks):
        keys = {reference.run_key(task, run) for task, run in chosen}
        before = {key: score for key, score in before.items() if score.run in keys}
    now, failed = measure(found, chosen, seeds=1, jobs=jobs, progress=progress)
    both = [key for key in before if key in now]
    old = reference.gains(found.tolerance, {key: before[key] for key in both})
    new = reference.gains(found.tolerance, {key: now[key] for key in both})
    changes = reference.compare({**before, **old}, {**now, **new})
    claims = reference.failing(found, now)
    return Regression(len(now), tuple(changes), tuple(claims), tuple(failed))


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
    """All seeds of the listed runs, into scores.csv; a line on why into the folder `changelog`.

    Scores of runs that are not repeated stay, those of runs that are no longer listed go. Nothing
    is written where a run fails. A claim has to hold for every seed. Raises BadInput, before
    anything is measured, where a score that stays is of another number of seeds.
    """
    found = reference.read(folder)
    chosen = choose(found, tasks, methods)
    exists = (folder / "scores.csv").is_file()
    before = reference.read_scores(folder) if exists else {}
    seeds = found.tolerance.seeds
    listed = [reference.run_key(task, run) for task in found.tasks for run in task.runs]
    staying = set(listed) - {reference.run_key(task, run) for task, run in chosen}
    kept = {key: score for key, score in before.items() if score.run in staying}
    for score in kept.values():
        if len(score.seeds) != seeds:
            raise BadInput(
                f"{folder / 'scores.csv'}: {score.name} has {len(score.seeds)} seeds, "
                f"reference.toml asks for {seeds}; update all runs, without --task and --method"
            )
    measured, failed = measure(found, chosen, seeds=seeds, jobs=jobs, progress=progress)
    if failed:
        return Regression(len(measured), (), (), tuple(failed))
    after = {**kept, **measured}
    ordered = sorted(after.values(), key=lambda score: listed.index(score.run))
    changes = reference.compare(before, after)
    claims = {
        claim: None for seed in range(seeds) for claim in reference.failing(found, after, seed)
    }
    reference.write_scores(folder, ordered)
    write_fragment(changelog, reason, chosen)
    blind = [s for s in measured.values() if s.metric == "dice" and s.value <= s.tolerance]
    return Regression(len(measured), tuple(changes), tuple(claims), (), tuple(blind))


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
    root = checkout()
    if root is None:
        raise BadInput("regress --update: only in a checkout, whose reference it rewrites")
    return root / "changes"


def measure(
    found: Reference, chosen: Chosen, *, seeds: int, jobs: int, progress: Progress
) -> tuple[Scores, list[Outcome]]:
    """The scores of seeds 0, 1, ... of these runs, and the jobs that failed.

    A run of which a seed failed has no scores.
    """
    with _fresh_surroundings() as place:
        planned: dict[Job, tuple[Run, tuple[str, ...]]] = {}
        for task, run in chosen:
            flags = Flags(
                method=run.method,
                task=task.name,
                seed=0,
                out=place / "out",
                profile="phantom",
                settings=labels.settings(run.overrides),
                source_settings=labels.pairs(task.source),
                protocols=(found.scores.protocol,),
                device="cpu",
            )
            first = flags.resolve(progress)
            for seed in range(seeds):
                one = dataclasses.replace(first, seed=seed)
                source = one.source_folder / "source.json"
                name = labels.label(run.method, run.overrides)
                command = flags.command(one)
                job = Job(task.name, name, seed, command, source, one.record_path)
                planned[job] = (one, reference.run_key(task, run))
        with board(len(planned)) as shown:
            one_thread = {"OMP_NUM_THREADS": "1"}  # more of them add up in another order
            outcomes = list(
                carry_out(list(planned), at_once=jobs, variables=one_thread, board=shown)
            )
        failed = [outcome for outcome in outcomes if outcome.reason is not None]
        lost = {planned[outcome.job][1] for outcome in failed}
        by_run: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
        for one, key in planned.values():
            if key not in lost:
                by_run.setdefault(key, []).append(records.read(one.record_path))
        return {s.key: s for key, got in by_run.items() for s in _scores(found, key, got)}, failed


def _scores(
    found: Reference, key: tuple[str, ...], by_seed: Sequence[Mapping[str, Any]]
) -> Iterable[Score]:
    """The kept scores of a run from its records; no tolerance where there is one seed only."""
    protocol = found.scores.protocol
    for name in by_seed[0]["scores"][protocol]:
        for metric in found.scores.metrics:
            values = [record["scores"][protocol][name][metric]["mean"] for record in by_seed]
            if None in values:
                what = f"{key[1]} on {key[0]}, {name} {metric}"
                raise BadInput(f"{what} is undefined for a seed; score by another protocol")
            tolerance = found.tolerance.of(metric, values) if len(values) > 1 else 0.0
            yield Score((*key, protocol, name, metric), values[0], tolerance, tuple(values))


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
