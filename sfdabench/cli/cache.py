"""`sfdabench cache`: list what lies in the cache, and make room."""

from __future__ import annotations

import click

from sfdabench.cli.groups import Group


@click.group(cls=Group)
def cache() -> None:
    """List what the cache holds, and clear it."""


@cache.command(name="list")
def list_() -> None:
    """List what the cache holds, with sizes and days since the last change."""
    from sfdabench.core.paths import cache_root
    from sfdabench.report.artefacts import cache_table
    from sfdabench.run.cache import entries

    root = cache_root()
    listed = entries(root)
    click.echo(cache_table(root, listed))
    for entry in listed:
        if entry.fault:
            click.echo(entry.fault, err=True)


@cache.command()
@click.argument("names", nargs=-1)
@click.option(
    "--kind",
    "kinds",
    multiple=True,
    type=click.Choice(["prepared", "phantoms", "manifests", "stages", "imported", "unfinished"]),
    help="Only entries of this kind; repeatable.",
)
@click.option(
    "--older-than",
    type=click.FloatRange(min=0),
    metavar="DAYS",
    help="Only entries that were made, or stages last found, so many days ago or earlier.",
)
@click.option("--dry-run", is_flag=True, help="Say how much would be freed, and remove nothing.")
def clear(
    names: tuple[str, ...], kinds: tuple[str, ...], older_than: float | None, dry_run: bool
) -> None:
    """Remove entries of the cache: NAMES, those of a kind, or all but imported source models.

    NAMES are those of `cache list`. What is removed is made again when a run needs it; imported
    source models cannot be, so they go only where they or their kind are named, and so does a
    stage whose card is damaged, which may be one. What a running process holds or reads stays.
    Records are not in the cache.
    """
    from sfdabench.core.paths import cache_root
    from sfdabench.run.cache import clear as clear_cache

    cleared = clear_cache(cache_root(), names, kinds, older_than, dry_run=dry_run)
    for line in cleared.kept:
        click.echo(line, err=True)
    verb = "would free" if dry_run else "freed"
    click.echo(f"{verb} {cleared.bytes / 2**20:.0f} MiB in {cleared.count} entries")
