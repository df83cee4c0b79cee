"""What is going to run and what came of it, for the terminal: a run, a sweep, a regression."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sfdabench.report import terminal
from sfdabench.report.units import duration

if TYPE_CHECKING:
    from sfdabench.campaign.regress import Regression
    from sfdabench.campaign.sweep import Sweep
    from sfdabench.run.plan import Run


def heading(run: Run) -> str:
    """What a run is, in a line."""
    data = "PHANTOM data (synthetic; no --data given)" if run.data == "phantom" else "real data"
    note = "; learns from the cases it is scored on" if run.scored_on_training_cases else ""
    name = f"{run.method_name} on {run.task_name}, seed {run.seed}"
    return f"{name}: {data}, {run.profile} profile{note}"


def sweep(planned: Sweep) -> str:
    """The plan of a sweep: a row a run, with its state and the time that it will take."""
    from rich.table import Table
    from rich.text import Text

    first = planned.planned[0].run
    label = "PHANTOM" if first.data == "phantom" else "real"
    table = Table(title=f"{label} data, {first.profile} profile")
    for column in ("state", "task", "method", "seed", "estimate"):
        table.add_column(column)
    for row in planned.planned:
        job = row.job
        time = "" if row.state != "to run" else "unknown"
        time = time if row.seconds is None else duration(row.seconds)
        table.add_row(*map(Text, (row.state, job.task, job.method, str(job.seed), time)))
    for skipped in planned.skipped:
        table.add_row(*map(Text, ("cannot run", skipped.task, skipped.method, "", skipped.reason)))
    return terminal.text(table, at_least=100)


def sweep_results(results: Mapping[str, Any]) -> str:
    """A line for each run that failed, and how many runs ended how; of `campaign.sweep.results`."""
    lines = [
        f"failed {run['method']} on {run['task']}, seed {run['seed']}: {run['reason']}"
        for run in results["runs"]
        if run["state"] == "failed"
    ]
    counts = ", ".join(f"{count} {state}" for state, count in results["counts"].items())
    return "\n".join([*lines, counts])


def regression(result: Regression) -> str:
    """A line for each fault of a regression, and the counts."""
    lines = [f"failed {outcome.job.name}: {outcome.reason}" for outcome in result.failed]
    lines += [f"{change.state} {change}" for change in result.changes]
    lines += [f"claim fails: {claim}" for claim in result.claims]
    lines += [
        f"blind {score.name}: {score.value:.4f} with a tolerance of {score.tolerance:.4f}; "
        "a method that predicts nothing would pass"
        for score in result.blind
    ]
    states = Counter(change.state for change in result.changes)
    counts = "".join(f", {states[name]} {name}" for name in ("moved", "lost", "new", "within"))
    lines.append(
        f"{result.measured} scores measured{counts}; {len(result.claims)} claims and "
        f"{len(result.failed)} runs failed"
    )
    if result.rule:
        lines.append(result.rule)
    return "\n".join(lines)
