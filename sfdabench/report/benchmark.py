"""benchmark.toml and reported.csv of a paper: what it compares, and what it printed."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from pydantic import model_validator

from sfdabench.core import fields, paths, registry, toml
from sfdabench.core.errors import BadInput
from sfdabench.core.fields import NonNegative, Positive, PositiveInt
from sfdabench.core.near import unknown
from sfdabench.store import rows
from sfdabench.store.labels import Fields

T = TypeVar("T")
Unit = Literal["percent", "mm", "pixel", "1"]
Key = tuple[str, str, str, str]  # table, block, row, column
UNITS: dict[Unit, str] = {"percent": "%", "mm": "mm", "pixel": "px", "1": ""}
COLUMNS = ("table", "block", "row", "column", "value", "std", "unit", "note")


def _repeated(items: Iterable[T]) -> list[T]:
    return [item for item, count in Counter(items).items() if count > 1]


class Paper(toml.Part):
    """The publication."""

    title: str
    venue: str
    url: str


class Tolerance(toml.Part):
    """The largest |measured - printed| that counts as reproduced, and why."""

    limit: NonNegative
    reason: str


class Block(toml.Part):
    """One comparison of a table: a task, and how many test cases the paper scored.

    task: None where each column names its own, or where no task of ours is scored so.
    because: why none is.
    """

    name: str
    task: str | None = None
    cases: int | None = None
    because: str | None = None


class Column(toml.Part):
    """A quantity: `metric` averaged over `classes` and scaled, or the start of a logged `curve`.

    mean_of: or the plain mean of other columns, seed by seed.
    task, protocol: in place of the block's and the table's.
    because: why no printed cell of the column is comparable with any run of ours.
    """

    name: str
    unit: Unit
    metric: str | None = None
    classes: tuple[str, ...] = ()
    scale: Positive = 1.0
    curve: str | None = None
    mean_of: tuple[str, ...] = ()
    task: str | None = None
    protocol: str | None = None
    overrides: Fields = {}
    because: str | None = None

    @model_validator(mode="after")
    def _one_quantity(self) -> Self:
        kinds = (self.metric is not None, self.curve is not None, bool(self.mean_of))
        if sum(kinds) != 1 or bool(self.metric) != bool(self.classes):
            raise ValueError("give metric and classes, or curve, or mean_of")
        return self


class Row(toml.Part):
    """A printed row and the run beside it.

    tasks: the only ones on which it is a run of ours; any where empty.
    elsewhere: why it is none on the others.
    read: "best" takes the audit's best epoch on test labels in place of the last.
    because: why the printed row is not comparable with any run of ours.
    ours: measured only, not in the paper.
    """

    name: str
    method: str
    overrides: Fields = {}
    tasks: tuple[str, ...] = ()
    elsewhere: str | None = None
    read: Literal["last", "best"] = "last"
    because: str | None = None
    ours: bool = False


class Layout(toml.Part):
    """A printed table; `protocol` is the one its metrics are read from."""

    name: str
    title: str
    protocol: str
    blocks: tuple[Block, ...]
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]

    @model_validator(mode="after")
    def _reasons(self) -> Self:
        own = any(column.task for column in self.columns)
        for block in self.blocks:
            if block.because and (block.task or own):
                raise ValueError(f"{block.name} of {self.name}: has a task, give no because")
        for row in self.rows:
            if row.elsewhere and not row.tasks:
                raise ValueError(f"{row.name} of {self.name}: elsewhere needs tasks beside it")
        return self

    @model_validator(mode="after")
    def _names(self) -> Self:
        for items in (self.blocks, self.columns, self.rows):
            if twice := _repeated(item.name for item in items):
                raise ValueError(f"{', '.join(twice)} of {self.name} given twice")
        chains = {row.name: set(row.method.split("+")) for row in self.rows}
        parts: list[tuple[Row | Column, set[str]]] = [(row, chains[row.name]) for row in self.rows]
        parts += [(column, set().union(*chains.values())) for column in self.columns]
        for part, chain in parts:
            if other := set(part.overrides) - chain:
                raise ValueError(f"{part.name} overrides {', '.join(other)}, which it does not run")
        plain = {column.name: column.unit for column in self.columns if not column.mean_of}
        for column in self.columns:
            for name in column.mean_of:
                if plain.get(name) != column.unit:
                    raise ValueError(f"{column.name} of {self.name}: no column {name} to average")
        return self


class Figure(toml.Part):
    """A printed sweep: a method's score on a task, by a protocol, against `values` of a field."""

    name: str
    title: str
    task: str
    protocol: str
    method: str
    field: str
    values: tuple[bool | int | float | str, ...]

    @model_validator(mode="after")
    def _values(self) -> Self:
        if len(self.values) < 2 or _repeated(self.values):
            raise ValueError(f"values of {self.name}: give two or more, each once")
        return self


class Benchmark(toml.Part):
    """All tables of a paper, and the figures that ask for runs of their own.

    recipe: the paper's source recipe; True stands for "must be given".
    seeds: how many runs a row asks for.
    spread: what the paper's ± are over; None where it prints none.
    absent: methods of the paper that the suite does not have (any other unknown one is a slip).
    fields: values of a method behind every row that does not override them.
    """

    paper: Paper
    tolerance: dict[Unit, Tolerance]
    recipe: dict[str, Any]
    seeds: PositiveInt
    spread: str | None = None
    absent: tuple[str, ...] = ()
    fields: Fields = {}
    tables: tuple[Layout, ...]
    figures: tuple[Figure, ...] = ()

    @model_validator(mode="after")
    def _figures(self) -> Self:
        if twice := _repeated(figure.name for figure in self.figures):
            raise ValueError(f"figure {', '.join(twice)} given twice")
        return self

    @model_validator(mode="after")
    def _limits(self) -> Self:
        units = {column.unit for table in self.tables for column in table.columns}
        if missing := units - set(self.tolerance):
            raise ValueError(f"tolerance lacks {', '.join(sorted(missing))}")
        return self

    def table(self, name: str) -> Layout:
        """The table of that name, which must exist."""
        return next(table for table in self.tables if table.name == name)

    def figure(self, name: str) -> Figure:
        """The figure of that name, which must exist."""
        return next(figure for figure in self.figures if figure.name == name)


@dataclass(frozen=True)
class Reported:
    """A printed number; `value` is None where the paper prints a dash."""

    value: float | None
    std: float | None
    note: str


def default_folder() -> Path:
    """Where the benchmarks are: in the checkout, else in the wheel."""
    return paths.shipped("benchmarks")


def read(folder: Path) -> Benchmark:
    """`folder`/benchmark.toml. Raises BadInput that names the file and the entry at fault."""
    return toml.read(folder / "benchmark.toml", Benchmark)


def find(folder: Path | None = None) -> tuple[dict[str, tuple[Path, Benchmark]], list[str]]:
    """Table name -> the folder and benchmark that hold it, and what could not be read."""
    return _find("table", lambda benchmark: benchmark.tables, folder)


def find_figures(
    folder: Path | None = None,
) -> tuple[dict[str, tuple[Path, Benchmark]], list[str]]:
    """Figure name -> the folder and benchmark that hold it, and what could not be read."""
    return _find("figure", lambda benchmark: benchmark.figures, folder)


def _find(
    kind: str, items: Callable[[Benchmark], Sequence[Layout | Figure]], folder: Path | None
) -> tuple[dict[str, tuple[Path, Benchmark]], list[str]]:
    found: dict[str, tuple[Path, Benchmark]] = {}
    problems = []
    for path in sorted((folder or default_folder()).glob("*/benchmark.toml")):
        try:
            benchmark = read(path.parent)
        except BadInput as error:
            problems.append(str(error))
            continue
        for item in items(benchmark):
            if item.name in found:
                first = found[item.name][0]
                problems.append(f"{path}: {kind} '{item.name}' is in {first} too, which counts")
            else:
                found[item.name] = (path.parent, benchmark)
    return found, problems


def read_reported(folder: Path, benchmark: Benchmark) -> tuple[dict[Key, Reported], list[str]]:
    """The numbers of `folder`/reported.csv, and a message for each line that cannot be placed."""
    path = folder / "reported.csv"
    units: dict[Key, str] = {
        (table.name, block.name, row.name, column.name): column.unit
        for table in benchmark.tables
        for block in table.blocks
        for row in table.rows
        for column in table.columns
        if not row.ours
    }
    found: dict[Key, Reported] = {}
    problems = []
    try:
        lines = rows.read(path, COLUMNS)
    except BadInput as error:
        return {}, [str(error)]
    for number, line in lines:
        where = f"{path}, line {number}"
        key = (line["table"], line["block"], line["row"], line["column"])
        if key not in units:
            problems.append(f"{where}: {' / '.join(map(str, key))} matches no benchmark row")
        elif key in found:
            problems.append(f"{where}: {' / '.join(key)} given twice; the first counts")
        elif line["unit"] != units[key]:
            problems.append(f"{where}: unit {line['unit']}, the benchmark's is {units[key]}")
        else:
            try:
                value, std = _number(line["value"]), _number(line["std"])
            except ValueError as error:
                problems.append(f"{where}: {error}")
                continue
            found[key] = Reported(value, std, line["note"] or "")
    return found, problems


def _number(text: str | None) -> float | None:
    if not text:
        return None
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is not a number")
    return value


def full_fields(benchmark: Benchmark, row: Row, column: Column) -> Fields:
    """Every field value that stands behind a cell: the benchmark's, then the row's and column's."""
    return {
        name: {
            **benchmark.fields.get(name, {}),
            **row.overrides.get(name, {}),
            **column.overrides.get(name, {}),
        }
        for name in row.method.split("+")
    }


class Suite:
    """The names that a benchmark can use and the methods' defaults, asked of the registry once."""

    def __init__(self) -> None:
        self.methods, self.tasks = registry.names("methods"), registry.names("tasks")
        self._defaults: dict[str, Any] = {}

    def default(self, method: str) -> Any:
        """The method with every field at its default; methods import without torch."""
        if method not in self._defaults:
            self._defaults[method] = registry.load("methods", method)()
        return self._defaults[method]


def implemented(method: str, methods: Collection[str]) -> bool:
    """Whether every link of a chain is among the registered `methods`."""
    return set(method.split("+")) <= set(methods)


def task_of(block: Block, row: Row, column: Column) -> str | None:
    """The task whose runs fill a cell; None where the suite has none that is scored so."""
    task = column.task or block.task
    return None if row.tasks and task not in row.tasks else task


def cells(table: Layout) -> Iterator[tuple[str, Row, Column]]:
    """Every cell that runs can fill, with their task; a mean is filled by its columns."""
    for block in table.blocks:
        for row in table.rows:
            for column in table.columns:
                task = task_of(block, row, column)
                if task is not None and not column.mean_of:
                    yield task, row, column


def check_tasks(table: Layout, suite: Suite) -> None:
    """Raises BadInput where a table names a task that does not exist; imports none."""
    named = [(block.name, block.task) for block in table.blocks]
    named += [(column.name, column.task) for column in table.columns]
    named += [(row.name, task) for row in table.rows for task in row.tasks]
    for where, task in named:
        if task is not None and task not in suite.tasks:
            raise BadInput(f"{table.name}, {where}: {unknown('task', task, suite.tasks)}")


def check_row(benchmark: Benchmark, table: Layout, row: Row, suite: Suite) -> None:
    """Raises BadInput where a row names an unknown method or field, or a value it cannot take.

    Methods that the benchmark lists as absent are passed over.
    """
    where = f"{table.name}, {row.name}"
    for name in row.method.split("+"):
        if name not in {*suite.methods, *benchmark.absent}:
            raise BadInput(f"{where}: {unknown('method', name, suite.methods)}")
    cells = [full_fields(benchmark, row, column) for column in table.columns]
    for cell in {repr(cell): cell for cell in cells}.values():
        for name, given in cell.items():
            if name in suite.methods:
                _override(suite, name, given, where)


def validate(benchmark: Benchmark) -> None:
    """Check every name and value against the registry; imports tasks and methods, no torch.

    Raises BadInput for an unknown task, class, protocol, metric, method or field, a value that a
    field does not take, and a value in `fields` that is not the default of an existing method.
    A figure is of an existing method.
    """
    suite = Suite()
    for table in benchmark.tables:
        check_tasks(table, suite)
        for column in table.columns:
            _check_metric(table, column)
            for block in table.blocks:
                _check_classes(table, block, column)
        for row in table.rows:
            check_row(benchmark, table, row, suite)
    for figure in benchmark.figures:
        _check_figure(figure, suite)
    for name, given in benchmark.fields.items():
        if name in suite.methods and registry.is_ours("methods", name):
            default = fields.plain(suite.default(name))
            changed = fields.plain(_override(suite, name, given, f"fields.{name}"))
            for field in given:
                if changed[field] != default[field]:
                    raise BadInput(
                        f"fields.{name}.{field}: the benchmark says {changed[field]}, "
                        f"the method's default is {default[field]}"
                    )


def _check_figure(figure: Figure, suite: Suite) -> None:
    if figure.task not in suite.tasks:
        raise BadInput(f"{figure.name}: {unknown('task', figure.task, suite.tasks)}")
    if figure.method not in suite.methods:
        raise BadInput(f"{figure.name}: {unknown('method', figure.method, suite.methods)}")
    registry.load("protocols", figure.protocol)
    for value in figure.values:
        _override(suite, figure.method, {figure.field: value}, figure.name)


def _check_metric(table: Layout, column: Column) -> None:
    name = column.protocol or table.protocol
    protocol = registry.load("protocols", name)
    metrics = [
        *protocol.metrics,
        *(["hd_rowwise"] if "rowwise_hausdorff" in protocol.legacy else []),
    ]
    if column.metric and column.metric not in metrics:
        kind = f"metric of protocol {name}"
        raise BadInput(f"{table.name}, {column.name}: {unknown(kind, column.metric, metrics)}")


def _check_classes(table: Layout, block: Block, column: Column) -> None:
    task = column.task or block.task
    scored = registry.load("tasks", task).scored if task else column.classes
    for name in column.classes:
        if name not in scored:
            kind = f"class of {task}"
            raise BadInput(f"{table.name}, {column.name}: {unknown(kind, name, scored)}")


def _override(suite: Suite, name: str, given: Mapping[str, Any], where: str) -> Any:
    if not registry.is_ours("methods", name):
        return None  # a plug-in of that name; its code is not for this process
    return fields.override(suite.default(name), given, owner=name, flag=where)
