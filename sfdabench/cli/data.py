"""`sfdabench data`: describe, verify, download and synthesise data sets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from sfdabench.cli import options
from sfdabench.cli.groups import Group
from sfdabench.core.errors import BadInput

if TYPE_CHECKING:
    from sfdabench.core.dataset import Dataset


@click.group(cls=Group)
def data() -> None:
    """Describe, verify, download and synthesise data sets."""


def _dataset(name: str) -> Dataset:
    from sfdabench.core.registry import load

    return load("datasets", name)()


@data.command(name="describe")
@click.argument("name")
@options.plugins
def data_describe(name: str) -> None:
    """Print the licence, the citation, where to register, and the expected tree."""
    from sfdabench.report.describe import describe_entry

    click.echo(describe_entry("datasets", name))


@data.command(name="verify")
@click.argument("name")
@options.option("data")
@options.plugins
def data_verify(name: str, data: Path | None) -> int:
    """Read every image and mask, and report all faults at once."""
    from sfdabench.core.paths import data_root
    from sfdabench.core.progress import Progress
    from sfdabench.prepare.verify import verify

    root = data_root(data)
    if root is None:
        raise BadInput("data verify: give --data DIR or set SFDABENCH_DATA")
    with Progress().stage(f"verify {name}") as advance:
        report = verify(_dataset(name), root, advance=advance)
    click.echo(str(report))
    return 2 if report.faults else 0


@data.command(name="fetch")
@click.argument("name")
@click.option("--out", type=options.PATH, required=True, help="Folder to download to.")
def data_fetch(name: str, out: Path) -> None:
    """Download what is openly available and verify its checksums.

    After an interruption the same command goes on.
    """
    from sfdabench.core.registry import canonical
    from sfdabench.prepare.fetch import fetch

    _dataset(name)
    root = fetch(canonical("datasets", name), out, say=lambda line: click.echo(line, err=True))
    click.echo(f"{name} in {root}; next: sfdabench data verify {name} --data {root}")


@data.command(name="phantom")
@click.argument("name")
@click.option("--out", type=options.PATH, required=True, help="New folder for the cases.")
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the drawing."
)
@options.plugins
def data_phantom(name: str, out: Path, seed: int) -> None:
    """Write the synthetic cases of a data set in its authors' layout."""
    from sfdabench.core.paths import check_writable

    dataset = _dataset(name)
    check_writable(out, "--out")
    if out.exists() and any(out.iterdir()):
        raise BadInput(f"--out {out}: not empty; name a new folder")
    dataset.phantom(out, seed)
    click.echo(f"{len(dataset.cases(out))} synthetic cases of {name} in {out}")
