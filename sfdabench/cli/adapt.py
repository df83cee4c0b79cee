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
    help="File of weights (.safetensors, .pth, .pt), or a name from `sfdabench source list`.",
)
@click.option(
    "--images",
    required=True,
    type=options.PATH,
    help="Folder, with its sub-folders, of photographs or NIfTI volumes; no labels.",
)
@options.option("method")
@click.option(
    "--out", required=True, type=options.PATH, help="New folder for the masks and the model."
)
@click.option(
    "--task",
    help="Task whose classes and preprocessing the model has. Default: what it was imported for.",
)
@click.option(
    "--network",
    help="Network of a FILE. Default: what the file says, else the profile's.",
)
@click.option(
    "--profile", default="paper", show_default=True, help="Profile of the sizes and schedules."
)
@options.option("settings")
@options.option("source_settings", help="For a FILE: size=PIXELS, or a field of its network.")
@options.option("seed")
@options.option("device")
@options.option("precision")
@options.plugins
def adapt(**flags: Any) -> None:
    """Adapt a source model to images of your own and predict them: no labels, no scores.

    --out gets masks/, a mask for each image on its own grid; model.safetensors, the adapted model;
    and adapted.json, which says what was done and what the values of the masks mean.
    """
    from sfdabench.core.progress import Progress
    from sfdabench.present.own import Asked
    from sfdabench.present.own import adapt as adapt_to

    out: Path = flags["out"]
    adapted = adapt_to(Asked(**flags), Progress())
    folders = sorted({path.parent.relative_to(out).as_posix() for path in adapted.masks})
    click.echo(f"{len(adapted.masks)} masks in {out}: {', '.join(folders)}")
    for name, images in adapted.empty.items():
        if images:
            more = f" and {len(images) - 5} more" if len(images) > 5 else ""
            listed = ", ".join(images[:5])
            click.echo(f"no {name} in {len(images)} of the images: {listed}{more}")
    click.echo(f"model: {adapted.weights}\ndescription: {adapted.description}")
