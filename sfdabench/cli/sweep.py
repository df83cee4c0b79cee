"""`sfdabench sweep`: all runs of a benchmark."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING

import click

from sfdabench.cli import options
from sfdabench.run.request import FLAGS, RunRequest

if TYPE_CHECKING:
    from sfdabench.campaign.workers import Outcome

# The benchmark says the others; a source model is made from one task's source; and a sweep would
# hash all data once a run.
NOT_SHARED = ("method", "task", "settings", "source", "verify_data")
SHARED = [name for name in FLAGS if name not in NOT_SHARED]


@click.command()
@click.argument("benchmark")
@click.option("--task", "tasks", multiple=True, metavar="NAME", help="Only this task; repeatable.")
@options.request(*SHARED)
@click.option(
    "--seeds",
    type=click.IntRange(min=1),
    help="How many seeds, from --seed on. Default: as many as the benchmark asks for.",
)
@options.jobs
@click.option("--dry-run", is_flag=True, help="Show the plan and stop.")
@click.option("--retry-failed", is_flag=True, help="Run again what has a record of a failure.")
@click.option("--json", "as_json", is_flag=True, help="One object on standard output.")
@options.plugins
def sweep(
    request: RunRequest,
    benchmark: str,
    tasks: tuple[str, ...],
    seeds: int | None,
    jobs: int,
    dry_run: bool,
    retry_failed: bool,
    as_json: bool,
) -> int:
    """Run all that the tables and figures of BENCHMARK ask for and that has no record yet.

    BENCHMARK: a folder of benchmarks/ by its name, such as cbmt, or a folder with a
    benchmark.toml. After an interruption the same command goes on.
    """
    from sfdabench.campaign.board import board
    from sfdabench.campaign.sweep import plan, results
    from sfdabench.campaign.workers import Servers, carry_out, threads
    from sfdabench.core.progress import Progress
    from sfdabench.report import plans

    progress = Progress()
    ended: list[Outcome] = []
    interrupted = False
    with Servers(threads(jobs)) as servers:
        if not dry_run:
            servers.start()  # they load what they need while the runs are planned
        planned = plan(
            benchmark,
            request,
            seeds=seeds,
            tasks=tasks,
            retry_failed=retry_failed,
            progress=progress,
        )
        if not as_json:
            click.echo(plans.sweep(planned))
        progress.say(planned.sharing())
        progress.say(planned.forecast(jobs))
        for problem in planned.problems:
            progress.say(problem)
        if not dry_run and planned.jobs:
            share = threads(min(jobs, len(planned.jobs)))
            with board(len(planned.jobs)) as display:
                outcomes = carry_out(
                    planned.jobs, at_once=jobs, variables=share, board=display, servers=servers
                )
                try:
                    with contextlib.closing(outcomes):
                        ended.extend(outcomes)
                except KeyboardInterrupt:
                    interrupted = True
    result = results(planned, ended)
    if as_json:
        click.echo(json.dumps(result))
    elif not dry_run:
        click.echo(plans.sweep_results(result))
    if interrupted:
        raise click.Abort
    return 1 if result["counts"]["failed"] and not dry_run else 0
