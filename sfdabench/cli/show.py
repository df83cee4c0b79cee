"""`sfdabench list`, `show`, `check`, `new` and `doctor`: what is there, and whether it is sound."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from sfdabench.cli import options
from sfdabench.cli.groups import Group
from sfdabench.core.errors import BadInput
from sfdabench.core.near import unknown

KINDS = ("methods", "tasks", "datasets", "networks", "protocols", "stages", "tables")


@click.command(name="list")
@click.argument("kind", metavar="|".join(KINDS))
@options.plugins
def list_(kind: str) -> None:
    """List the entries of a kind."""
    if kind not in KINDS:
        raise BadInput(unknown("kind", kind, KINDS))
    if kind == "tables":
        from sfdabench.report.tables import list_tables

        for name in list_tables():
            click.echo(name)
        return
    from sfdabench.core.registry import names

    for name in names(kind):
        click.echo(name)


@click.command()
@click.argument("name")
@options.plugins
def show(name: str) -> None:
    """Show an entry: what it is, where it comes from, its fields and their defaults."""
    from sfdabench.confine import client
    from sfdabench.core import registry
    from sfdabench.report.describe import describe_job

    for i, kind in enumerate(registry.kinds_of(name)):
        page = client.here_or_confined(describe_job, {"kind": kind, "name": name})
        click.echo(("\n" if i else "") + page)


@click.command()
@click.argument("name")
@options.plugins
def check(name: str) -> int:
    """Hold an entry against its contract, on a toy problem, in seconds.

    Its code runs in a confined process, as it does in a run.
    """
    from sfdabench.checks import check_confined

    outcomes = check_confined(name)
    for outcome in outcomes:
        mark = "ok  " if outcome.passed else "FAIL"
        click.echo(f"{mark} {outcome.name}" + (f": {outcome.detail}" if outcome.detail else ""))
    failed = sum(not outcome.passed for outcome in outcomes)
    click.echo(f"{len(outcomes) - failed} of {len(outcomes)} contracts hold")
    return 1 if failed else 0


@click.group(cls=Group)
def new() -> None:
    """Write the skeleton of an entry."""


@new.command(name="method")
@click.argument("name")
@click.option(
    "--out",
    type=options.PATH,
    default=Path("plugins"),
    show_default=True,
    help="Plug-in folder; `--out sfdabench` inside a checkout adds it to the suite.",
)
def new_method(name: str, out: Path) -> None:
    """Write methods/NAME.py under --out, ready to run and to check."""
    from sfdabench.checks.skeleton import write_method

    path = write_method(name, out)
    flag = "" if out.name == "sfdabench" else f" --plugins {shlex.quote(str(out))}"
    click.echo(
        f"wrote {path}\nnext: sfdabench check {name}{flag}\n"
        f"then: sfdabench run --method {name} --task refuge2rimone{flag}"
    )


@click.command()
def doctor() -> int:
    """Check this installation: versions, device, folders, speed settings."""
    from sfdabench.checks.doctor import examine

    lines, healthy = examine()
    for line in lines:
        click.echo(line)
    return 0 if healthy else 1
