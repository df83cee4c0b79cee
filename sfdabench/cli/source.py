"""`sfdabench source`: import source models; list, show and export those in the cache."""

from __future__ import annotations

import json
from pathlib import Path

import click

from sfdabench.cli import options
from sfdabench.cli.groups import Group


@click.group(cls=Group)
def source() -> None:
    """Import, list, show and export source models."""


@source.command(name="import")
@click.argument("file", type=options.PATH)
@click.option("--task", required=True, help="Task whose classes and images it is for.")
@click.option(
    "--network",
    help="A name from `sfdabench list networks`. Default: what the file says, else the profile's.",
)
@click.option("--name", help="What --source will call it. Default: the file's name.")
@click.option(
    "--profile", default="paper", show_default=True, help="Profile whose size and network it has."
)
@options.option("source_settings", help="size=PIXELS, or a field of its network, such as width=16.")
@options.plugins
def import_(
    file: Path,
    task: str,
    network: str | None,
    name: str | None,
    profile: str,
    source_settings: tuple[str, ...],
) -> None:
    """Import a trained segmenter of your own: safetensors, or a state dict of torch.save.

    FILE is copied into the cache. `sfdabench run --source NAME` then needs no source data.
    """
    from sfdabench.core.paths import cache_root
    from sfdabench.run import sources

    artefact = sources.import_file(
        file,
        cache=cache_root(),
        task=task,
        network=network,
        profile=profile,
        settings=source_settings,
        name=name,
    )
    called = sources.name_of(artefact.stage)
    click.echo(
        f"{called}: {artefact.stage.network}, weights {artefact.card.sha256[:12]}\n"
        f"next: sfdabench run --method cbmt --task {task} --source {called} --data DIR"
    )


@source.command(name="list")
def list_() -> None:
    """List the source models in the cache, imported and trained.

    A line on standard error says of each that cannot be read why, and how to mend it.
    """
    from sfdabench.core.paths import cache_root
    from sfdabench.report import artefacts
    from sfdabench.run import sources

    models, faults = sources.every_and_faults(cache_root())
    click.echo(artefacts.source_table([sources.row(model) for model in models]))
    for line in faults:
        click.echo(line, err=True)


@source.command()
@click.argument("name")
def show(name: str) -> None:
    """Show what a source model was made from, as JSON. NAME is one of `source list`."""
    from sfdabench.core.paths import cache_root
    from sfdabench.run import sources

    card = sources.find_artefact(cache_root(), name).card
    click.echo(json.dumps(card.model_dump(mode="json"), indent=1))


@source.command()
@click.argument("name")
@click.argument("file", type=options.PATH)
def export(name: str, file: Path) -> None:
    """Write a source model to a .safetensors file, which `source import` reads elsewhere."""
    from sfdabench.core.paths import cache_root
    from sfdabench.run import sources

    artefact = sources.find_artefact(cache_root(), name)
    sources.export(artefact, file)
    click.echo(f"wrote {file}, weights {artefact.card.sha256[:12]}", err=True)
