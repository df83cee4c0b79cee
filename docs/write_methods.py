"""Write docs/methods/: a page a method, from its docstring, fields, records and benchmark rows.

python docs/write_methods.py --results results/phantom
"""

from __future__ import annotations

import argparse
import inspect
import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from sfdabench.core import registry
from sfdabench.core.errors import BadInput
from sfdabench.core.fields import override
from sfdabench.core.method import Method
from sfdabench.report import benchmark, runs
from sfdabench.report.describe import field_rows
from sfdabench.report.figures import curves, style
from sfdabench.store.labels import label
from sfdabench.store.records import Record

OUT = Path(__file__).parent / "methods"
PROTOCOL = "strict"


def first_sentence(text: str) -> str:
    """What stands before the first full stop that ends a sentence, in one line."""
    words = " ".join(inspect.cleandoc(text).partition("\n\n")[0].split())
    return words.partition(". ")[0].rstrip(".") + "."


def comparisons(results: Path) -> tuple[list[runs.Comparison], list[str]]:
    """One a task with finished runs and their unadapted scores; a line on what is left out."""
    found, problems = [], []
    for task in registry.names("tasks"):
        if not (results / task).is_dir():
            continue
        try:
            compared = runs.compare(results, task, protocol=PROTOCOL).only([])
            for run in (run for variant in compared.variants for run in variant.runs):
                compared.unadapted(run)
        except BadInput as error:
            problems.append(str(error))
        else:
            found.append(compared)
            problems += compared.problems
    return found, list(dict.fromkeys(problems))


def variants_of(name: str, compared: runs.Comparison) -> list[runs.Variant]:
    """The recorded variants of a method, alone or at the end of a chain."""
    return [v for v in compared.variants if v.runs[0].chain[-1] == name]


def dice(found: Sequence[Record]) -> list[str]:
    """Mean over seeds (standard deviation) of each class, in percent."""
    cells = []
    for class_ in found[0].scores[PROTOCOL]:
        means = [run.scores[PROTOCOL][class_]["dice"].mean for run in found]
        values = [100 * mean for mean in means if mean is not None]
        spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
        cells.append(f"{statistics.fmean(values):.1f}{spread}" if values else "–")
    return cells


def measured(name: str, compared: runs.Comparison) -> Iterator[str]:
    """The table of a method's variants on one task, the unadapted model first."""
    found = variants_of(name, compared)
    if not found:
        return
    first = found[0].runs
    classes = [c.replace("_", " ") for c in first[0].scores[PROTOCOL]]
    yield f"### {compared.task} ({compared.data} data, {compared.profile} profile)"
    yield ""
    yield f"| run | seeds | {' | '.join(classes)} | best epoch above the last |"
    yield f"|---|---|{'---|' * len(classes)}---|"
    if name != "source_only":
        before = [compared.unadapted(run) for run in first]
        yield f"| `source_only` | {len(first)} | {' | '.join(dice(before))} | |"
    for variant in found:
        gaps = [100 * run.audit.gap[PROTOCOL] for run in variant.runs if run.audit]
        gap = f"{statistics.fmean(gaps):.1f}" if gaps else ""
        cells = " | ".join(dice(variant.runs))
        yield f"| `{variant.label}` | {len(variant.runs)} | {cells} | {gap} |"
    yield ""


def rows_in_papers(name: str) -> Iterator[str]:
    """Where the papers' tables ask for this method, and with which fields."""
    for table, (_, paper) in benchmark.find()[0].items():
        for row in paper.table(table).rows:
            if row.method.split("+")[-1] == name and not row.ours:
                yield f"| `{table}` | {row.name} | `{label(row.method, row.overrides)}` |"


def page(name: str, compared: list[runs.Comparison]) -> str:
    """The page of one method, in Markdown."""
    entry: type[Method] = registry.load("methods", name)
    needs = entry().needs
    lines = [f"# {name}", ""]
    lines += [(inspect.getdoc(inspect.getmodule(entry)) or "").replace("\n", " "), ""]
    lines += ["```text", inspect.cleandoc(entry.__doc__ or ""), "```", ""]
    if entry.paper:
        lines += [f"Paper: {entry.paper.title}, {entry.paper.venue}, {entry.paper.url}", ""]
    lines += [
        f"Setting: {needs.setting}. Heads: {', '.join(map(str, needs.heads))}. "
        f"Changes: {', '.join(sorted(needs.changes)) or 'nothing'}. "
        f"Network: {', '.join(sorted(needs.network)) or 'any'}.",
        "",
    ]
    for other, preset in registry.variants(name).items():
        setting = override(entry(), preset, owner=name).needs.setting
        lines += [f"`{other}` is another name for `{label(name, {name: preset})}`: {setting}.", ""]
    if fields := field_rows(entry):
        lines += ["## Fields", "", "| `--set` | default | takes | from |", "|---|---|---|---|"]
        lines += [f"| `{f}` | `{d!r}` | {t} | {o} |" for f, d, t, o in fields]
        lines.append("")
    if rows := list(rows_in_papers(name)):
        lines += ["## In the papers' tables", "", "| table | row | run |", "|---|---|---|", *rows]
        lines.append("")
    results = [line for one in compared for line in measured(name, one)]
    if results:
        lines += [
            "## Measured",
            "",
            f"Dice in %, protocol `{PROTOCOL}`, mean ± standard deviation over seeds. The best "
            "epoch is picked on test labels (an oracle), and no run deploys it.",
            "",
            *results,
        ]
    if (OUT / f"{name}.svg").exists():
        lines += [f"![Dice by epoch of adaptation]({name}.svg)", ""]
    return "\n".join(lines).rstrip() + "\n"


def picture(name: str, compared: list[runs.Comparison]) -> None:
    """The adaptation curve on the first task that recorded one; deletes one that has no source."""
    for old in OUT.glob(f"{name}.*g"):
        old.unlink()
    for one in compared:
        moving = [v.label for v in variants_of(name, one) if all(r.audit for r in v.runs)]
        if moving:
            figure = curves.draw(one.only(moving[:3]), PROTOCOL, f"{name}: Dice by epoch")
            png, _ = style.save(figure, OUT, name)
            png.unlink()  # a page needs one of the two
            return


def index() -> str:
    """The list of all pages."""
    lines = ["# Methods", "", "Written by `python docs/write_methods.py`.", ""]
    lines += ["| method | setting | what it is |", "|---|---|---|"]
    for name in registry.names("methods"):
        entry: type[Method] = registry.load("methods", name)
        title = first_sentence(entry.__doc__ or "")
        lines.append(f"| [{name}]({name}.md) | {entry().needs.setting} | {title} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write every page, its picture and the index."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=Path("results/phantom"))
    compared, problems = comparisons(parser.parse_args().results)
    for problem in problems:
        sys.stderr.write(f"{problem}\n")
    OUT.mkdir(exist_ok=True)
    for name in registry.names("methods"):
        picture(name, compared)
        (OUT / f"{name}.md").write_text(page(name, compared), encoding="utf-8")
    (OUT / "README.md").write_text(index(), encoding="utf-8")


if __name__ == "__main__":
    main()
