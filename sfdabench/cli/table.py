"""`sfdabench table`: published numbers beside the measured ones."""

from __future__ import annotations

from pathlib import Path

import click

from sfdabench.cli import options
from sfdabench.core.errors import BadInput


@click.command()
@click.argument("name", required=False)
@options.results
@click.option(
    "--format",
    "fmt",
    type=click.Choice(["text", "markdown", "csv", "latex"]),
    default="text",
    show_default=True,
)
@click.option("--kind", type=options.KIND_OF_DATA, help="Of data. Default: real if there is any.")
@click.option("--profile", help="Only records of this profile.")
@click.option("--long", "as_long", is_flag=True, help="CSV with one cell a row.")
@click.option("--all", "every", is_flag=True, help="All tables as CSV, Markdown and LaTeX.")
@click.option("--out", type=options.PATH, help="Write to this file, or folder with --all.")
@options.plugins
def table(
    name: str | None,
    results: Path,
    fmt: str,
    kind: str | None,
    profile: str | None,
    as_long: bool,
    every: bool,
    out: Path | None,
) -> None:
    """Set each published number of a paper's table beside the measured one, with a verdict.

    Without NAME: all tables, with how many of their cells are measured.
    """
    from sfdabench.report import files, render, tables

    if every:
        if name is not None or out is None:
            raise BadInput("table --all: give no NAME, and --out DIR to write all tables to")
        if fmt != "text":
            raise BadInput(f"--format {fmt}: --all writes every format; leave it out")
        built, problems = tables.build_all(results, kind=kind, profile=profile)
        for path in files.write_tables(built, out, long=as_long):
            click.echo(f"wrote {path}", err=True)
    elif name is None:
        if out is not None:
            raise BadInput(f"--out {out}: name a table, or give --all for a folder of all tables")
        if as_long or fmt != "text":
            flag = "--long" if as_long else f"--format {fmt}"
            raise BadInput(f"{flag}: name a table, or give --all --out DIR; without a name they "
                           "are listed")  # fmt: skip
        summaries, problems = tables.summaries(results, kind=kind, profile=profile)
        for each in summaries:
            click.echo(f"{each.name}: {each.title}; {each.measured} of {each.cells} cells measured")
    else:
        if as_long and fmt != "csv":
            raise BadInput(f"--long: for --format csv, not {fmt}")
        single = tables.build(name, results, kind=kind, profile=profile)
        text = render.csv_long(single) if as_long else render.FORMATS[fmt](single)
        problems = list(single.problems) if fmt == "csv" else []  # others print them below
        if out is None:
            click.echo(text, nl=not text.endswith("\n"))
        else:
            click.echo(f"wrote {files.write_text(out, text)}", err=True)
    for problem in problems:
        click.echo(f"sfdabench: {problem}", err=True)
