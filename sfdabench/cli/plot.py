"""`sfdabench plot`: the figures."""

from __future__ import annotations

from typing import Any

import click

from sfdabench.cli import options
from sfdabench.core.errors import BadInput


@click.command()
@click.argument("figure", required=False)
@click.argument("table_name", metavar="[TABLE]", required=False)
@options.results
@click.option("--out", type=options.PATH, help="Default: figures.")
@click.option("--task", help="Default: that of the figure, or the only one recorded.")
@click.option(
    "--method",
    "methods",
    multiple=True,
    metavar="LABEL",
    help='A run as legends name it, such as cbmt or "cbmt alpha=0.5". Default: all recorded.',
)
@click.option("--kind", type=options.KIND_OF_DATA, help="Of data, where both are recorded.")
@click.option("--profile", help="Where several are recorded.")
@click.option("--protocol", help="Default: the paper's for its figures, else strict.")
@click.option("--metric", help="Of bars. Default: dice.")
@click.option("--field", help="Of sweep: the field of the method.")
@click.option(
    "--by", help="Of grid: the run that ranks the cases. Default: the last that is no oracle."
)
@options.option("seed", default=None, help="Of grid, tsne and translations. Default: the first.")
@options.option("data", help="Of grid and tsne.")
@options.option("device", default=None, help="Of grid and tsne.")
@options.plugins
def plot(figure: str | None, table_name: str | None, **flags: Any) -> None:
    """Draw a figure from the records, as PNG and SVG.

    Without FIGURE: the names of all figures. TABLE is for bars only.
    """
    if figure is None:
        usual = {param.name: param.default for param in click.get_current_context().command.params}
        for name, value in flags.items():
            if value not in (None, (), usual[name]):
                flag = {"methods": "method"}.get(name, name)
                raise BadInput(f"--{flag}: name a figure; without one they are listed")
        from sfdabench.report.figures.catalogue import figures

        entries, problems = figures()
        for name, entry in entries.items():
            click.echo(f"{name}: {entry.title}")
        for problem in problems:
            click.echo(f"sfdabench: {problem}", err=True)
        return
    from sfdabench.core.progress import Progress
    from sfdabench.present.plot import Request
    from sfdabench.present.plot import plot as draw

    for path in draw(Request(figure, table=table_name, **flags), Progress()):
        click.echo(f"wrote {path}", err=True)
