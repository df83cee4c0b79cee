"""A paper's table with our runs beside it: numbers from records and reported.csv, and verdicts."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sfdabench.core import registry
from sfdabench.core.errors import BadInput
from sfdabench.core.near import unknown
from sfdabench.report import benchmark as papers
from sfdabench.report import evidence, runs
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
from sfdabench.report.evidence import Evidence, brief
from sfdabench.store import labels, records
from sfdabench.store.records import Stored

UNREPORTED = Reported(None, None, "")
KINDS = ("real", "phantom")
LIMITS = {"percent": "{:.1f} points", "mm": "{:.1f} mm", "pixel": "{:.1f} px", "1": "{:g}"}
PROFILES = ("paper", "phantom")
BASIS = ("size", "network", "backbone_weights", "epochs", "batch_size")  # of the recipe


@dataclass(frozen=True)
class Cell:
    """One number of the paper and ours, both in the column's unit.

    measured: mean over `seeds` finished runs; measured_std: over seeds, None for one.
    cases: test cases of each run; None where nothing ran or the runs do not agree.
    difference: measured - published; None on phantoms, which say nothing about it, and between
        pixels of different grids.
    verdict: "reproduced", "differs", "not comparable (why)", "not reported", "not in the paper",
        "failed", "not run", "not implemented", "no task (why)" (none of ours is scored so) or
        "invalid" (the benchmark file is at fault; the table's problems say how).
    """

    published: float | None
    published_std: float | None
    measured: float | None
    measured_std: float | None
    seeds: int
    cases: int | None
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
    """The rows of one comparison; `task` names its tasks, "no task" where it has none."""

    name: str
    task: str
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Table:
    """What the renderers print.

    spread: what the printed ± are over.
    data, profile: the one kind shown; None where nothing is recorded.
    basis: what the verdicts rest on. problems: records and lines that could not be used.
    """

    name: str
    title: str
    paper: str
    spread: str | None
    columns: tuple[Column, ...]
    sections: tuple[Section, ...]
    data: str | None
    profile: str | None
    basis: tuple[str, ...]
    problems: tuple[str, ...]


@dataclass(frozen=True)
class Summary:
    """An entry of the list of tables: its printed cells, and how many of them are measured."""

    name: str
    title: str
    cells: int
    measured: int


@dataclass(frozen=True)
class _Store:
    """The records below a folder, and what could not be read there."""

    folder: Path | None
    records: Sequence[Stored]
    problems: Sequence[str]


@dataclass(frozen=True)
class _Comparison:
    """The runs of a block.

    matched: (row, column) -> the records of a cell. done: task -> its finished ones.
    apart: path -> why a run cannot be compared with the others.
    faults: what could not be used.
    """

    rows: Sequence[Row]
    matched: Mapping[tuple[str, str], Sequence[Stored]]
    done: Mapping[str, Sequence[Stored]]
    apart: Mapping[str, str]
    faults: Sequence[str]


def list_tables(folder: Path | None = None) -> list[str]:
    """The names of all tables."""
    return list(papers.find(folder)[0])


def summaries(
    results: Path | None,
    *,
    kind: str | None = None,
    profile: str | None = None,
    folder: Path | None = None,
) -> tuple[list[Summary], list[str]]:
    """Every table with the number of its measured cells; and problems, as `build_all` has."""
    tables, problems = build_all(results, kind=kind, profile=profile, folder=folder)
    found = []
    for table in tables:
        lines = [line for section in table.sections for line in section.lines]
        printed = [cell for line in lines if not line.ours for cell in line.cells]
        cells = sum(cell.published is not None for cell in printed)
        measured = sum(None not in (cell.published, cell.measured) for cell in printed)
        found.append(Summary(table.name, table.title, cells, measured))
    return found, problems


def build(
    name: str,
    results: Path | None,
    *,
    kind: str | None = None,
    profile: str | None = None,
    folder: Path | None = None,
) -> Table:
    """Set the records below `results` beside the table `name` of the benchmarks in `folder`.

    Raises BadInput for an unknown table, data kind or profile. What cannot be read or compared
    is named in `problems` and in its cells, and the rest is built.
    """
    _check_kind(kind, profile)
    found, problems = papers.find(folder)
    if name not in found:
        raise BadInput("; ".join([unknown("table", name, found), *problems]))
    return _build(name, *found[name], papers.Suite(), _read(results), kind, profile)


def build_all(
    results: Path | None,
    *,
    kind: str | None = None,
    profile: str | None = None,
    folder: Path | None = None,
) -> tuple[list[Table], list[str]]:
    """Every table, and a message for each benchmark file, record or line that cannot be used."""
    _check_kind(kind, profile)
    found, problems = papers.find(folder)
    suite, store = papers.Suite(), _read(results)
    tables = [_build(name, *home, suite, store, kind, profile) for name, home in found.items()]
    problems += [problem for table in tables for problem in table.problems]
    return tables, list(dict.fromkeys(problems))


def _check_kind(kind: str | None, profile: str | None) -> None:
    if kind not in (None, *KINDS):
        raise BadInput(unknown("kind of data", kind, KINDS))
    if profile not in (None, *PROFILES):
        raise BadInput(unknown("profile", profile, PROFILES))


def _read(results: Path | None) -> _Store:
    if results is None:
        return _Store(None, (), ())
    if not results.is_dir():
        return _Store(results, (), [f"{results}: no such folder; nothing has been run into it yet"])
    return _Store(results, *records.read_all(results))


def _build(
    name: str,
    home: Path,
    benchmark: Benchmark,
    suite: papers.Suite,
    store: _Store,
    kind: str | None,
    profile: str | None,
) -> Table:
    layout = benchmark.table(name)
    printed, problems = papers.read_reported(home, benchmark)
    problems = [*store.problems, *problems]
    absent = {
        row.name: "not implemented"
        for row in layout.rows
        if not papers.implemented(row.method, suite.methods)
    }
    for row in layout.rows:
        try:
            papers.check_row(benchmark, layout, row, suite)
        except BadInput as error:
            absent[row.name] = "invalid"
            problems.append(f"{home / 'benchmark.toml'}: {error}")
    try:
        papers.check_tasks(layout, suite)
    except BadInput as error:
        problems.append(f"{home / 'benchmark.toml'}: {error}")
    tasks = {b.task for b in layout.blocks} | {c.task for c in layout.columns}
    shown, hidden = _of_one_kind([r for r in store.records if r.task in tasks], kind, profile)

    own = [f"; {c.name} by {c.protocol}" for c in layout.columns if c.protocol]
    basis = [f"protocol {layout.protocol}{''.join(own)}", f"a row asks for {benchmark.seeds} seeds"]
    sections = []
    for block in layout.blocks:
        compared = _compare(benchmark, layout, block, shown, suite)
        sections.append(_section(benchmark, layout, block, compared, printed, absent))
        problems += [*compared.faults, *_without_source_model(layout, block, compared, store)]
        basis += _basis(layout, block, compared)
    for unit in dict.fromkeys(column.unit for column in layout.columns):
        tolerance = benchmark.tolerance[unit]
        limit = LIMITS[unit].format(tolerance.limit)
        basis.append(f"reproduced: within {limit} ({tolerance.reason})")
    basis += [*_without_task(layout), *hidden]
    return Table(
        name=name,
        title=layout.title,
        paper=f"{benchmark.paper.title}, {benchmark.paper.venue}",
        spread=benchmark.spread,
        columns=layout.columns,
        sections=tuple(sections),
        data=shown[0].data if shown else None,
        profile=shown[0].profile if shown else None,
        basis=tuple(basis),
        problems=tuple(problems),
    )


def _of_one_kind(
    recorded: Sequence[Stored], kind: str | None, profile: str | None
) -> tuple[list[Stored], list[str]]:
    """The records of one data kind and one profile, and a line on each kind left out."""
    kinds = Counter((r.data, r.profile) for r in recorded)
    kind = kind or ("real" if any(data == "real" for data, _ in kinds) else "phantom")
    profile = profile or ("paper" if (kind, "paper") in kinds else "phantom")
    hidden = [
        f"not shown: {count} records of {data} data, profile {name}"
        for (data, name), count in sorted(kinds.items())
        if (data, name) != (kind, profile)
    ]
    return [r for r in recorded if (r.data, r.profile) == (kind, profile)], hidden


def _section(
    benchmark: Benchmark,
    layout: Layout,
    block: Block,
    compared: _Comparison,
    printed: Mapping[Key, Reported],
    absent: Mapping[str, str],
) -> Section:
    """The lines of a block; `absent` says of a row why it has no run, if not that none was made."""
    lines = []
    for row in compared.rows:
        behind = _behind(layout, block, row, compared)
        cells = []
        for column in layout.columns:
            number = printed.get((layout.name, block.name, row.name, column.name), UNREPORTED)
            verdict = absent.get(row.name, "not run")
            has_task = column.mean_of or papers.task_of(block, row, column) in compared.done
            if verdict != "invalid" and not (compared.done and has_task):
                why = block.because or row.elsewhere
                verdict = f"no task ({why})" if why else "no task"
            cells.append(_cell(benchmark, block, row, column, number, behind[column.name], verdict))
        lines.append(Line(row.name, _label(row), row.ours, tuple(cells)))
    return Section(block.name, ", ".join(compared.done) or "no task", tuple(lines))


def _compare(
    benchmark: Benchmark,
    layout: Layout,
    block: Block,
    shown: Sequence[Stored],
    suite: papers.Suite,
) -> _Comparison:
    """Gather the runs of a block; the source model, data and recipe are those of each task."""
    where = f"{layout.name}, {block.name}"
    columns = [column for column in layout.columns if not column.mean_of]
    named = dict.fromkeys(column.task or block.task for column in columns)
    tasks = [task for task in named if task in suite.tasks]
    rows = [row for row in layout.rows if tasks or not row.ours]
    rows += _other_methods(layout, [r for r in shown if r.task in tasks])
    matched = {
        (row.name, column.name): evidence.matching(benchmark, block, row, column, shown)
        for row in rows
        for column in columns
    }
    used = list({r.path: r for found in matched.values() for r in found}.values())
    done = {t: [r for r in used if (r.task, r.status) == (t, "done")] for t in tasks}
    apart: dict[str, str] = {}
    faults: list[str] = []
    for finished in done.values():
        outside, mixed = evidence.outside(where, finished)
        apart |= outside
        faults += mixed
    for (row, _), found in matched.items():
        own = [record for record in found if record.done]
        faults += [clash.fault(f"{where}, {row}") for clash in evidence.settings(own)]
        faults += [f"{where}, {row}: {fault}" for fault in evidence.recorded_twice(found)]
    return _Comparison(rows, matched, done, apart, tuple(dict.fromkeys(faults)))


def _without_source_model(
    layout: Layout, block: Block, compared: _Comparison, store: _Store
) -> list[str]:
    """A line on each record of unadapted scores that runs name, a row shows, and nobody has."""
    if store.folder is None or all(row.method != "source_only" for row in compared.rows):
        return []
    lines: dict[str | None, list[str]] = {}
    for record in (record for done in compared.done.values() for record in done):
        if record.unadapted not in lines:
            try:
                runs.unadapted(record, store.folder)
                lines[record.unadapted] = []
            except BadInput as error:
                lines[record.unadapted] = [f"{layout.name}, {block.name}: {error}"]
    return [line for of_key in lines.values() for line in of_key]


def _behind(layout: Layout, block: Block, row: Row, compared: _Comparison) -> dict[str, Evidence]:
    """What stands behind each column of a row."""
    found = {}
    for column in (column for column in layout.columns if not column.mean_of):
        own = compared.matched[row.name, column.name]
        if row.method == "source_only":
            own = evidence.within(own, compared.apart)
        found[column.name] = evidence.gather(layout, row, column, own, compared.apart)
    for column in (column for column in layout.columns if column.mean_of):
        found[column.name] = evidence.mean_of([found[name] for name in column.mean_of])
    return found


def _other_methods(layout: Layout, shown: Sequence[Stored]) -> list[Row]:
    """A row of ours for each method that was run as it is, or as its other name, in no row yet."""
    if any(column.curve for column in layout.columns):
        return []
    rows = {
        name: Row(name=name, method=name, ours=True)
        for name in {r.method for r in shown if not any(r.overrides.values())}
    }
    for method in {r.method for r in shown}:
        for name, fields in registry.variants(method).items():
            if any(r.method == method and r.overrides == {method: fields} for r in shown):
                rows[name] = Row(name=name, method=method, overrides={method: fields}, ours=True)
    known = [(row.method, row.overrides) for row in layout.rows]
    plain = {row.method for row in layout.rows}
    return [
        row
        for _, row in sorted(rows.items())
        if (row.method, row.overrides) not in known and (row.overrides or row.method not in plain)
    ]


def _cell(
    benchmark: Benchmark,
    block: Block,
    row: Row,
    column: Column,
    printed: Reported,
    behind: Evidence,
    absent: str,
) -> Cell:
    """`absent`: the verdict where nothing ran."""
    values = list(behind.values.values())
    known = [value for value in values if value is not None]
    mean = std = difference = None
    if known and len(known) == len(values) and not behind.mixed:
        mean = statistics.fmean(known)
        std = statistics.stdev(known) if len(known) > 1 else None
        real = behind.runs[0].record.data == "real"
        if printed.value is not None and real and not _other_pixels(benchmark, column, behind):
            difference = mean - printed.value
    unlike = behind.mixed or behind.apart
    if not values:
        verdict = "failed" if behind.failed else absent
    elif unlike:
        verdict = f"not comparable ({unlike})"
    elif row.ours:
        verdict = "not in the paper"
    elif why := _why_not(benchmark, block, row, column, behind, mean):
        verdict = f"not comparable ({why})"
    elif difference is None:
        verdict = "not reported"
    else:
        limit = benchmark.tolerance[column.unit].limit + 1e-9
        verdict = "reproduced" if abs(difference) <= limit else "differs"
    cases = {run.record.cases.test for run in behind.runs}
    return Cell(
        published=printed.value,
        published_std=printed.std,
        measured=mean,
        measured_std=std,
        seeds=len(values),
        cases=cases.pop() if len(cases) == 1 else None,
        failed=len(behind.failed),
        difference=difference,
        verdict=verdict,
        note="; ".join([*([printed.note] if printed.note else []), *behind.notes]),
    )


def _why_not(
    benchmark: Benchmark,
    block: Block,
    row: Row,
    column: Column,
    behind: Evidence,
    mean: float | None,
) -> str | None:
    """The first reason why a measured cell says nothing about the printed one, or None."""
    records = [run.record for run in behind.runs]
    if any(record.data != "real" for record in records):
        return "phantom data"
    fields = papers.full_fields(benchmark, row, column)
    changed = [change for record in records for change in _changed(benchmark, fields, record)]
    if other_grid := _other_pixels(benchmark, column, behind):
        return other_grid
    if changed:
        return f"profile: {', '.join(dict.fromkeys(changed))}"
    if other := [record.profile for record in records if record.profile != "paper"]:
        return f"profile: {other[0]}"
    if behind.unscored:
        return f"not scored by {behind.unscored}: run with --protocol {behind.unscored}"
    if mean is None:
        return "undefined in a run"
    for cases in [record.cases.test for record in records]:
        if not column.curve and None not in (cases, block.cases) and cases != block.cases:
            return f"{cases} test cases, {block.cases} in the paper"
    if because := row.because or column.because:
        return because
    if behind.failed:
        return f"{len(behind.failed)} of {len(behind.failed) + len(behind.values)} runs failed"
    return None


def _other_pixels(benchmark: Benchmark, column: Column, behind: Evidence) -> str | None:
    """Why distances are counted in pixels of another size than the paper's, or None."""
    paper = benchmark.recipe.get("size")
    sizes = {run.record.recipe.get("size") for run in behind.runs} - {paper}
    if column.unit != "pixel" or paper is None or not sizes:
        return None
    ours = ", ".join(str(size) for size in sorted(sizes, key=str))
    return f"unit: pixels of a {ours}-px grid, {paper} in the paper"


def _changed(benchmark: Benchmark, fields: Fields, record: Stored) -> list[str]:
    """What of the paper's recipe and of the row's fields a run did otherwise."""
    changed = []
    for name, wanted in benchmark.recipe.items():
        have = record.recipe.get(name)
        if wanted is True and not have:
            changed.append(f"no {name}")
        elif wanted is not True and have != wanted:
            changed.append(f"{name} {have}")
    for name, values in fields.items():
        have = record.fields.get(name)
        if have is not None:
            changed += [f"{name} {f} {have.get(f)}" for f, v in values.items() if have.get(f) != v]
    return changed


def _without_task(layout: Layout) -> list[str]:
    """A line on each reason why blocks, or rows on other tasks than theirs, have no task."""
    names: dict[str, list[str]] = {}
    for block in layout.blocks:
        if block.because:
            names.setdefault(block.because, []).append(block.name)
    for row in layout.rows:
        if row.elsewhere:
            names.setdefault(row.elsewhere, []).append(f"{row.name} elsewhere")
    return [f"no task for {', '.join(of)}: {why}" for why, of in names.items()]


def _empties(layout: Layout, compared: _Comparison, task: str) -> str:
    """Empty predictions and references per class and row, over all seeds."""
    counts: Counter[str] = Counter()
    for row in (row for row in compared.rows if row.read == "last"):
        of_row = [found for key, found in compared.matched.items() if key[0] == row.name]
        unique = {r.path: r for found in of_row for r in found if r.task == task}
        for record in unique.values():
            for name, empty in record.empties.get(layout.protocol, {}).items():
                counts[f"{name} predictions of {row.name}"] += empty.prediction
                counts[f"{name} references of {row.name}"] += empty.reference
    return ", ".join(f"{count} {what}" for what, count in counts.items() if count) or "none"


def _basis(layout: Layout, block: Block, compared: _Comparison) -> list[str]:
    """What a block's numbers rest on: source models, recipe, data, devices and empty masks."""
    lines = []
    for task, done in compared.done.items():
        if not done:
            continue
        where = block.name if len(compared.done) == 1 else f"{block.name}, {task}"
        recipe = ", ".join(
            f"{name} {' or '.join(values)}"
            for name in BASIS
            if (values := _distinct(brief(v) for r in done if (v := r.recipe.get(name))))
        )
        sources = ", ".join(
            f"{seed}: {' or '.join(_distinct(brief(r.source_sha256) for r in members))}"
            for seed, members in evidence.by_seed(done).items()
        )
        manifests = _distinct(brief(r.manifest_sha256) for r in done)
        cases = _distinct(str(r.cases.test) for r in done)
        devices = _distinct(
            f"{r.device} {r.precision} ({r.device_name or 'unnamed'})" for r in done
        )
        lines += [
            f"{where}: source model of seed {sources} ({recipe})",
            f"{where}: {done[0].data} data {', '.join(manifests)}, "
            f"{' or '.join(cases)} test cases; on {', '.join(devices)}; "
            f"empty masks: {_empties(layout, compared, task)}",
        ]
        if weaker := evidence.weaker_locks(done):
            lines.append(f"{where}: without the kernel's lock: {', '.join(weaker)}")
    return lines


def _distinct(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))


def _label(row: Row) -> str:
    best = " best epoch" if row.read == "best" else ""
    return f"{labels.label(row.method, row.overrides)}{best}"
