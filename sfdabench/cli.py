"""The command `sfdabench`. Imports what a command needs only when that command runs."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from sfdabench import __version__
from sfdabench.core.errors import BadInput, RunFailed
from sfdabench.core.near import unknown

if TYPE_CHECKING:
    from sfdabench.campaign.regress import Regression
    from sfdabench.campaign.sweep import Sweep
    from sfdabench.core.dataset import Dataset
    from sfdabench.report.tables import Table
    from sfdabench.run.plan import Run
    from sfdabench.store.records import Means, Record

KINDS = ("methods", "tasks", "datasets", "networks", "protocols", "tables")
KINDS_OF_DATA = click.Choice(["real", "phantom"])


class Group(click.Group):
    """A group whose unknown commands are answered with the near ones."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Say what is near before click says that it is unknown."""
        name = args[0]
        if self.get_command(ctx, name) is None and not name.startswith("-"):
            raise click.UsageError(unknown("command", name, self.commands))
        return super().resolve_command(ctx, args)


def main() -> None:
    """Run the command line; 0 done, 1 a run failed, 2 bad input."""
    # Threads that wait actively for a core that another process holds make every operator ten
    # to a hundred times slower, threads that sleep at once a third; so they spin for some 50 us.
    # OpenMP reads this once, when torch is first imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    try:
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
    except BrokenPipeError:
        # The reader (such as `head`) has gone; keep Python from failing again when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _stop(f"{where}{error.strerror or error}", 1)
    sys.exit(code if isinstance(code, int) else 0)


def _stop(message: str, code: int) -> None:
    click.echo(f"sfdabench: {message}", err=True)
    sys.exit(code)


def _use_plugins(_: click.Context, __: click.Parameter, folders: tuple[Path, ...]) -> None:
    for folder in folders:
        from sfdabench.core.registry import add_plugins

        add_plugins(folder)


def plugins(command: Callable[..., Any]) -> Callable[..., Any]:
    """The flag --plugins DIR."""
    return click.option(
        "--plugins",
        multiple=True,
        type=click.Path(path_type=Path),
        envvar="SFDABENCH_PLUGINS",
        callback=_use_plugins,
        expose_value=False,
        is_eager=True,
        help="Folder whose methods/, datasets/, tasks/, networks/, protocols/ add entries.",
    )(command)


def _records_option(flag: str) -> Callable[..., Any]:
    return click.option(
        flag,
        type=click.Path(path_type=Path),
        default=Path("results"),
        show_default=True,
        help="Folder of the records.",
    )


out_option, results_option = _records_option("--out"), _records_option("--results")
profile_option = click.option(
    "--profile", help="paper (default on real data) or phantom (default without data)."
)
source_set_option = click.option(
    "--source-set",
    "source_settings",
    multiple=True,
    metavar="FIELD=VALUE",
    help="Field of the source recipe or its network, such as size=128 or epochs=30.",
)
DEVICES = click.Choice(["auto", "cpu", "cuda"])
device_option = click.option("--device", type=DEVICES, default="auto")
jobs_option = click.option(
    "--jobs",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Runs at a time, each in a process of its own with its share of the cores.",
)
data_option = click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="Folder of real data (or SFDABENCH_DATA).",
)


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="sfdabench")
def cli() -> None:
    """Source-free domain adaptation for medical image segmentation, under one evaluator.

    First: sfdabench run --method cbmt --task refuge2rimone
    """


@cli.command()
@click.option("--method", required=True, help="NAME, or NAME+NAME for a chain.")
@click.option("--task", required=True, help="A name from `sfdabench list tasks`.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--seeds", type=click.IntRange(min=1), default=1, help="Run SEED, SEED+1, ...")
@data_option
@out_option
@profile_option
@click.option("--set", "settings", multiple=True, metavar="FIELD=VALUE", help="Field of a method.")
@source_set_option
@device_option
@click.option(
    "--precision",
    type=click.Choice(["float32", "bfloat16"]),
    default="float32",
    show_default=True,
    help="Of the network while adapting and predicting; the source is trained in float32.",
)
@click.option(
    "--protocol",
    "protocols",
    multiple=True,
    metavar="NAME",
    help="Score by this protocol as well as by the task's own.",
)
@click.option("--force", is_flag=True, help="Run again although a record exists.")
@click.option("--json", "as_json", is_flag=True, help="One object a run on standard output.")
@click.option(
    "--stop-with-stdin",
    is_flag=True,
    hidden=True,  # of the workers of `sweep` and `regress`, which must not outlive them
    expose_value=False,
    callback=lambda _, __, given: _stop_with_stdin() if given else None,
)
@plugins
def run(
    method: str,
    task: str,
    seed: int,
    seeds: int,
    data: Path | None,
    out: Path,
    profile: str | None,
    settings: tuple[str, ...],
    source_settings: tuple[str, ...],
    device: str,
    precision: Literal["float32", "bfloat16"],
    protocols: tuple[str, ...],
    force: bool,
    as_json: bool,
) -> int:
    """Adapt a source model to a task's target, score it, and keep a record.

    Without data the task runs on its phantom, and says so.
    """
    from sfdabench.core.progress import Progress
    from sfdabench.run.plan import resolve
    from sfdabench.store.records import read

    progress = Progress()
    planned = [
        resolve(
            method=method,
            task=task,
            seed=one,
            data=data,
            out=out,
            profile=profile,
            settings=settings,
            source_settings=source_settings,
            device=device,
            precision=precision,
            protocols=protocols,
            progress=progress,
        )
        for one in range(seed, seed + seeds)
    ]
    failures = 0
    for one in planned:
        progress.say(_heading(one))
        record = None
        if one.record_path.exists() and not force:
            record = read(one.record_path)
        if record is None or not record.done:
            from sfdabench.run.runner import execute

            record = execute(one, progress, force=force)
        else:
            progress.say(f"found {_shown(one.record_path)}")
        failures += not record.done
        before = _unadapted(record, one) if record.done else None
        if as_json:
            click.echo(json.dumps(_summary(record, before, one.record_path)))
        else:
            _print_scores(record, before, one.record_path)
    return 1 if failures else 0


def _stop_with_stdin() -> None:
    """Leave at once when standard input closes; what is saved is whole at any moment."""
    import threading

    def wait() -> None:
        while os.read(0, 4096):
            continue
        os._exit(130)

    threading.Thread(target=wait, daemon=True).start()


def _shown(path: Path) -> Path:
    """A path as short as it can be said from here."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _heading(one: Run) -> str:
    data = "PHANTOM data (synthetic; no --data given)" if one.data == "phantom" else "real data"
    note = "; learns from the cases it is scored on" if one.scored_on_training_cases else ""
    what = f"{one.method_name} on {one.task_name}, seed {one.seed}"
    return f"{what}: {data}, {one.profile} profile{note}"


def _unadapted(record: Record, one: Run) -> Record | None:
    from sfdabench.store.records import unadapted_of

    try:
        return unadapted_of(record, one.out)
    except BadInput as error:
        click.echo(f"sfdabench: {error}; no unadapted scores to compare with", err=True)
        return None


def _means(scores: Means) -> dict[str, Any]:
    return {
        protocol: {
            name: {metric: value.mean for metric, value in metrics.items()}
            for name, metrics in classes.items()
        }
        for protocol, classes in scores.items()
    }


def _summary(record: Record, before: Record | None, path: Path) -> dict[str, Any]:
    names = {"status", "task", "method", "seed", "data", "source_sha256", "deployed_sha256"}
    summary = record.model_dump(include=names)
    summary["record"] = str(path)
    summary["seconds"] = record.seconds.total
    summary["scores"] = _means(record.scores)
    summary["source_only"] = _means(before.scores) if before else {}
    if not record.done:
        summary["reason"] = record.reason
    return summary


def _print_scores(record: Record, before: Record | None, path: Path) -> None:
    if not record.done:
        click.echo(f"failed: {record.reason}\nrecord: {_shown(path)}", err=True)
        return
    from rich.console import Console
    from rich.table import Table

    from sfdabench.report import units

    label = "PHANTOM" if record.data == "phantom" else "real"
    click.echo(f"{record.method} on {record.task} ({label} data)")
    console = Console(width=max(80, Console().width))
    for protocol, classes in record.scores.items():
        # One table a protocol, without the method's name: a terminal has 80 columns.
        table = Table(title=f"protocol {protocol}", title_justify="left")
        for column in ("class", "metric"):
            table.add_column(column, overflow="fold")
        for column in ("source only", "adapted", "change", "undefined"):
            table.add_column(column, justify="right")
        for name, metrics in classes.items():
            for metric, value in metrics.items():
                known = before.scores.get(protocol, {}).get(name, {}) if before else {}
                old, new = known[metric].mean if metric in known else None, value.mean
                scale = units.scale(metric)
                table.add_row(
                    name,
                    f"{metric} {units.unit(metric, protocol, record.spacing_unit)}",
                    "-" if old is None else f"{old * scale:.2f}",
                    "-" if new is None else f"{new * scale:.2f}",
                    "-" if old is None or new is None else f"{(new - old) * scale:+.2f}",
                    str(value.undefined),
                )
        console.print(table)
    audit = record.audit
    if audit:
        for protocol, gap in audit.gap.items():
            click.echo(
                f"selection audit ({protocol}): the best epoch on test labels (oracle, never "
                f"deployed) is {audit.epochs[audit.best.epoch[protocol]] + 1} of "
                f"{audit.epochs[audit.last.epoch] + 1}, {100 * gap:.2f} Dice points above the last"
            )
    click.echo(f"record: {_shown(path)}")


@cli.command()
@click.argument("benchmark")
@click.option("--task", "tasks", multiple=True, metavar="NAME", help="Only this task; repeatable.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option(
    "--seeds",
    type=click.IntRange(min=1),
    help="How many seeds, from --seed on. Default: as many as the benchmark asks for.",
)
@data_option
@out_option
@profile_option
@source_set_option
@device_option
@jobs_option
@click.option("--dry-run", is_flag=True, help="Show the plan and stop.")
@click.option("--retry-failed", is_flag=True, help="Run again what has a record of a failure.")
@click.option("--json", "as_json", is_flag=True, help="One object on standard output.")
@plugins
def sweep(
    benchmark: str,
    tasks: tuple[str, ...],
    seed: int,
    seeds: int | None,
    data: Path | None,
    out: Path,
    profile: str | None,
    source_settings: tuple[str, ...],
    device: str,
    jobs: int,
    dry_run: bool,
    retry_failed: bool,
    as_json: bool,
) -> int:
    """Run all that the tables and figures of BENCHMARK ask for and that has no record yet.

    BENCHMARK: a folder of benchmarks/ by its name, such as cbmt, or a folder with a
    benchmark.toml. After an interruption the same command goes on.
    """
    from sfdabench.campaign.board import board
    from sfdabench.campaign.sweep import plan, results
    from sfdabench.campaign.workers import Outcome, carry_out, threads
    from sfdabench.core.progress import Progress

    progress = Progress()
    planned = plan(
        benchmark,
        seed=seed,
        seeds=seeds,
        out=out,
        tasks=tasks,
        data=data,
        profile=profile,
        source_settings=source_settings,
        device=device,
        retry_failed=retry_failed,
        progress=progress,
    )
    if not as_json:
        _print_plan(planned)
    progress.say(planned.forecast(jobs))
    for problem in planned.problems:
        progress.say(problem)

    ended: list[Outcome] = []
    interrupted = False
    if not dry_run and planned.jobs:
        share = threads(min(jobs, len(planned.jobs)))
        with board(len(planned.jobs)) as shown:
            outcomes = carry_out(planned.jobs, at_once=jobs, variables=share, board=shown)
            try:
                with contextlib.closing(outcomes):
                    for outcome in outcomes:
                        ended.append(outcome)
            except KeyboardInterrupt:
                interrupted = True
    found = results(planned, ended)
    if as_json:
        click.echo(json.dumps(found))
    elif not dry_run:
        for one in found["runs"]:
            if one["state"] == "failed":
                what = f"{one['method']} on {one['task']}, seed {one['seed']}"
                click.echo(f"failed {what}: {one['reason']}")
        click.echo(", ".join(f"{count} {state}" for state, count in found["counts"].items()))
    if interrupted:
        raise click.Abort
    return 1 if found["counts"]["failed"] and not dry_run else 0


def _print_plan(planned: Sweep) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from sfdabench.campaign.board import duration

    first = planned.planned[0].run
    label = "PHANTOM" if first.data == "phantom" else "real"
    table = Table(title=f"{label} data, {first.profile} profile")
    for column in ("state", "task", "method", "seed", "estimate"):
        table.add_column(column)
    for one in planned.planned:
        job = one.job
        time = "" if one.state != "to run" else "unknown"
        time = time if one.seconds is None else duration(one.seconds)
        table.add_row(*map(Text, (one.state, job.task, job.method, str(job.seed), time)))
    for skipped in planned.skipped:
        table.add_row(*map(Text, ("cannot run", skipped.task, skipped.method, "", skipped.reason)))
    Console(width=max(100, Console().width)).print(table)


@cli.command()
@click.option("--task", "tasks", multiple=True, metavar="NAME", help="Only this task; repeatable.")
@click.option("--method", "methods", multiple=True, metavar="NAME", help="Only this method.")
@jobs_option
@click.option("--update", is_flag=True, help="Write what is measured as the reference.")
@click.option("--reason", help="Why the scores may move: a line of the change log. With --update.")
@click.option("--json", "as_json", is_flag=True, help="One object on standard output.")
@plugins
def regress(
    tasks: tuple[str, ...],
    methods: tuple[str, ...],
    jobs: int,
    update: bool,
    reason: str | None,
    as_json: bool,
) -> int:
    """Repeat the runs of results/reference on the phantom and say which scores moved.

    Exit code 1 where a score moved beyond its tolerance, a claim fails or a run does.
    """
    from sfdabench.campaign import regress as regression
    from sfdabench.core.progress import Progress

    progress, folder = Progress(), regression.default_folder()
    if update and not (reason or "").strip():
        raise BadInput("--update: say with --reason TEXT why the scores may move")
    if reason is not None and not update:
        raise BadInput("--reason: goes with --update; without it nothing is written")
    call = regression.regress
    if update:
        changelog = regression.changelog_folder()
        call = partial(regression.update, changelog=changelog, reason=str(reason))
    try:
        found = call(folder, tasks=tasks, methods=methods, jobs=jobs, progress=progress)
    except KeyboardInterrupt:
        raise click.Abort("interrupted; nothing is written, and the next one starts anew") from None
    if as_json:
        click.echo(json.dumps(found.summary))
    else:
        _print_regression(found)
    return 1 if found.failed or found.claims or not (update or found.sound) else 0


def _print_regression(found: Regression) -> None:
    for outcome in found.failed:
        click.echo(f"failed {outcome.job.name}: {outcome.reason}")
    for change in found.changes:
        click.echo(f"{change.state} {change}")
    for claim in found.claims:
        click.echo(f"claim fails: {claim}")
    for score in found.blind:
        click.echo(
            f"blind {score.name}: {score.value:.4f} with a tolerance of {score.tolerance:.4f}; "
            "a method that predicts nothing would pass"
        )
    states = Counter(change.state for change in found.changes)
    counts = "".join(f", {states[name]} {name}" for name in ("moved", "lost", "new", "within"))
    click.echo(
        f"{found.measured} scores measured{counts}; {len(found.claims)} claims and "
        f"{len(found.failed)} runs failed"
    )


@cli.command()
@click.option("--record", type=click.Path(path_type=Path), required=True, help="A run's JSON file.")
@click.option("--out", type=click.Path(path_type=Path), required=True)
@data_option
@device_option
@plugins
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


@cli.command(name="list")
@click.argument("kind", metavar="|".join(KINDS))
@plugins
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


@cli.command()
@click.argument("name")
@plugins
def show(name: str) -> None:
    """Show an entry: what it is, where it comes from, its fields and their defaults."""
    from sfdabench.core import registry

    for i, kind in enumerate(registry.kinds_of(name)):
        from sfdabench.report.describe import describe_entry

        click.echo(("\n" if i else "") + describe_entry(kind, name))


@cli.command()
@click.argument("name", required=False)
@results_option
@click.option(
    "--format",
    "fmt",
    type=click.Choice(["text", "markdown", "csv", "latex"]),
    default="text",
    show_default=True,
)
@click.option("--kind", type=KINDS_OF_DATA, help="Of data. Default: real if there is any.")
@click.option("--profile", help="Only records of this profile.")
@click.option("--long", "as_long", is_flag=True, help="CSV with one cell a row.")
@click.option("--all", "every", is_flag=True, help="All tables as CSV, Markdown and LaTeX.")
@click.option(
    "--out", type=click.Path(path_type=Path), help="Write to this file, or folder with --all."
)
@plugins
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
    from sfdabench.report import render, tables

    if every:
        if name is not None or out is None:
            raise BadInput("table --all: give no NAME, and --out DIR to write all tables to")
        if fmt != "text":
            raise BadInput(f"--format {fmt}: --all writes every format; leave it out")
        built, problems = tables.build_all(results, kind=kind, profile=profile)
        _write_tables(built, out, as_long)
    elif name is None:
        if out is not None:
            raise BadInput(f"--out {out}: name a table, or give --all for a folder of all tables")
        if as_long or fmt != "text":
            flag = "--long" if as_long else f"--format {fmt}"
            raise BadInput(f"{flag}: name a table, or give --all --out DIR; without a name they "
                           "are listed")  # fmt: skip
        found, problems = tables.summaries(results, kind=kind, profile=profile)
        for one in found:
            click.echo(f"{one.name}: {one.title}; {one.measured} of {one.cells} cells measured")
    else:
        if as_long and fmt != "csv":
            raise BadInput(f"--long: for --format csv, not {fmt}")
        one_built = tables.build(name, results, kind=kind, profile=profile)
        text = render.csv_long(one_built) if as_long else render.FORMATS[fmt](one_built)
        problems = list(one_built.problems) if fmt == "csv" else []  # others print them below
        if out is None:
            click.echo(text, nl=not text.endswith("\n"))
        else:
            _write_text(out, text)
    for problem in problems:
        click.echo(f"sfdabench: {problem}", err=True)


def _write_tables(built: Sequence[Table], out: Path, as_long: bool) -> None:
    """Every table in every format of `render.SUFFIXES`, into the folder `out`."""
    from sfdabench.core.paths import check_writable
    from sfdabench.report import render

    check_writable(out, "--out")
    for one in built:
        for fmt, suffix in render.SUFFIXES.items():
            form = render.csv_long if as_long and fmt == "csv" else render.FORMATS[fmt]
            _write_text(out / f"{one.name}{suffix}", form(one))


def _write_text(path: Path, text: str) -> None:
    from sfdabench.core.files import atomic

    if path.is_dir():
        raise BadInput(f"--out {path}: a folder; name a file, or give --all")
    with atomic(path) as file:
        file.write(text if text.endswith("\n") else f"{text}\n")
    click.echo(f"wrote {path}", err=True)


@cli.command()
@click.argument("figure", required=False)
@click.argument("table_name", metavar="[TABLE]", required=False)
@results_option
@click.option("--out", type=click.Path(path_type=Path), help="Default: figures.")
@click.option("--task", help="Default: that of the figure, or the only one recorded.")
@click.option(
    "--method",
    "methods",
    multiple=True,
    metavar="LABEL",
    help='A run as legends name it, such as cbmt or "cbmt alpha=0.5". Default: all recorded.',
)
@click.option("--kind", type=KINDS_OF_DATA, help="Of data, where both are recorded.")
@click.option("--profile", help="Where several are recorded.")
@click.option("--protocol", help="Default: the paper's for its figures, else strict.")
@click.option("--metric", help="Of bars. Default: dice.")
@click.option("--field", help="Of sweep: the field of the method.")
@click.option(
    "--by", help="Of grid: the run that ranks the cases. Default: the last that is no oracle."
)
@click.option("--seed", type=click.IntRange(min=0), help="Of grid and tsne. Default: the first.")
@click.option("--data", type=click.Path(path_type=Path), help="Of grid and tsne.")
@click.option("--device", type=DEVICES, help="Of grid and tsne.")
@plugins
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

        found, problems = figures()
        for name, entry in found.items():
            click.echo(f"{name}: {entry.title}")
        for problem in problems:
            click.echo(f"sfdabench: {problem}", err=True)
        return
    from sfdabench.core.progress import Progress
    from sfdabench.present.plot import Request
    from sfdabench.present.plot import plot as draw

    for path in draw(Request(figure, table=table_name, **flags), Progress()):
        click.echo(f"wrote {path}", err=True)


@cli.group(cls=Group)
def data() -> None:
    """Describe, verify and synthesise data sets."""


def _dataset(name: str) -> Dataset:
    from sfdabench.core.registry import load

    return load("datasets", name)()


@data.command(name="describe")
@click.argument("name")
@plugins
def data_describe(name: str) -> None:
    """Licence, citation, where to register, the expected tree."""
    from sfdabench.report.describe import describe_entry

    click.echo(describe_entry("datasets", name))


@data.command(name="verify")
@click.argument("name")
@data_option
@plugins
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
@click.option("--out", type=click.Path(path_type=Path), required=True)
def data_fetch(name: str, out: Path) -> None:
    """Download what is openly available, checksum verified; goes on after an interruption."""
    from sfdabench.core.registry import canonical
    from sfdabench.prepare.fetch import fetch

    _dataset(name)
    root = fetch(canonical("datasets", name), out, say=lambda line: click.echo(line, err=True))
    click.echo(f"{name} in {root}; next: sfdabench data verify {name} --data {root}")


@data.command(name="phantom")
@click.argument("name")
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@plugins
def data_phantom(name: str, out: Path, seed: int) -> None:
    """Write the synthetic cases of a data set in its authors' layout."""
    from sfdabench.core.paths import check_writable

    dataset = _dataset(name)
    check_writable(out, "--out")
    if out.exists() and any(out.iterdir()):
        raise BadInput(f"--out {out}: not empty; name a new folder")
    dataset.phantom(out, seed)
    click.echo(f"{len(dataset.cases(out))} synthetic cases of {name} in {out}")


@cli.command()
@click.option("--prediction", type=click.Path(path_type=Path), required=True)
@click.option("--reference", type=click.Path(path_type=Path), required=True)
@click.option("--protocol", default="strict", show_default=True, help="One that needs masks alone.")
@click.option(
    "--class",
    "classes",
    multiple=True,
    metavar="NAME=VALUE[,VALUE]",
    help="Label values of a class, such as disc=0,128. Default: each value but 0 is a class.",
)
@click.option("--json", "as_json", is_flag=True)
@plugins
def score(
    prediction: Path, reference: Path, protocol: str, classes: tuple[str, ...], as_json: bool
) -> None:
    """Score saved masks (PNG or NIfTI), two files or two folders of equal names."""
    from sfdabench.evaluate.saved import parse_classes, score_saved

    rows = score_saved(prediction, reference, protocol, parse_classes(classes) or None)
    if as_json:
        click.echo(json.dumps(rows))
        return
    from rich.console import Console
    from rich.table import Table

    metrics = [key for key in rows[0] if key not in ("case", "label", "undefined")]
    shown = Table(title=f"{protocol}: distances in mm where the files say so, else pixels")
    for column in ("case", "label", *metrics, "undefined"):
        shown.add_column(column, overflow="fold")
    for row in rows:
        values = ["-" if row[m] is None else f"{row[m]:.4f}" for m in metrics]
        shown.add_row(row["case"], str(row["label"]), *values, ", ".join(row["undefined"]))
    shown.add_section()
    for label in dict.fromkeys(row["label"] for row in rows):
        columns = [
            [r[m] for r in rows if r["label"] == label and r[m] is not None] for m in metrics
        ]
        means = [f"{sum(values) / len(values):.4f}" if values else "-" for values in columns]
        shown.add_row("mean", str(label), *means, "")
    Console(width=max(100, Console().width)).print(shown)


@cli.command()
@click.argument("name")
@plugins
def check(name: str) -> int:
    """Hold an entry against its contract, on a toy problem, in seconds."""
    from sfdabench.checks import check_entry

    outcomes = check_entry(name)
    for outcome in outcomes:
        mark = "ok  " if outcome.passed else "FAIL"
        click.echo(f"{mark} {outcome.name}" + (f": {outcome.detail}" if outcome.detail else ""))
    failed = sum(not outcome.passed for outcome in outcomes)
    click.echo(f"{len(outcomes) - failed} of {len(outcomes)} contracts hold")
    return 1 if failed else 0


@cli.group(cls=Group)
def new() -> None:
    """Write the skeleton of an entry."""


@new.command(name="method")
@click.argument("name")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("plugins"),
    show_default=True,
    help="Plug-in folder; `--out sfdabench` inside a checkout adds it to the suite.",
)
def new_method(name: str, out: Path) -> None:
    """Write methods/NAME.py under --out, ready to run and to check."""
    from sfdabench.checks.skeleton import write_method

    path = write_method(name, out)
    flag = "" if out.name == "sfdabench" else f" --plugins {out}"
    click.echo(
        f"wrote {path}\nnext: sfdabench check {name}{flag}\n"
        f"then: sfdabench run --method {name} --task refuge2rimone{flag}"
    )


@cli.command()
def doctor() -> int:
    """Check this installation: versions, device, folders, speed settings."""
    from sfdabench.checks.doctor import examine

    lines, healthy = examine()
    for line in lines:
        click.echo(line)
    return 0 if healthy else 1
