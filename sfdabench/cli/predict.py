"""`sfdabench predict` and `sfdabench score`: masks of a finished run, and scores of saved masks."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import click

from sfdabench.cli import options
from sfdabench.core.errors import BadInput


@click.command()
@click.option("--record", type=options.PATH, required=True, help="A run's JSON file.")
@click.option("--out", type=options.PATH, required=True)
@options.option("data")
@options.option("device")
@options.plugins
def predict(record: Path, out: Path, data: Path | None, device: str) -> None:
    """Write the masks of a finished run over the original images (NIfTI, PNG).

    Masks are those of protocol strict, whatever others the record holds. --out gets predictions/
    and references/; the `sfdabench score` lines printed last repeat the record from them.
    """
    from sfdabench.core.paths import check_writable
    from sfdabench.core.progress import Progress

    if not record.is_file():
        raise BadInput(f"--record {record}: no such file; `sfdabench run` prints its path")
    check_writable(out, "--out")
    from sfdabench.present.export import export

    exported = export(record, out, data, device, Progress())
    folders = sorted({path.parent.relative_to(out) for path in exported.files})
    click.echo(f"{len(exported.files)} masks in {out}: {', '.join(map(str, folders))}")
    click.echo("the scores of the record again:", err=True)
    for flags in exported.score:
        click.echo(shlex.join(["sfdabench", "score", *flags]), err=True)


@click.command()
@click.option("--prediction", type=options.PATH, required=True)
@click.option("--reference", type=options.PATH, required=True)
@click.option("--protocol", default="strict", show_default=True, help="One that needs masks alone.")
@click.option(
    "--class",
    "classes",
    multiple=True,
    metavar="NAME=VALUE[,VALUE]",
    help="Label values of a class, such as disc=0,128. Default: each value but 0 is a class.",
)
@click.option("--json", "as_json", is_flag=True)
@options.plugins
def score(
    prediction: Path, reference: Path, protocol: str, classes: tuple[str, ...], as_json: bool
) -> None:
    """Score saved masks (PNG or NIfTI), two files or two folders of equal names."""
    from sfdabench.evaluate.saved import parse_classes, score_saved
    from sfdabench.report import scores

    rows = score_saved(prediction, reference, protocol, parse_classes(classes) or None)
    click.echo(json.dumps(rows) if as_json else scores.saved(rows, protocol))
