"""`sfdabench adapt`: a source model on a folder of unlabelled images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from sfdabench.cli import options


@click.command()
@click.option(
    "--source",
    required=True,
    metavar="FILE|NAME",
    help="Weights (.safetensors, .pth), or a source model in the cache.",
)
@click.option("--images", required=True, type=options.PATH, help="Folder of photographs or NIfTI.")
@options.option("method")
@click.option("--out", required=True, type=options.PATH, help="New folder for model and masks.")
@click.option("--task", help="Whose classes and preprocessing. Default: the imported model's.")
@click.option("--network", help="Of a FILE. Default: what the file says, else the profile's.")
@click.option("--profile", default="paper", show_default=True, help="Whose sizes and schedules.")
@options.option("settings")
@options.option("source_settings", help="Of a FILE: size, or a field of its network.")
@options.option("seed")
@options.option("device")
@options.option("precision")
@options.plugins
def adapt(**flags: Any) -> None:
    """Adapt a source model to images of your own and predict them: no labels, no scores."""
    from sfdabench.core.progress import Progress
    from sfdabench.present.own import Asked
    from sfdabench.present.own import adapt as adapt_to

    out: Path = flags["out"]
    adapted = adapt_to(Asked(**flags), Progress())
    folders = sorted({path.parent.relative_to(out).as_posix() for path in adapted.masks})
    click.echo(f"{len(adapted.masks)} masks in {out}: {', '.join(folders)}")
    click.echo(f"model: {adapted.weights}\ndescription: {adapted.description}")
