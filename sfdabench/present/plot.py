"""`sfdabench plot`: a figure's name and flags -> its files. torch only where weights are needed."""

from __future__ import annotations

import hashlib
import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sfdabench.core.errors import BadInput
from sfdabench.core.near import unknown
from sfdabench.core.paths import cache_root, check_writable, data_root
from sfdabench.core.progress import Progress
from sfdabench.core.stage import SHORT
from sfdabench.report import benchmark as papers
from sfdabench.report.figures import bars, curves, grid, style, sweep, translations, tsne
from sfdabench.report.figures.catalogue import Entry, Kind, find
from sfdabench.report.runs import Absent, Comparison, Variant, compare
from sfdabench.run.artefacts import PICTURES, root
from sfdabench.run.choose import choose_methods
from sfdabench.store.labels import settings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FOLDER = Path("figures")
ALLOWED: dict[Kind, frozenset[str]] = {
    "curves": frozenset({"methods", "protocol"}),
    "sweep": frozenset({"methods", "protocol", "field"}),
    "bars": frozenset({"table", "methods", "protocol", "metric"}),
    "grid": frozenset({"methods", "seed", "by", "data", "device"}),
    "tsne": frozenset({"methods", "seed", "data", "device"}),
    "translations": frozenset({"methods", "seed"}),
}
FLAGS = {"table": "TABLE", "methods": "--method"}
COLUMNS = 8  # of a grid: more are too small on a page
LONGEST = 120  # characters of a file's name, without its suffix


@dataclass(frozen=True)
class Request:
    """What the user asked for; None and () where a flag was not given."""

    figure: str
    results: Path
    out: Path | None = None
    table: str | None = None
    task: str | None = None
    methods: tuple[str, ...] = ()
    kind: str | None = None
    profile: str | None = None
    protocol: str | None = None
    metric: str | None = None
    field: str | None = None
    seed: int | None = None
    by: str | None = None
    data: Path | None = None
    device: str | None = None


def plot(asked: Request, progress: Progress) -> list[Path]:
    """Draw and save; returns the files. Raises BadInput before a network runs."""
    entry = find(asked.figure)
    _check_flags(asked, entry)
    out = asked.out or FOLDER
    if entry.kind == "bars":
        check_writable(out, "--out")
        figure, name = _bars(asked, progress)
    else:
        task = asked.task or entry.task
        example = next(iter(asked.methods or entry.methods), "source_only")
        compared = _compared(asked, task, asked.protocol or entry.protocol, example)
        for problem in compared.problems:
            progress.say(problem)
        if entry.kind in ("grid", "translations") and compared.data == "real":
            _check_private(asked.out)
        check_writable(out, "--out")
        figure = DRAWN[entry.kind](asked, entry, compared, progress)
        usual = compared.task == entry.task
        name = asked.figure if usual else f"{asked.figure}-{compared.task}"
    return style.save(figure, out, _file_name(asked, name))


def _file_name(asked: Request, subject: str) -> str:
    """`subject`, and every choice that makes another figure of it, so that none replaces another.

    A name too long for a file ends with a hash of itself.
    """
    chosen = (asked.field, asked.metric, asked.kind, asked.profile, *asked.methods)
    more = [
        asked.protocol and f"protocol {asked.protocol}",
        asked.by and f"by {asked.by}",
        None if asked.seed is None else f"seed {asked.seed}",
    ]
    name = re.sub(r"[^\w.+=-]+", "_", "-".join([subject, *filter(None, (*chosen, *more))]))
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 9]}-{digest}"


def _compared(asked: Request, task: str | None, protocol: str, example: str) -> Comparison:
    return compare(
        asked.results,
        task,
        kind=asked.kind,
        profile=asked.profile,
        protocol=protocol,
        example=example,
    )


def _check_flags(asked: Request, entry: Entry) -> None:
    """Refuse what this figure would not look at."""
    every = frozenset().union(*ALLOWED.values())
    for name in sorted(every - ALLOWED[entry.kind]):
        if getattr(asked, name) not in (None, ()):
            flag = FLAGS.get(name, f"--{name}")
            raise BadInput(f"{flag}: has no meaning for figure {asked.figure}")
    if asked.table and (asked.task or asked.methods):
        raise BadInput("TABLE names tasks and methods; give no --task or --method beside it")


def _chosen(asked: Request, entry: Entry, compared: Comparison, progress: Progress) -> Comparison:
    """What --method names; else those of the entry that were run, and a line on each other."""
    if asked.methods:
        return compared.only(asked.methods)
    recorded = {variant.label for variant in compared.variants}
    missing = [label for label in entry.methods if label not in recorded]
    if entry.methods and len(missing) == len(entry.methods):
        return compared.only(entry.methods)  # raises, with the command
    for label in missing:
        progress.say(f"{asked.figure}: {label} was not run; {compared.command(label)}")
    return compared.only([label for label in entry.methods if label in recorded])


def _curves(asked: Request, entry: Entry, compared: Comparison, progress: Progress) -> Figure:
    chosen = _chosen(asked, entry, compared, progress)
    for variant in chosen.variants:
        if variant.label != "source_only" and not curves.has_epochs(variant):
            progress.say(f"{variant.label}: has no epochs, so no curve")
    return curves.draw(chosen, asked.protocol or entry.protocol, _title(entry), entry.note)


def _title(entry: Entry) -> str:
    return entry.title.partition(";")[0]


def _sweep(asked: Request, entry: Entry, compared: Comparison, progress: Progress) -> Figure:
    methods, field = asked.methods or entry.methods, asked.field or entry.field
    if len(methods) != 1 or field is None:
        raise BadInput(f"{asked.figure}: give one --method and the --field to sweep over")
    wanted = entry.values if (methods, field) == (entry.methods, entry.field) else ()
    figure, missing = sweep.draw(
        compared,
        methods[0],
        field,
        asked.protocol or entry.protocol,
        _title(entry) if entry.task else "",
        wanted,
    )
    for made in missing:
        progress.say(f"{asked.figure}: a value was not run; {made}")
    return figure


def _bars(asked: Request, progress: Progress) -> tuple[Figure, str]:
    metric = asked.metric or "dice"
    if asked.table is None:
        protocol = asked.protocol or "strict"
        compared = _compared(asked, asked.task, protocol, next(iter(asked.methods), "source_only"))
        for problem in compared.problems:
            progress.say(problem)
        parts, title = [compared.only(asked.methods)], "Score by method and class"
        return bars.draw(parts, protocol, metric, title), f"bars-{compared.task}"
    known, problems = papers.find()
    for problem in problems:
        progress.say(problem)
    if asked.table not in known:
        raise BadInput(unknown("table", asked.table, known))
    benchmark = known[asked.table][1]
    layout = benchmark.table(asked.table)
    if any(column.curve for column in layout.columns):
        raise BadInput(f"{asked.table}: holds no score of a case; `sfdabench table` shows it")
    protocol = asked.protocol or layout.protocol
    classes = list(dict.fromkeys(name for column in layout.columns for name in column.classes))
    parts, absent = [], []
    for task in dict.fromkeys(task for task, _, _ in papers.cells(layout)):
        try:
            compared = _compared(asked, task, protocol, "source_only")
            parts.append(bars.rows_of_table(benchmark, layout, compared))
        except Absent as error:
            absent.append(str(error))
    if not parts:
        raise Absent("\n".join(absent))
    for problem in dict.fromkeys([*absent, *(p for part in parts for p in part.problems)]):
        progress.say(problem)  # each once: every task reads the whole folder
    if len({(part.data, part.profile) for part in parts}) > 1:
        raise BadInput(f"{asked.table}: its tasks hold other kinds; add --kind and --profile")
    title = f"{benchmark.paper.venue}, {layout.title}"
    return bars.draw(parts, protocol, metric, title, classes), f"bars-{asked.table}"


def _weights_of(asked: Request, chosen: Comparison) -> tuple[int, dict[str, Path], Path | None]:
    """The seed, each run's record of it by name, and the data; every weight is there."""
    if chosen.data == "phantom" and asked.data is not None:
        raise BadInput("--data: these records are of the phantom; add --kind real, or leave it out")
    data = data_root(asked.data) if chosen.data == "real" else None
    variants, labels = chosen.variants, [variant.label for variant in chosen.variants]
    shared = sorted(set.intersection(*(set(variant.seeds) for variant in variants)))
    if not shared:
        raise BadInput(f"{', '.join(labels)}: no seed in common; run each with the same --seed")
    seed = shared[0] if asked.seed is None else asked.seed
    if seed not in shared:
        raise BadInput(f"--seed {seed}: all of {', '.join(labels)} have seed {shared}")
    paths = {variant.name: chosen.path(variant.runs[variant.seeds.index(seed)])
             for variant in variants}  # fmt: skip
    for label, path in zip(labels, paths.values(), strict=True):
        if not path.with_suffix(".safetensors").is_file():
            raise BadInput(
                f"{path.with_suffix('.safetensors')}: the weights of this record are not beside "
                f"it; put them there, or make them anew: {chosen.command(label)} --seed {seed} "
                "--force"
            )
    return seed, paths, data


def _check_private(out: Path | None) -> None:
    """Pictures of patients go where the user says, and into no repository."""
    if out is None:
        raise BadInput("--out: say where pictures of real patients may be written")
    for folder in (out.resolve(), *out.resolve().parents):
        if (folder / ".git").exists():
            raise BadInput(f"--out {out}: lies in the repository {folder}; pictures of patients "
                           "must not be committed, name a folder outside")  # fmt: skip


def _online(variant: Variant) -> bool:
    """Whether its runs learnt while they predicted, so that no weights give what was scored."""
    run = variant.runs[0]
    name = run.chain[-1]
    texts = settings({name: run.overrides.get(name, {})})
    return choose_methods(name, texts, run.profile).chain[0][1].needs.online


def _grid(asked: Request, entry: Entry, compared: Comparison, progress: Progress) -> Figure:
    from sfdabench.present.pictures import pictures

    variants = _chosen(asked, entry, compared, progress).variants
    online = [] if asked.methods else [v.label for v in variants if _online(v)]
    for label in online:
        progress.say(f"{asked.figure}: {label} learnt while it predicted, left out")
    methods = [v.label for v in variants if v.label not in online]
    labels = list(dict.fromkeys(["source_only", *methods]))
    if 2 + len(labels) > COLUMNS:
        listed = ", ".join(f"'{label}'" for label in labels)
        raise BadInput(
            f"{asked.figure}: {len(labels)} runs, a page holds {COLUMNS - 2}; choose by --method "
            f"among {listed}"
        )
    chosen = compared.only(labels)
    seed, paths, data = _weights_of(asked, chosen)
    if asked.by not in (None, *labels):
        raise BadInput(f"--by {asked.by}: {unknown('run of this figure', asked.by or '', labels)}")
    judge = chosen.variant(asked.by or [v.label for v in chosen.variants if not v.oracle][-1])
    cases = grid.choose(compared, judge, seed)
    shown, classes = pictures(paths, [*cases.values()], data, asked.device or "auto", progress)
    dice = {variant.name: grid.dice_by_case(compared, variant, seed) for variant in chosen.variants}
    return grid.draw(
        dict(zip(cases, shown, strict=True)),
        dice,
        classes,
        [_title(entry), style.subject(compared.task, compared.data)],
        [
            f"ranked among n = {len(dice[judge.name])} test cases by the strict Dice of "
            f"{judge.name}, mean over what is scored, seed {seed}",
            "cut to what is outlined"
            + ("" if shown[0].plane is None else "; the plane with the largest reference area"),
        ],
    )


def _tsne(asked: Request, entry: Entry, compared: Comparison, progress: Progress) -> Figure:
    from sfdabench.present.pictures import features

    methods = asked.methods or entry.methods
    if len(methods) != 1 or methods[0] == "source_only":
        others = [v for v in compared.variants if v.label != "source_only" and not _online(v)]
        there = ", ".join(f"'{v.label}'" for v in others)
        raise BadInput(f"{asked.figure}: give one --method of those recorded: {there}")
    chosen = compared.only(["source_only", methods[0]])
    seed, paths, data = _weights_of(asked, chosen)
    before, after = features(paths, data, asked.device or "auto", progress).values()
    return tsne.draw(
        {"before: source_only": before, f"after: {chosen.variants[-1].name}": after},
        [_title(entry), style.subject(compared.task, compared.data)],
        ["logits of the test planes of each site", f"seed {seed}", entry.note],
    )


def _translations(asked: Request, entry: Entry, compared: Comparison, progress: Progress) -> Figure:
    import numpy as np

    if len(asked.methods) != 1:
        raise BadInput(
            f"{asked.figure}: give one --method that translates images, such as cyclegan"
        )
    (variant,) = compared.only(asked.methods).variants
    seed = variant.seeds[0] if asked.seed is None else asked.seed
    if seed not in variant.seeds:
        raise BadInput(f"--seed {seed}: {variant.label} has seed {list(variant.seeds)}")
    run = variant.runs[variant.seeds.index(seed)]
    made = [stage for stage in run.stages if stage.maker == "methods"]
    folders = [root(cache_root()) / f"{stage.name}-{stage.key[:SHORT]}" for stage in made]
    shown = [folder / PICTURES for folder in folders if (folder / PICTURES).is_file()]
    if not shown:
        raise BadInput(
            f"{asked.figure}: the cache {cache_root()} holds no translated images of "
            f"{variant.label}, which does not translate, or was run elsewhere; "
            f"{compared.command(variant.label)} --seed {seed} --force"
        )
    try:
        with np.load(shown[0], allow_pickle=False) as file:
            pictures = {kind: file[kind] for kind in file.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise BadInput(f"{shown[0]}: cannot be read ({error}); delete {shown[0].parent}") from error
    return translations.draw(
        pictures,
        [_title(entry), style.subject(compared.task, compared.data)],
        [f"seed {seed} of {variant.name}", "each image in the range of its domain"],
    )


DRAWN: dict[Kind, Callable[[Request, Entry, Comparison, Progress], Figure]] = {
    "curves": _curves,
    "sweep": _sweep,
    "grid": _grid,
    "tsne": _tsne,
    "translations": _translations,
}
