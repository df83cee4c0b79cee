"""A built table as text, Markdown, CSV or LaTeX."""

from __future__ import annotations

import csv as csv_files
import io
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sfdabench.report.benchmark import UNITS, Column
from sfdabench.report.tables import Cell, Line, Table

if TYPE_CHECKING:
    from rich.console import Console

WIDTH = 120
CSV_COLUMNS = (
    *("table", "block", "row", "column", "published", "published_std", "measured", "measured_std"),
    *("seeds", "cases", "difference", "verdict", "unit", "data", "profile", "note"),
)
MARKS = "then measured - published: = reproduced, ≠ differs, ~ not comparable"
OURS = "ours (not in the paper)"


@dataclass(frozen=True)
class _Strip:
    """One printed line: a heading without cells, a published row or a measured one."""

    kind: str  # "block", "ours", "published" or "measured"
    label: str
    cells: tuple[str, ...] = ()
    status: str = ""


def _number(value: float | None, std: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.2f}" + ("" if std is None else f"±{std:.2f}")


def _measured(cell: Cell, reasons: dict[str, int]) -> str:
    """'91.20±0.30 -2.16 ≠'; `reasons` numbers what stands in the way of a comparison."""
    if not cell.seeds:
        return cell.verdict.partition(" (")[0]
    parts = ["undefined" if cell.measured is None else _number(cell.measured, cell.measured_std)]
    mark = {"reproduced": "=", "differs": "≠"}.get(cell.verdict, "")
    if cell.verdict.startswith("not comparable"):
        why = cell.verdict.removeprefix("not comparable (").removesuffix(")")
        mark = f"~{reasons.setdefault(why, len(reasons) + 1)}"
    if cell.difference is not None:
        mark = f"{cell.difference:+.2f} {mark}"
    return " ".join([*parts, mark]).strip()


def _status(line: Line) -> str:
    """How many seeds stand behind a line, or why there are none."""
    seeds = sorted({cell.seeds for cell in line.cells})
    if seeds == [0]:
        return line.cells[0].verdict.partition(" (")[0]  # why stands below the table
    count = "-".join(str(n) for n in dict.fromkeys((seeds[0], seeds[-1])))
    failed = max(cell.failed for cell in line.cells)
    plural = "" if seeds[-1] == 1 else "s"
    return f"{count} seed{plural}" + (f", {failed} failed" if failed else "")


def _strips(table: Table) -> tuple[list[_Strip], list[str]]:
    """The lines of the table in print order, and its numbered reasons."""
    strips, reasons = [], dict[str, int]()
    for section in table.sections:
        strips.append(_Strip("block", section.name, status=section.task))
        for line in (line for line in section.lines if not line.ours):
            published = tuple(_number(cell.published, cell.published_std) for cell in line.cells)
            ran = any(cell.seeds for cell in line.cells)
            strips.append(_Strip("published", line.name, published, "" if ran else _status(line)))
            if ran:
                cells = tuple(_measured(cell, reasons) for cell in line.cells)
                strips.append(_Strip("measured", f"  {line.run}", cells, _status(line)))
        if any(line.ours for line in section.lines):
            strips.append(_Strip("ours", OURS))
        for line in (line for line in section.lines if line.ours):
            ran = any(cell.seeds for cell in line.cells)
            cells = tuple(_measured(cell, reasons) if ran else "" for cell in line.cells)
            strips.append(_Strip("measured", line.name, cells, _status(line)))
    return strips, [f"~{n}: not comparable: {why}" for why, n in reasons.items()]


def _kind(table: Table) -> str:
    if table.data is None:
        return "NOTHING MEASURED YET: published numbers only"
    return f"{table.data.upper()} DATA, profile {table.profile}"


def _head(column: Column) -> str:
    unit = UNITS[column.unit]
    return f"{column.name} [{unit}]" if unit else column.name


def _foot(table: Table, reasons: list[str]) -> list[str]:
    spread = f"published ± is {table.spread}, measured ± over seeds"
    return [
        *((spread if table.spread else "± is over seeds", MARKS) if table.data else ()),
        *reasons,
        *table.basis,
        *(f"! {problem}" for problem in table.problems),
    ]


def show(table: Table, console: Console) -> None:
    """Print the table to a console, in its width and colours."""
    from rich import box
    from rich.measure import Measurement
    from rich.table import Table as Grid
    from rich.text import Text

    styles = {"block": "bold", "ours": "italic", "published": "", "measured": "cyan"}
    strips, reasons = _strips(table)

    def grid(breaks: str, *, fold: bool = False) -> Grid:
        """The table, with a line break in a cell at each match of `breaks`.

        fold: names give way, numbers never do.
        """
        grid = Grid(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
        grid.add_column(Text("Method"), no_wrap=not fold, overflow="fold")
        for column in table.columns:
            head = _head(column).replace(" ", "\n") if fold else _head(column)
            grid.add_column(Text(head), justify="right", no_wrap=fold)
        grid.add_column(Text("Runs"), no_wrap=True)
        for i, strip in enumerate(strips):
            if strip.kind == "block" and i:
                grid.add_section()
            cells = strip.cells or ("",) * len(table.columns)
            cells = tuple(re.sub(breaks, "\n", cell) for cell in cells)
            status = strip.status.replace(", ", ",\n") if strip.kind == "block" else strip.status
            row = (strip.label, *cells, status)
            grid.add_row(*map(Text, row), style=styles[strip.kind])
        return grid

    layouts = [grid(breaks) for breaks in (r"(?!)", r" (?=[+-])", r" (?=[+-])|(?=±)")]
    layouts.append(grid(r" |(?=±)", fold=True))
    unbound = console.options.update(width=10 * WIDTH)
    fitting = [g for g in layouts if Measurement.get(console, unbound, g).maximum <= console.width]
    console.print(Text(f"{table.name}: {table.title}", style="bold"))
    console.print(Text(table.paper))
    console.print(Text(_kind(table), style="bold"))
    console.print((fitting or layouts[-1:])[0])
    for line in _foot(table, reasons):
        console.print(Text(line, style="yellow" if line.startswith("!") else ""))


def text(table: Table) -> str:
    """Plain text, WIDTH columns wide."""
    from rich.console import Console

    out = io.StringIO()
    show(table, Console(file=out, width=WIDTH, color_system=None, highlight=False))
    return "".join(f"{line.rstrip()}\n" for line in out.getvalue().splitlines())


def markdown(table: Table) -> str:
    """GitHub's tables, with the notes as a list below."""

    def safe(part: str) -> str:
        return re.sub(r"([\\`*_\[\]|<>~])", r"\\\1", part)

    strips, reasons = _strips(table)
    heads = ["Method", *(_head(column) for column in table.columns), "Runs"]
    lines = [f"### {table.name}: {safe(table.title)}", "", safe(table.paper), ""]
    lines += [f"**{safe(_kind(table))}**", ""]
    lines += [f"| {' | '.join(map(safe, heads))} |", f"|---|{'---:|' * len(table.columns)}---|"]
    for strip in strips:
        label = safe(strip.label.strip())
        label = {"block": f"**{label}**", "ours": f"*{label}*"}.get(strip.kind, label)
        label = f"&emsp;{label}" if strip.label.startswith(" ") else label
        cells = strip.cells or ("",) * len(table.columns)
        lines.append(f"| {' | '.join([label, *map(safe, (*cells, strip.status))])} |")
    lines += ["", *(f"- {safe(line)}" for line in _foot(table, reasons))]
    return "\n".join(lines) + "\n"


def csv(table: Table) -> str:
    """A row a line: published, measured, difference and verdict of each column side by side.

    The last two columns say of each line with a measured value on what data it was measured.
    """
    heads = ["block", "row", "run"]
    for column in table.columns:
        name = _head(column)
        heads += [name, f"{name} measured", f"{name} std", f"{name} difference"]
        heads += [f"{column.name} seeds", f"{column.name} verdict"]
    rows = []
    for section in table.sections:
        for line in section.lines:
            ran = any(cell.seeds for cell in line.cells)
            kind = (table.data or "", table.profile or "") if ran else ("", "")
            numbers = (part for cell in line.cells for part in _wide(cell))
            rows.append([section.name, line.name, line.run, *numbers, *kind])
    return _csv([*heads, "data", "profile"], rows)


def _wide(cell: Cell) -> list[str]:
    numbers = (cell.published, cell.measured, cell.measured_std, cell.difference)
    return [*map(_plain, numbers), str(cell.seeds), cell.verdict]


def csv_long(table: Table) -> str:
    """One cell a row, columns CSV_COLUMNS; empty where there is no number."""
    rows = []
    for section in table.sections:
        for line in section.lines:
            for column, cell in zip(table.columns, line.cells, strict=True):
                numbers = (cell.published, cell.published_std, cell.measured, cell.measured_std)
                cases = "" if cell.cases is None else str(cell.cases)
                rows.append(
                    [
                        *(table.name, section.name, line.name, column.name),
                        *map(_plain, numbers),
                        *(str(cell.seeds), cases, _plain(cell.difference), cell.verdict),
                        *(column.unit, table.data or "", table.profile or "", cell.note),
                    ]
                )
    return _csv(CSV_COLUMNS, rows)


def _csv(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    out = io.StringIO()
    writer = csv_files.writer(out, lineterminator="\n")
    writer.writerow(heads)
    writer.writerows(rows)
    return out.getvalue()


def _plain(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


TEX: Mapping[str, str] = {
    **{c: f"\\{c}" for c in "&%$#_{}"},
    **{"\\": r"\textbackslash{}", "~": r"$\sim$", "^": r"\textasciicircum{}"},
    **{"±": r"$\pm$", "≠": r"$\neq$", "–": "--", "→": r"$\to$", "<": "$<$"},
    **{">": "$>$", "|": "$|$", "α": r"$\alpha$", "η": r"$\eta$", "γ": r"$\gamma$", "≤": r"$\le$"},
    **{"λ": r"$\lambda$", "×": r"$\times$"},
}


def latex(table: Table) -> str:
    """A `table` environment for booktabs; what could not be used follows as comments."""

    def safe(part: str) -> str:
        return "".join(TEX.get(character, character) for character in part)

    strips, reasons = _strips(table)
    heads = ["Method", *(_head(column) for column in table.columns), "Runs"]
    lines = [
        r"\begin{table}",
        r"\centering\small",
        rf"\caption{{{safe(table.title)} ({safe(table.paper)}). {safe(_kind(table))}.}}",
        rf"\label{{tab:{table.name}}}",
        rf"\begin{{tabular}}{{l{'r' * len(table.columns)}l}}",
        r"\toprule",
        " & ".join(map(safe, heads)) + r" \\",
    ]
    for strip in strips:
        label = safe(strip.label.strip())
        if strip.kind == "block":
            lines.append(r"\midrule")
            label = rf"\textbf{{{label}}}"
        elif strip.kind == "ours":
            label = rf"\textit{{{label}}}"
        elif strip.label.startswith(" "):
            label = rf"\quad {label}"
        cells = strip.cells or ("",) * len(table.columns)
        lines.append(" & ".join([label, *map(safe, (*cells, strip.status))]) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}", "", r"\smallskip\footnotesize\raggedright"]
    notes = [line for line in _foot(table, reasons) if not line.startswith("!")]
    lines += [safe(line) + r"\par" for line in notes]
    lines += [r"\end{table}", *(f"% {' '.join(problem.split())}" for problem in table.problems)]
    return "\n".join(lines) + "\n"


FORMATS: Mapping[str, Callable[[Table], str]] = {
    "text": text,
    "markdown": markdown,
    "csv": csv,
    "latex": latex,
}
SUFFIXES = {"csv": ".csv", "markdown": ".md", "latex": ".tex"}
