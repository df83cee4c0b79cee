"""`sfdabench regress`: the reference runs again, and what moved."""

from __future__ import annotations

import json
from functools import partial

import click

from sfdabench.campaign.reference import TIERS, Tier
from sfdabench.cli import options
from sfdabench.core.errors import BadInput


@click.command()
@click.option("--task", "tasks", multiple=True, metavar="NAME", help="Only this task; repeatable.")
@click.option("--method", "methods", multiple=True, metavar="NAME", help="Only this method.")
@click.option(
    "--tier",
    type=click.Choice(TIERS),
    default="full",
    show_default=True,
    help="Small: every method once, on a task for each head.",
)
@options.jobs
@click.option("--update", is_flag=True, help="Write what is measured as the reference.")
@click.option("--reason", help="Why the scores may move: a line of the change log. With --update.")
@click.option("--learn", is_flag=True, help="Where all is sound: this machine may move nothing.")
@click.option("--json", "as_json", is_flag=True, help="One object on standard output.")
@options.plugins
def regress(
    tasks: tuple[str, ...],
    methods: tuple[str, ...],
    tier: Tier,
    jobs: int,
    update: bool,
    reason: str | None,
    learn: bool,
    as_json: bool,
) -> int:
    """Repeat the runs of results/reference on the phantom and say which scores moved.

    Exit code 1 where a score moved beyond its tolerance, on a known machine at all, and where a
    claim fails or a run does.
    """
    from sfdabench.campaign import regress as regression
    from sfdabench.core.progress import Progress
    from sfdabench.report import plans

    progress, folder = Progress(), regression.default_folder()
    if update and not (reason or "").strip():
        raise BadInput("--update: say with --reason TEXT why the scores may move")
    if reason is not None and not update:
        raise BadInput("--reason: goes with --update; without it nothing is written")
    if learn and update:
        raise BadInput("--learn: --update makes this machine known too; give one of them")
    if update and tier != "full":
        raise BadInput(
            f"--tier {tier}: not with --update, which renews source models with all that starts "
            "from them; choose by --task and --method"
        )
    call = partial(regression.regress, tier=tier, learn=learn)
    if learn:
        regression.check_learns()
    if update:
        changelog = regression.changelog_folder()
        call = partial(regression.update, changelog=changelog, reason=str(reason))
    try:
        result = call(folder, tasks=tasks, methods=methods, jobs=jobs, progress=progress)
    except KeyboardInterrupt:
        raise click.Abort("interrupted; nothing is written, and the next one starts anew") from None
    click.echo(json.dumps(result.summary) if as_json else plans.regression(result))
    return 1 if result.failed or result.claims or not (update or result.sound) else 0
