"""Print the tables of results/README.md, one a task below a folder of results.

python docs/write_results.py results/real-fundus-128px refuge2drishti [--distances]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import fmean

from sfdabench.report import runs
from sfdabench.report.runs import Variant
from sfdabench.store.records import Record

PROTOCOL = "strict"


def over_seeds(values: list[float]) -> str:
    """The mean, and each seed behind it where there are several."""
    each = " / ".join(f"{value:.1f}" for value in values)
    return f"{fmean(values):.1f}" + (f" ({each})" if len(values) > 1 else "")


def table(compared: runs.Comparison, *, distances: bool) -> Iterator[str]:
    """Dice of each class, ASSD if asked for, missed masks a run, and the gap of the audit."""
    classes = list(compared.variants[0].runs[0].scores[PROTOCOL])
    names = [name.replace("_", " ") for name in classes]
    heads = names + ([f"{name} ASSD" for name in names] if distances else [])
    most = max(len(variant.runs) for variant in compared.variants)
    yield f"| method | {' | '.join(heads)} | empty | best epoch above last |"
    yield f"|---|{'---|' * (len(heads) + 2)}"
    for variant in compared.variants:
        fewer = "" if len(variant.runs) == most else f" [seeds: {len(variant.runs)}]"
        cells = [over_seeds(_means(variant, name, "dice", 100)) for name in classes]
        if distances:
            cells += [f"{fmean(_means(variant, name, 'assd', 1)):.1f}" for name in classes]
        cells.append(f"{fmean(map(_missed, variant.runs)):.1f}".removesuffix(".0"))
        gaps = [
            100 * run.audit.gap[PROTOCOL]
            for run in variant.runs
            if run.audit and len(run.audit.epochs) > 1
        ]
        cells.append(f"{fmean(gaps):.1f}" if gaps else "")
        yield f"| {variant.name}{fewer} | {' | '.join(cells)} |"


def _means(variant: Variant, name: str, metric: str, scale: float) -> list[float]:
    means = (run.scores[PROTOCOL][name][metric].mean for run in variant.runs)
    return [scale * mean for mean in means if mean is not None]


def _missed(run: Record) -> int:
    """Predictions without a pixel where the reference has some."""
    return sum(one.prediction - one.both for one in run.empties[PROTOCOL].values())


def main(say: Callable[[str], None] = print) -> None:
    """Print the table of a task."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument("task")
    parser.add_argument("--distances", action="store_true")
    asked = parser.parse_args()
    compared = runs.compare(asked.results, asked.task, protocol=PROTOCOL).only([])
    for line in table(compared, distances=asked.distances):
        say(line)


if __name__ == "__main__":
    main()
