"""The command `sfdabench`. A command's module is imported when that command runs.

`--help` and `list` import neither torch nor pandas nor pydantic.
"""

from __future__ import annotations

import os
import sys

import click

from sfdabench import __version__
from sfdabench.cli.groups import LazyGroup
from sfdabench.cli.streams import make_lasting
from sfdabench.core.errors import BadInput, RunFailed
from sfdabench.core.in_use import in_use

# command -> where it is, and the first sentence of its help
COMMANDS = {
    "adapt": (
        "sfdabench.cli.adapt:adapt",
        "Adapt a source model to images of your own and predict them: no labels, no scores.",
    ),
    "cache": ("sfdabench.cli.cache:cache", "List what the cache holds, and clear it."),
    "check": (
        "sfdabench.cli.show:check",
        "Hold an entry against its contract, on a toy problem, in seconds.",
    ),
    "data": ("sfdabench.cli.data:data", "Describe, verify, download and synthesise data sets."),
    "doctor": (
        "sfdabench.cli.show:doctor",
        "Check this installation: versions, device, folders, speed settings.",
    ),
    "list": ("sfdabench.cli.show:list_", "List the entries of a kind."),
    "new": ("sfdabench.cli.show:new", "Write the skeleton of an entry."),
    "plot": ("sfdabench.cli.plot:plot", "Draw a figure from the records, as PNG and SVG."),
    "predict": (
        "sfdabench.cli.predict:predict",
        "Write the masks of a finished run over the original images (NIfTI, PNG).",
    ),
    "regress": (
        "sfdabench.cli.regress:regress",
        "Repeat the runs of results/reference on the phantom and say which scores moved.",
    ),
    "run": (
        "sfdabench.cli.run:run",
        "Adapt a source model to a task's target, score it, and keep a record.",
    ),
    "score": (
        "sfdabench.cli.predict:score",
        "Score saved masks (PNG or NIfTI), two files or two folders of equal names.",
    ),
    "show": (
        "sfdabench.cli.show:show",
        "Show an entry: what it is, where it comes from, its fields and their defaults.",
    ),
    "source": ("sfdabench.cli.source:source", "Import, list, show and export source models."),
    "sweep": (
        "sfdabench.cli.sweep:sweep",
        "Run all that the tables and figures of BENCHMARK ask for and that has no record yet.",
    ),
    "table": (
        "sfdabench.cli.table:table",
        "Set each published number of a paper's table beside the measured one, with a verdict.",
    ),
}


@click.group(
    cls=LazyGroup,
    lazy=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name="sfdabench")
def cli() -> None:
    """Source-free domain adaptation for medical image segmentation, under one evaluator.

    First: sfdabench run --method cbmt --task refuge2rimone
    """


def main() -> None:
    """Run the command line and exit: 0 done, 1 something failed, 2 bad input, 130 interrupted."""
    # Threads that wait actively for a core that another process holds make every operator ten
    # to a hundred times slower, threads that sleep at once a third; so they spin for some 0.1 ms.
    # OpenMP reads this once, when torch is first imported. Measured in benchmarks/speed/README.md.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")
    make_lasting()
    try:
        with in_use():
            code = cli.main(standalone_mode=False)
    except BadInput as error:
        _stop(str(error), 2)
    except RunFailed as error:
        _stop(str(error), 1)
    except click.exceptions.Abort as error:
        default = "interrupted; the same command goes on from the last saved epoch"
        _stop(str(error) or default, 130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (OSError, MemoryError) as error:  # but for a reader that has gone: click leaves with 1
        from sfdabench.core.system_errors import explain

        _stop(explain(error), 1)
    sys.exit(code if isinstance(code, int) else 0)


def _stop(message: str, code: int) -> None:
    click.echo(f"sfdabench: {message}", err=True)
    sys.exit(code)
