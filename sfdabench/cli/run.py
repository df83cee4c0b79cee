"""`sfdabench run`: one method on one task, over one or several seeds."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

import click

from sfdabench.cli import options
from sfdabench.core.errors import BadInput
from sfdabench.run.request import FLAGS, RunRequest

if TYPE_CHECKING:
    from sfdabench.run.plan import Run
    from sfdabench.store.records import Record


@click.command()
@options.request(*FLAGS)
@click.option(
    "--seeds", type=click.IntRange(min=1), default=1, help="How many seeds: SEED, SEED+1, ..."
)
@click.option("--force", is_flag=True, help="Adapt and score again; source stages stay.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a run.")
@options.plugins
def run(request: RunRequest, seeds: int, force: bool, as_json: bool) -> int:
    """Adapt a source model to a task's target, score it, and keep a record.

    Without data the task runs on its phantom, and says so.
    """
    from sfdabench.core.paths import from_here
    from sfdabench.core.progress import Progress
    from sfdabench.report import plans, scores
    from sfdabench.store.records import read

    progress = Progress()
    if force or not _any_record(request):
        from sfdabench.confine import client

        client.prepare()  # torch is loaded while the data are looked for
    numbers = range(request.seed, request.seed + seeds)
    first = request.resolve(progress)  # so what is wrong with a flag is said before any work
    failures = 0
    for seed in numbers:
        each = first
        if seed != request.seed:
            each = dataclasses.replace(request, seed=seed, verify_data=False).resolve(progress)
        progress.say(plans.heading(each))
        path, record = each.record_path, None
        if path.exists() and not force:
            record = read(path)
        if record is None or not record.done:
            from sfdabench.run.runner import execute

            record = execute(each, progress, force=force)
        else:
            progress.say(f"found {from_here(path)}")
        failures += not record.done
        before = _unadapted(record, each) if record.done else None
        if as_json:
            click.echo(json.dumps(scores.summary(record, before, path)))
        elif not record.done:
            click.echo(scores.failure(record, path), err=True)
        else:
            click.echo(scores.comparison(record, before, path))
    return 1 if failures else 0


def _any_record(request: RunRequest) -> bool:
    """Whether there is any record of the method on the task, so that this run may be there too."""
    from sfdabench.core import registry
    from sfdabench.store.records import record_path

    task = registry.canonical("tasks", request.task)
    parts = [registry.resolve("methods", part)[0] for part in request.method.split("+")]
    folder = record_path(request.out, task, "+".join(parts), "").parent
    return any(folder.glob("*.json"))


def _unadapted(record: Record, run: Run) -> Record | None:
    """The record of the source model, to compare with; a line says where it is missing."""
    from sfdabench.store.records import unadapted_of

    try:
        return unadapted_of(record, run.out)
    except BadInput as error:
        click.echo(f"sfdabench: {error}; no unadapted scores to compare with", err=True)
        return None
