"""benchmark.toml and reported.csv of CBMT hold together, and say so where they do not."""

import csv
import shutil
from pathlib import Path

import pytest

from sfdabench.core import registry
from sfdabench.core.errors import BadInput
from sfdabench.report import benchmark as papers

CBMT = Path(__file__).parents[2] / "benchmarks" / "cbmt"


@pytest.fixture(scope="module")
def benchmark():
    return papers.read(CBMT)


@pytest.fixture(scope="module")
def printed(benchmark):
    found, problems = papers.read_reported(CBMT, benchmark)
    assert problems == []
    return found


@pytest.fixture
def copy(tmp_path):
    shutil.copytree(CBMT, tmp_path / "cbmt")
    return tmp_path / "cbmt"


def test_a_dash_says_so_and_has_no_spread(printed):
    dashes = [number for number in printed.values() if number.value is None]
    assert len(dashes) == 8
    assert all(number.std is None and number.note == "not reported" for number in dashes)


def test_as_printed_to_two_decimals():
    with (CBMT / "reported.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert all(len(line["value"].partition(".")[2]) == 2 for line in lines if line["value"])
    assert all(0 < float(line["value"]) < 100 for line in lines if line["value"])


@pytest.mark.parametrize(("kind", "average"), [("Dice", 87.26), ("ASSD", 7.29)])
def test_the_ablation_averages_disc_and_cup(printed, kind, average):
    disc, cup = (
        printed["cbmt-1", "RIM-ONE-r3", "CBMT(Ours)", f"{part} {kind}"].value
        for part in ("Disc", "Cup")
    )
    full = printed["cbmt-2", "RIM-ONE-r3", "P-L + EMA + Aug. + Calib.", f"Avg. {kind}"].value
    assert full == average
    assert (disc + cup) / 2 == pytest.approx(average, abs=0.00501)  # 7.285 is printed 7.29


def test_numbers_that_the_paper_gives_twice(printed):
    def dice(table, row):
        return printed[table, "RIM-ONE-r3", row, "Avg. Dice"].value

    for ablation, views in (
        ("P-L + EMA + Calib.", "Weak to teacher, weak to student"),
        ("P-L + EMA + Aug. + Calib.", "Weak to teacher, strong to student"),
    ):
        assert dice("cbmt-2", ablation) == dice("cbmt-s2", views)
    ours, best = (
        printed["cbmt-1", "RIM-ONE-r3", row, "Disc Dice"].value for row in ("CBMT(Ours)", "DPL [4]")
    )
    assert ours - best == pytest.approx(3.23)  # "dice gains by 3.23 on disc", §3.1


def edit(folder, name, old, new):
    path = folder / name
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "refuge2rimone",
            "refuge2rimon",
            "unknown task 'refuge2rimon': did you mean refuge2rimone",
        ),
        ('strong = "identity"', 'strog = "identity"', "unknown field of mean_teacher 'strog'"),
        ('strong = "identity"', 'strong = "hard"', "strong=hard"),
        ("alpha = 0.2\n", "alpha = 0.3\n", "fields.cbmt.alpha: the benchmark says 0.3, .* 0.2"),
        ('"dice"', '"dise"', "unknown metric of protocol cbmt 'dise': did you mean dice"),
        ('["disc"]', '["disk"]', "unknown class of refuge2rimone 'disk': did you mean disc"),
        ('protocol = "cbmt"', 'protocol = "cbm"', "unknown protocol 'cbm'"),
    ],
)
def test_validation_names_what_is_unknown(copy, old, new, message):
    edit(copy, "benchmark.toml", old, new)
    with pytest.raises(BadInput, match=message):
        papers.validate(papers.read(copy))


AVERAGE = 'name = "Avg. Dice", classes = ["disc", "cup"], metric = "dice", scale = 100'


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('name = "cbmt-2"', 'nam = "cbmt-2"', "tables.1.name: Field required"),
        ('unit = "pixel"', 'unit = "miles"', "tables.0.columns.1.unit"),
        ("{ cbmt = { strong", "{ cmbt = { strong", "overrides cmbt, which it does not run"),
        ('name = "AdaBN"', 'name = "Mean teacher"', "Mean teacher of cbmt-1 given twice"),
        ('curve = "weight", ', "", "give metric and classes, or curve, or mean_of"),
        ("[tolerance.1]", "[tolerance.percent]", "cannot be read"),
        ("limit = 0.02", "limit = inf", "limit: Input should be a finite number"),
        ("limit = 0.02", "limit = 1e999", "limit: Input should be a finite number"),
        ("limit = 0.02", "limit = -1", "limit: Input should be greater than or equal to 0"),
        (AVERAGE, AVERAGE.replace("100", "0"), "scale: Input should be greater than 0"),
        (AVERAGE, AVERAGE.replace("100", "nan"), "scale: Input should be a finite number"),
        ("[paper]", "[paper", "cannot be read"),
    ],
)
def test_a_faulty_benchmark_is_one_clear_error(copy, old, new, message):
    edit(copy, "benchmark.toml", old, new)
    with pytest.raises(BadInput, match=message) as error:
        papers.read(copy)
    assert "benchmark.toml" in str(error.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "DAE [15]",
            "DAEE [15]",
            "line 22: cbmt-1 / RIM-ONE-r3 / DAEE [15] / Disc Dice matches no",
        ),
        ("89.08,3.32", "89.o8,3.32", "line 22: could not convert string to float: '89.o8'"),
        ("89.08,3.32", "nan,3.32", "line 22: nan is not a number"),
        ("DAE [15]", "SRDA [1]", "SRDA [1] / Disc Dice given twice; the first counts"),
        ("3.32,percent", "3.32,pixel", "line 22: unit pixel, the benchmark's is percent"),
    ],
)
def test_a_faulty_line_is_named_and_the_rest_is_read(copy, old, new, message, benchmark, printed):
    edit(copy, "reported.csv", old, new)
    found, problems = papers.read_reported(copy, benchmark)
    assert len(found) == len(printed) - 1
    assert len(problems) == 1
    assert message in problems[0]


@pytest.mark.parametrize("text", ["", "table,row\n", None])
def test_reported_csv_without_its_columns(copy, benchmark, text):
    (copy / "reported.csv").unlink()
    if text is not None:
        (copy / "reported.csv").write_text(text, encoding="utf-8")
    found, problems = papers.read_reported(copy, benchmark)
    assert found == {}
    assert "reported.csv" in problems[0]


def test_a_table_name_belongs_to_one_paper(copy):
    shutil.copytree(copy, copy.parent / "again")
    found, problems = papers.find(copy.parent)
    assert found["cbmt-1"][0] == copy.parent / "again"  # the first in the order of names
    assert len(problems) == len(found)
    assert f"table 'cbmt-1' is in {copy.parent / 'again'} too, which counts" in problems[0]


def test_methods_to_come_are_known_by_name_only(benchmark):
    methods = registry.names("methods")
    asked = {row.method for table in benchmark.tables for row in table.rows}
    assert {name for name in asked if papers.implemented(name, methods)} == asked & set(methods)
    assert papers.implemented("adabn+cbmt", methods)
    assert not papers.implemented("adabn+nothing", methods)
