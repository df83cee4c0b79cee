"""Tables whose cells rest on several tasks or protocols, or on none."""

import csv
import io
import re
import shutil
from collections import Counter
from pathlib import Path

import pytest
from rich.console import Console

from sfdabench.core.errors import BadInput
from sfdabench.report import benchmark as papers
from sfdabench.report import render, tables

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
PAPERS = {name: papers.read(BENCHMARKS / name) for name in ("osuda", "self_ensembling", "apl")}
MODALITIES = {"T1": "t2_to_t1", "FLAIR": "t2_to_flair", "T1CE": "t2_to_t1ce"}


def means(protocol, classes, **metrics):
    scores = {"dice": 0.5} | metrics
    one = {
        name: {"mean": mean, "std": None, "n": int(mean is not None), "undefined": 0}
        for name, mean in scores.items()
    }
    return {protocol: dict.fromkeys(classes, one)}


@pytest.fixture
def put(tmp_path, make_record):
    """Write a record and that of its source model.

    put(paper, task, method, seed, scores, **changed keys); the source model has the same scores.
    """

    def write(paper, task, method, seed, scores, **keys):
        recipe = PAPERS[paper].recipe | {"backbone_weights": "imagenet.pth"}
        plain = {
            **{"task": task, "profile": "paper", "data": "real", "recipe": recipe},
            **{"scores": scores, "source_sha256": f"{seed}5ce" * 16},
            **{"manifest_sha256": "dada" * 16, "cases": {"adapt": 3, "test": 10}},
        }
        record = make_record(method, seed, **plain | keys)
        out = tmp_path / "results"
        if record.unadapted:
            record = make_record.keep_source(out, record, scores)
        make_record.keep(out, record)

    return write


@pytest.fixture
def lines(tmp_path):
    """lines(table) -> (block, row) -> column -> cell."""

    def build(name):
        table = tables.build(name, tmp_path / "results", folder=BENCHMARKS)
        names = [column.name for column in table.columns]
        return {
            (section.name, line.name): dict(zip(names, line.cells, strict=True))
            for section in table.sections
            for line in section.lines
        }

    return build


def tumour(dice, hd=20.0):
    return means("osuda", ["whole"], dice=dice, hd=hd)


def test_each_column_is_read_from_its_task_and_averaged_by_seed(put, lines):
    for seed, shift in enumerate((0.0, 0.02)):
        for modality, dice in (("T1", 0.1), ("FLAIR", 0.5), ("T1CE", 0.06)):
            put("osuda", MODALITIES[modality], "source_only", seed, tumour(dice + shift))
    cells = lines("osuda-2")["Whole tumour, from T2", "Source only"]
    measured = {name: cells[f"{name} Dice"].measured for name in (*MODALITIES, "Average")}
    assert measured == pytest.approx({"T1": 11, "FLAIR": 51, "T1CE": 7, "Average": 23})
    average = cells["Average Dice"]
    assert average.measured_std == pytest.approx(2**0.5)  # of 22 and 24
    assert (average.seeds, average.cases) == (2, 10)
    assert (average.verdict, cells["T1 Dice"].verdict) == ("reproduced", "differs")
    assert average.difference == pytest.approx(23 - 22.6)
    assert cells["Average HD"].measured == pytest.approx(20)


def test_an_average_takes_the_seeds_that_all_columns_have(put, lines):
    for seed in range(2):
        put("osuda", "t2_to_t1", "adabn", seed, tumour(0.5 + seed / 10))
        put("osuda", "t2_to_flair", "adabn", seed, tumour(0.5 + seed / 10))
    row = ("Whole tumour, from T2", "AdaBN")
    assert lines("osuda-2")[row]["Average Dice"].verdict == "not run"
    put("osuda", "t2_to_t1ce", "adabn", 1, tumour(0.6))
    found = lines("osuda-2")[row]
    assert (found["T1 Dice"].seeds, found["Average Dice"].seeds) == (2, 1)
    assert found["Average Dice"].measured == pytest.approx(60)
    assert found["Average Dice"].verdict == "not in the paper"


def test_an_average_is_undefined_with_a_column(put, lines):
    for task in MODALITIES.values():
        put("osuda", task, "source_only", 0, tumour(0.5, None if task == "t2_to_t1" else 9.0))
    found = lines("osuda-2")["Whole tumour, from T2", "Source only"]
    assert found["FLAIR HD"].measured == 9
    assert found["Average HD"].measured is None
    assert found["Average HD"].verdict == "not comparable (undefined in a run)"


def test_an_average_inherits_what_stands_in_the_way(put, lines, tmp_path):
    for task in MODALITIES.values():
        put("osuda", task, "source_only", 0, tumour(0.5))
    put("osuda", "t2_to_t1", "tent", 0, tumour(0.5))
    put("osuda", "t2_to_t1", "adabn", 0, tumour(0.5), source_sha256="ff" * 32)
    found = lines("osuda-2")["Whole tumour, from T2", "AdaBN"]
    mixed = found["T1 Dice"].verdict
    assert mixed.startswith("not comparable (2 source models of seed 0: ")
    found = lines("osuda-2")["Whole tumour, from T2", "Source only"]
    assert found["T1 Dice"].verdict == found["Average Dice"].verdict == mixed
    assert found["FLAIR Dice"].verdict == "differs"
    basis = tables.build("osuda-2", tmp_path / "results", folder=BENCHMARKS).basis
    starts = [line.partition(": source")[0] for line in basis if ": source model" in line]
    assert starts == [f"Whole tumour, from T2, {task}" for task in MODALITIES.values()]


def test_columns_of_osuda_that_no_run_is_compared_with(put, lines):
    """Each has the number of ours; the printed one leaves open what it is."""
    regions = ["whole", "enhancing", "core_osuda", "core_brats"]
    put("osuda", "hgg2lgg", "source_only", 0, means("osuda", regions, dice=0.5844, hd=41.7))
    found = lines("osuda-1")["HGG → LGG", "Source only"]
    empty = "LGG without enhancing tumour decide it, and the rule for empty masks is not stated"
    distance = "maximum or 95th percentile not stated"
    assert {name: cell.verdict for name, cell in found.items()} == {
        "WholeT Dice": "differs",
        "EnhT Dice": f"not comparable ({empty})",
        "CoreT Dice": "differs",
        "Overall Dice": "not comparable (the printed one is not the mean of its columns)",
        "WholeT HD": f"not comparable ({distance})",
        "EnhT HD": f"not comparable ({empty}; {distance})",
        "CoreT HD": f"not comparable ({distance})",
        "Overall HD": f"not comparable ({distance})",
    }
    assert found["Overall HD"].difference == pytest.approx(0)


def test_a_column_with_its_own_protocol_says_what_to_run(put, lines):
    names = ("dice", "iou", "recall", "precision", "specificity")
    own = means("self_ensembling", ["grey_matter"], **dict.fromkeys(names, 0.8281))
    put("self_ensembling", "scgm_to_site3", "source_only", 0, own)
    row = ("Center 3", "Baseline")
    legacy = "self_ensembling_legacy"
    found = lines("self-ensembling-1")[row]
    assert found["Dice"].verdict == "reproduced"
    assert found["Hausdorff"].verdict == (
        f"not comparable (not scored by {legacy}: run with --protocol {legacy})"
    )
    both = own | means(legacy, ["grey_matter"], hd_rowwise=2.15)
    put("self_ensembling", "scgm_to_site4", "source_only", 0, both)
    found = lines("self-ensembling-1")["Center 4", "Baseline"]["Hausdorff"]
    assert (found.measured, found.verdict) == (2.15, "differs")


TRAINED_ON = "the paper trained on these very images and labels; no task of ours scores its source"
ELSEWHERE = "a task of ours scores only the center that it adapts to"


def test_every_cell_without_a_task_says_why_in_every_form():
    built = tables.build("self-ensembling-1", None, folder=BENCHMARKS)
    cells = [cell for section in built.sections for line in section.lines for cell in line.cells]
    verdicts = [cell.verdict for cell in cells if cell.verdict.startswith("no task")]
    assert sorted(Counter(verdicts).items()) == [
        (f"no task ({ELSEWHERE})", 2 * 6),
        (f"no task ({TRAINED_ON})", 2 * 3 * 6),
    ]
    reasons = [
        f"no task for Center 1, Center 2: {TRAINED_ON}",
        f"no task for Adapted to Center 3 elsewhere, Adapted to Center 4 elsewhere: {ELSEWHERE}",
    ]
    for form in (render.text, render.markdown, render.latex):
        shown = form(built)
        assert [" ".join(shown.split()).count(reason) for reason in reasons] == [1, 1]
        assert "no task (" not in shown, "the column Runs has no room for the reason"
    for form in (render.csv, render.csv_long):
        assert form(built).count(f"no task ({TRAINED_ON})") == 36


def test_cells_that_no_task_of_ours_fills(lines, tmp_path):
    (tmp_path / "results").mkdir()
    found = lines("self-ensembling-1")
    for center in ("Center 1", "Center 2"):
        for row in ("Baseline", "Adapted to Center 3"):
            assert found[center, row]["Dice"].verdict == f"no task ({TRAINED_ON})"
        assert (center, "Supervised") not in found  # one of ours would be empty for ever
    assert found["Center 4", "Adapted to Center 3"]["Dice"].verdict == f"no task ({ELSEWHERE})"
    assert found["Center 3", "Baseline"]["Dice"].verdict == "not run"


def test_copied_bounds_of_apl(put, lines):
    organs = ["liver", "right_kidney", "left_kidney", "spleen"]
    put("apl", "chaos2malbcv", "source_only", 0, means("sifa", organs, dice=0.582),
        cases={"adapt": 3, "test": 6})  # fmt: skip
    found = lines("apl-1")["MRI → CT", "W/o Adaptation"]["Avg"]
    assert found.measured == pytest.approx(58.2)
    assert found.verdict == "not comparable (copied from SIFA's paper: other network)"


@pytest.mark.parametrize("table", [table.name for p in PAPERS.values() for table in p.tables])
def test_every_form_of_every_table(table):
    built = tables.build(table, None, folder=BENCHMARKS)
    assert built.problems == ()
    printed = sum(c.published is not None for s in built.sections for n in s.lines for c in n.cells)
    text = render.text(built)
    assert "…" not in text  # rich cuts what does not fit
    assert max(map(len, text.splitlines())) <= render.WIDTH
    latex = render.latex(built)
    assert latex.isascii()
    assert latex.count("{") == latex.count("}")
    rows = list(csv.DictReader(io.StringIO(render.csv_long(built))))
    assert sum(bool(row["published"]) for row in rows) == printed
    wide = list(csv.reader(io.StringIO(render.csv(built))))
    assert len({len(row) for row in wide}) == 1
    assert len(wide) == 1 + sum(len(section.lines) for section in built.sections)
    assert render.markdown(built).startswith(f"### {table}: ")


def test_a_wide_csv_sets_measured_beside_published(put, tmp_path):
    for task in MODALITIES.values():
        put("osuda", task, "source_only", 0, tumour(0.224))
    built = tables.build("osuda-2", tmp_path / "results", folder=BENCHMARKS)
    first = next(csv.DictReader(io.StringIO(render.csv(built))))
    shown = {name: value for name, value in first.items() if name.startswith("Average Dice")}
    assert shown == {
        **{"Average Dice [%]": "22.6", "Average Dice [%] measured": "22.4"},
        **{"Average Dice [%] std": "", "Average Dice [%] difference": "-0.2"},
        **{"Average Dice seeds": "1", "Average Dice verdict": "reproduced"},
    }
    assert (first["row"], first["run"]) == ("Source only", "source_only")
    kinds = {
        (row["row"] == "Source only", row["data"], row["profile"])
        for row in csv.DictReader(io.StringIO(render.csv(built)))
    }
    assert kinds == {(True, "real", "paper"), (False, "", "")}


@pytest.fixture
def copies(tmp_path):
    """A copy of all benchmarks; copies(paper, old, new) changes one of them."""
    for name in ("cbmt", *PAPERS):
        shutil.copytree(BENCHMARKS / name, tmp_path / "benchmarks" / name)

    def change(paper, old, new):
        path = tmp_path / "benchmarks" / paper / "benchmark.toml"
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new, 1), encoding="utf-8")
        return tmp_path / "benchmarks"

    return change


@pytest.mark.parametrize(
    ("old", "new", "row", "message"),
    [
        (
            'mean_teacher = { strong = "identity"',
            'mean_teacher = { strog = "identity"',
            "P-L + EMA",
            "cbmt-2, P-L + EMA strog: unknown field of mean_teacher 'strog': did you mean strong",
        ),
        (
            'P-L", method = "pseudo_label"',
            'P-L", method = "pseudo_lable"',
            "P-L",
            "cbmt-2, P-L: unknown method 'pseudo_lable': did you mean pseudo_label",
        ),
    ],
)
def test_an_invalid_row_is_named_and_the_rest_rendered(copies, tmp_path, old, new, row, message):
    folder = copies("cbmt", old, new)
    table = tables.build("cbmt-2", None, folder=folder)
    (problem,) = table.problems
    assert problem.startswith(f"{folder / 'cbmt' / 'benchmark.toml'}: {message}")
    verdicts = {line.name: line.cells[0].verdict for line in table.sections[0].lines}
    assert [name for name, verdict in verdicts.items() if verdict == "invalid"] == [row]
    assert message.partition(":")[0] in " ".join(render.text(table).split())


def test_an_unknown_task_empties_its_block_alone(copies):
    folder = copies("cbmt", '"refuge2drishti"', '"refuge2drishtj"')
    table = tables.build("cbmt-1", None, folder=folder)
    assert "unknown task 'refuge2drishtj': did you mean refuge2drishti" in table.problems[0]
    verdicts = [{line.cells[0].verdict for line in section.lines} for section in table.sections]
    assert verdicts == [{"not run"}, {"no task"}]


def test_a_file_that_cannot_be_read_takes_no_other_with_it(copies):
    folder = copies("apl", "[paper]", "[paper")
    assert tables.build("osuda-1", None, folder=folder).problems == ()
    built, problems = tables.build_all(None, folder=folder)
    assert {table.name.rpartition("-")[0] for table in built} == {
        "cbmt",
        "osuda",
        "self-ensembling",
    }
    (problem,) = problems
    assert problem.startswith(f"{folder / 'apl' / 'benchmark.toml'}: cannot be read")
    with pytest.raises(
        BadInput, match=r"unknown table 'apl-1'.*apl.benchmark.toml: cannot be read"
    ):
        tables.build("apl-1", None, folder=folder)


@pytest.mark.parametrize("width", [80, 100, render.WIDTH])
@pytest.mark.parametrize("name", ["self-ensembling-2", "osuda-1"])
def test_no_number_is_cut(put, tmp_path, make_record, name, width):
    """With every row run, names give way and numbers stay whole."""
    paper = name[:-2].replace("-", "_")
    layout = PAPERS[paper].table(name)
    suite = papers.Suite()
    for task, row, column in papers.cells(layout):
        if row.ours or not papers.implemented(row.method, suite.methods):
            continue
        protocols = {c.protocol or layout.protocol for c in layout.columns}
        classes = {one for c in layout.columns for one in c.classes}
        given = {column.metric: 0.85432 for column in layout.columns if column.metric}
        scores = {}
        for protocol in protocols:
            scores |= means(protocol, classes, **given)
        fields = {row.method: papers.full_fields(PAPERS[paper], row, column).get(row.method, {})}
        best = make_record.audit([0.5, 0.6, 0.7, 0.85432], best=scores)
        for seed in (0, 1):
            put(paper, task, row.method, seed, scores, fields=fields, audit=best,
                overrides={row.method: dict(row.overrides.get(row.method, {}))})  # fmt: skip
    console = Console(file=io.StringIO(), width=width, color_system=None)
    built = tables.build(name, tmp_path / "results", folder=BENCHMARKS)
    render.show(built, console)
    shown = console.file.getvalue()
    assert "85.43" in shown
    assert not re.search(r"\d…", shown)
    assert "…" not in shown or (width, name) == (80, "osuda-1")  # eight columns cut their heads
    assert max(map(len, shown.splitlines())) <= width
