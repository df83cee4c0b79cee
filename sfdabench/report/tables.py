"""A paper's table with our runs beside it: numbers from records and reported.csv, and verdicts."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sfdabench.core import registry
from sfdabench.core.errors import BadInput
from sfdabench.core.near import unknown
from sfdabench.report import benchmark as papers
from sfdabench.report.benchmark import (
    Benchmark,
    Block,
    Column,
    Fields,
    Key,
    Layout,
    Reported,
    Row,
)
from sfdabench.store import records

Record = Mapping[str, Any]
UNREPORTED = Reported(None, None, "")
DATA = ("real", "phantom")
LIMITS = {"percent": "{:.1f} points", "pixel": "{:.1f} px", "1": "{:g}"}
PROFILES = ("paper", "phantom")
BASIS = ("size", "network", "backbone_weights", "epochs", "batch_size")  # of the recipe


@dataclass(frozen=True)
class Cell:
    """One number of the paper and ours, both in the column's unit.

    measured: mean over `seeds` finished runs; measured_std: over seeds, None for one.
    difference: measured - published; None on phantoms, which say nothing about it.
    verdict: "reproduced", "differs", "not comparable (why)", "not reported", "not in the paper",
        "failed", "not run" or "not implemented".
    """

    published: float | None
    published_std: float | None
    measured: float | None
    measured_std: float | None
    seeds: int
    failed: int
    difference: float | None
    verdict: str
    note: str


@dataclass(frozen=True)
class Line:
    """A row of a section; `run` names the method and its overrides."""

    name: str
    run: str
    ours: bool
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Section:
    """The rows of one task."""

    name: str
    task: str
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Table:
    """What the renderers print.

    data, profile: the one kind shown; None where nothing is recorded.
    basis: what the verdicts rest on. problems: records and lines that could not be used.
    """

    name: str
    title: str
    paper: str
    columns: tuple[Column, ...]
    sections: tuple[Section, ...]
    data: str | None
    profile: str | None
    basis: tuple[str, ...]
    problems: tuple[str, ...]


@dataclass(frozen=True)
class Summary:
    """An entry of the list of tables; `problem` says why one cannot be built."""

    name: str
    title: str
    cells: int
    measured: int
    problem: str | None


@dataclass(frozen=True)
class _Run:
    """One seed behind a cell: its record, and the scores to read from it."""

    record: Record
    scores: Any


def list_tables(folder: Path | None = None) -> list[str]:
    """The names of all tables."""
    return list(papers.find(folder))


def summaries(results: Path | None, *, folder: Path | None = None) -> list[Summary]:
    """Every table, with how many of its printed cells the records below `results` measure."""
    found = []
    for name, (_, benchmark) in papers.find(folder).items():
        layout = benchmark.table(name)
        cells, measured, problem = 0, 0, None
        try:
            table = build(name, results, folder=folder)
        except BadInput as error:
            problem = str(error)
        else:
            lines = [line for section in table.sections for line in section.lines]
            printed = [cell for line in lines if not line.ours for cell in line.cells]
            cells = sum(cell.published is not None for cell in printed)
            measured = sum(None not in (cell.published, cell.measured) for cell in printed)
        found.append(Summary(name, layout.title, cells, measured, problem))
    return found


def build(
    name: str,
    results: Path | None,
    *,
    data: str | None = None,
    profile: str | None = None,
    folder: Path | None = None,
) -> Table:
    """Set the records below `results` beside the table `name` of the benchmarks in `folder`.

    Raises BadInput for an unknown table, data kind, profile or task, and where the runs of one
    comparison do not share source model, data and recipe. What cannot be read is named in
    `problems`, and the rest is built.
    """
    found = papers.find(folder)
    if name not in found:
        raise BadInput(unknown("table", name, found))
    if data not in (None, *DATA):
        raise BadInput(unknown("kind of data", data, DATA))
    if profile not in (None, *PROFILES):
        raise BadInput(unknown("profile", profile, PROFILES))
    home, benchmark = found[name]
    layout = benchmark.table(name)
    papers.check_tasks(layout)
    printed, problems = papers.read_reported(home, benchmark)
    recorded: list[Record] = []
    if results is not None and results.is_dir():
        everything, unreadable = records.read_all(results)
        recorded = [r for r in everything if r["task"] in {b.task for b in layout.blocks}]
        problems += unreadable
    elif results is not None:
        problems.append(f"{results}: no such folder; nothing has been run into it yet")
    shown, hidden = _of_one_kind(recorded, data, profile)

    basis = [f"protocol {layout.protocol}"]
    sections = []
    for block in layout.blocks:
        section, notes, faults = _section(
            benchmark, layout, block, [r for r in shown if r["task"] == block.task], printed
        )
        sections.append(section)
        basis += notes
        problems += dict.fromkeys(faults)
    for unit in dict.fromkeys(column.unit for column in layout.columns):
        tolerance = benchmark.tolerance[unit]
        limit = LIMITS[unit].format(tolerance.limit)
        basis.append(f"reproduced: within {limit} ({tolerance.reason})")
    basis += hidden
    return Table(
        name=name,
        title=layout.title,
        paper=f"{benchmark.paper.title}, {benchmark.paper.venue}",
        columns=layout.columns,
        sections=tuple(sections),
        data=shown[0]["data"] if shown else None,
        profile=shown[0]["profile"] if shown else None,
        basis=tuple(basis),
        problems=tuple(problems),
    )


def _of_one_kind(
    recorded: Sequence[Record], data: str | None, profile: str | None
) -> tuple[list[Record], list[str]]:
    """The records of one data kind and one profile, and a line on each kind left out."""
    kinds = Counter((r["data"], r["profile"]) for r in recorded)
    data = data or ("real" if any(kind[0] == "real" for kind in kinds) else "phantom")
    profile = profile or ("paper" if (data, "paper") in kinds else "phantom")
    hidden = [
        f"not shown: {count} records of {kind[0]} data, profile {kind[1]}"
        for kind, count in sorted(kinds.items())
        if kind != (data, profile)
    ]
    return [r for r in recorded if (r["data"], r["profile"]) == (data, profile)], hidden


def _section(
    benchmark: Benchmark,
    layout: Layout,
    block: Block,
    shown: Sequence[Record],
    printed: Mapping[Key, Reported],
) -> tuple[Section, list[str], list[str]]:
    """The lines of a block, what they rest on, and what could not be used."""
    where = f"{layout.name}, {block.name}"
    rows = [*layout.rows, *_other_methods(layout, shown)]
    matched = {
        (row.name, column.name): [
            r for r in shown if _matches(r, papers.full_fields(benchmark, row, column), row, column)
        ]
        for row in rows
        for column in layout.columns
    }
    used = list({r["path"]: r for found in matched.values() for r in found}.values())
    done = [r for r in used if r["status"] == "done"]
    _check_one_comparison(where, done)

    lines, faults = [], []
    methods = registry.names("methods")
    for row in rows:
        cells = []
        for column in layout.columns:
            found = matched[row.name, column.name]
            runs, twice = _one_per_seed(found)
            faults += [f"{where}, {row.name}: {fault}" for fault in twice]
            failed = [r for r in found if r["seed"] not in {run.record["seed"] for run in runs}]
            if row.method == "source_only":
                runs, failed = _with_neighbours(runs, done), []
            number = printed.get((layout.name, block.name, row.name, column.name), UNREPORTED)
            cells.append(
                _cell(benchmark, layout, block, row, column, number, runs, failed, methods)
            )
        lines.append(Line(row.name, _label(row), row.ours, tuple(cells)))
    section = Section(block.name, block.task, tuple(lines))
    by_row = {
        row.name: {
            r["path"]: r for column in layout.columns for r in matched[row.name, column.name]
        }
        for row in rows
        if row.read == "last"
    }
    empties = _empties(by_row, layout.protocol)
    return section, _basis(block, done, empties) if done else [], faults


def _other_methods(layout: Layout, shown: Sequence[Record]) -> list[Row]:
    """A row of ours for each method that was run as it is and stands in no row."""
    if any(column.curve for column in layout.columns):
        return []
    known = {row.method for row in layout.rows}
    plain = {r["method"] for r in shown if not any(r["overrides"].values())}
    return [Row(name=name, method=name, ours=True) for name in sorted(plain - known)]


def _matches(record: Record, values: Fields, row: Row, column: Column) -> bool:
    """Whether a record is a run of this cell.

    A field that the cell overrides must have the cell's value, and one that the user set must have
    the value it has in this row anyway; all others are at their defaults.
    """
    if record["method"] != row.method:
        return False
    for name, expected in values.items():
        have = record["fields"].get(name, {})
        asked = {*row.overrides.get(name, {}), *column.overrides.get(name, {})}
        for field in asked | set(record["overrides"].get(name, {})):
            if field not in expected or field not in have or have[field] != expected[field]:
                return False
    return True


def _check_one_comparison(where: str, done: Sequence[Record]) -> None:
    """Raises BadInput where runs of one seed differ in source model or data, or any in recipe."""

    def recipe(record: Record) -> str:
        return ", ".join(f"{name} {_brief(record['recipe'].get(name))}" for name in varied)

    names = sorted({name for record in done for name in record["recipe"]})
    varied = [name for name in names if len({_brief(r["recipe"].get(name)) for r in done}) > 1]
    checks: list[tuple[str, Callable[[Record], Any], Callable[[Record], str]]] = [
        ("source models", lambda r: r["seed"], lambda r: _brief(r["source_sha256"])),
        ("states of the data", lambda r: r["seed"], lambda r: _brief(r.get("manifest_sha256"))),
        ("source recipes", lambda r: None, recipe),
    ]
    for what, group, key in checks:
        groups: dict[Any, dict[str, list[str]]] = {}
        for record in done:
            groups.setdefault(group(record), {}).setdefault(key(record), []).append(record["path"])
        for seed, members in groups.items():
            if len(members) > 1:
                of_seed = "" if seed is None else f"seed {seed}, "
                listed = "; ".join(f"{name}: {_few(paths)}" for name, paths in members.items())
                raise BadInput(
                    f"{where}: {of_seed}{len(members)} {what} in one comparison ({listed}); "
                    "move the records that do not belong here to another folder"
                )


def _one_per_seed(found: Sequence[Record]) -> tuple[list[_Run], list[str]]:
    """Finished runs in the order of their seeds, and a line for each seed recorded twice."""
    by_seed: dict[int, list[Record]] = {}
    for record in found:
        if record["status"] == "done":
            by_seed.setdefault(record["seed"], []).append(record)
    twice = [
        f"seed {seed} is recorded {len(members)} times, the first counts "
        f"({_few([r['path'] for r in members])})"
        for seed, members in sorted(by_seed.items())
        if len(members) > 1
    ]
    return [_Run(r, r["scores"]) for _, (r, *_) in sorted(by_seed.items())], twice


def _with_neighbours(runs: Sequence[_Run], done: Sequence[Record]) -> list[_Run]:
    """Add the unadapted scores that every run carries, for seeds without a run of their own."""
    by_seed = {r["seed"]: _Run(r, _dig(r, "source_only", "scores")) for r in reversed(done)}
    by_seed.update({run.record["seed"]: run for run in runs})
    return [run for _, run in sorted(by_seed.items())]


def _cell(
    benchmark: Benchmark,
    layout: Layout,
    block: Block,
    row: Row,
    column: Column,
    printed: Reported,
    runs: Sequence[_Run],
    failed: Sequence[Record],
    methods: Collection[str],
) -> Cell:
    notes = [printed.note] if printed.note else []
    notes += [f"seed {r['seed']} failed: {r.get('reason') or 'no reason recorded'}" for r in failed]
    if row.read == "best":
        runs = [_Run(r.record, _dig(r.record, "audit", "best", "scores")) for r in runs]
        epochs = [_dig(run.record, "audit", "best", "epoch", layout.protocol) for run in runs]
        listed = ", ".join("none" if epoch is None else str(epoch + 1) for epoch in epochs)
        notes += [f"best epoch on test labels, from 1: {listed}"] if runs else []
    values = [_value(run, column, layout.protocol) for run in runs]
    dropped = sum(
        _dig(run.scores, layout.protocol, name, column.metric, "undefined") or 0
        for run in runs
        for name in column.classes
    )
    if dropped:
        notes.append(f"undefined in {dropped} cases of {len(runs)} runs")
    known = [value for value in values if value is not None]
    mean = std = difference = None
    if known and len(known) == len(values):
        mean = statistics.fmean(known)
        std = statistics.stdev(known) if len(known) > 1 else None
        if printed.value is not None and runs[0].record["data"] == "real":
            difference = mean - printed.value
    if not runs:
        missing = "not run" if papers.implemented(row.method, methods) else "not implemented"
        verdict = "failed" if failed else missing
    elif row.ours:
        verdict = "not in the paper"
    elif why := _why_not(benchmark, layout, block, row, column, runs, failed, mean):
        verdict = f"not comparable ({why})"
    elif difference is None:
        verdict = "not reported"
    else:
        limit = benchmark.tolerance[column.unit].limit + 1e-9
        verdict = "reproduced" if abs(difference) <= limit else "differs"
    return Cell(
        published=printed.value,
        published_std=printed.std,
        measured=mean,
        measured_std=std,
        seeds=len(runs),
        failed=len(failed),
        difference=difference,
        verdict=verdict,
        note="; ".join(notes),
    )


def _why_not(
    benchmark: Benchmark,
    layout: Layout,
    block: Block,
    row: Row,
    column: Column,
    runs: Sequence[_Run],
    failed: Sequence[Record],
    mean: float | None,
) -> str | None:
    """The first reason why a measured cell says nothing about the printed one, or None."""
    record = runs[0].record
    if record["data"] != "real":
        return "phantom data"
    changed = [
        f"no {name}" if wanted is True else f"{name} {record['recipe'].get(name)}"
        for name, wanted in benchmark.recipe.items()
        if not (
            record["recipe"].get(name) if wanted is True else record["recipe"].get(name) == wanted
        )
    ]
    changed += [
        f"{name} {field} {record['fields'][name].get(field)}"
        for name, values in papers.full_fields(benchmark, row, column).items()
        for field, wanted in values.items()
        if name in record["fields"] and record["fields"][name].get(field) != wanted
    ]
    if changed or record["profile"] != "paper":
        return f"profile: {', '.join(changed) or record['profile']}"
    if mean is None:
        return "undefined in a run"
    cases = _dig(record, "cases", "test")
    if column.metric and None not in (cases, block.cases) and cases != block.cases:
        return f"{cases} test images, {block.cases} in the paper"
    if row.because:
        return row.because
    if failed:
        return f"{len(failed)} of {len(failed) + len(runs)} runs failed"
    return None


def _value(run: _Run, column: Column, protocol: str) -> float | None:
    """A run's number in the column's unit; None where it is undefined or not recorded."""
    if column.curve:
        curve = _dig(run.record, "curves", run.record["method"].split("+")[-1], column.curve)
        values = [curve[0] if isinstance(curve, list) and curve else None]
    else:
        values = [_dig(run.scores, protocol, c, column.metric, "mean") for c in column.classes]
    known = [v for v in values if isinstance(v, (int, float)) and math.isfinite(v)]
    return column.scale * statistics.fmean(known) if len(known) == len(values) else None


def _empties(by_row: Mapping[str, Mapping[str, Record]], protocol: str) -> str:
    """Empty predictions and references per class and row, over all seeds."""
    counts: Counter[str] = Counter()
    for row, found in by_row.items():
        for record in found.values():
            for name, empty in (_dig(record, "empties", protocol) or {}).items():
                for kind in ("prediction", "reference"):
                    counts[f"{name} {kind}s of {row}"] += empty.get(kind, 0)
    return ", ".join(f"{count} {what}" for what, count in counts.items() if count) or "none"


def _basis(block: Block, done: Sequence[Record], empties: str) -> list[str]:
    """What a block's numbers rest on: source models, recipe, data, devices and empty masks."""
    recipe = ", ".join(
        f"{name} {_brief(done[0]['recipe'][name])}" for name in BASIS if done[0]["recipe"].get(name)
    )
    sources = {r["seed"]: _brief(r["source_sha256"]) for r in done}
    manifests = dict.fromkeys(_brief(r.get("manifest_sha256")) for r in done)
    devices = dict.fromkeys(
        f"{r['device']} {r['precision']} ({r.get('device_name') or 'unnamed'})" for r in done
    )
    return [
        f"{block.name}: source model of seed "
        + ", ".join(f"{seed}: {name}" for seed, name in sorted(sources.items()))
        + f" ({recipe})",
        f"{block.name}: {done[0]['data']} data {', '.join(manifests)}; on {', '.join(devices)}; "
        f"empty masks: {empties}",
    ]


def _label(row: Row) -> str:
    changes = [f"{f}={v}" for fields in row.overrides.values() for f, v in fields.items()]
    return " ".join([row.method, *changes, *(["best epoch"] if row.read == "best" else [])])


def _dig(value: Any, *keys: Any) -> Any:
    """value[key][key]..., None where a level is missing."""
    for key in keys:
        if not isinstance(value, Mapping) or key not in value:
            return None
        value = value[key]
    return value


def _brief(value: Any) -> str:
    """The first digits of a hash, the name of a file (its folder differs between machines)."""
    text = str(value).rpartition("/")[2]
    return text[:8] if len(text) == 64 else text


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
