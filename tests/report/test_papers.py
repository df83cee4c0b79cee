"""benchmark.toml and reported.csv of every paper: complete, consistent, and fitting the suite."""

import csv
import shutil
import statistics
from pathlib import Path

import pytest

from sfdabench.core import registry
from sfdabench.core.errors import BadInput
from sfdabench.report import benchmark as papers

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
NUMBERS = {  # table: printed numbers, and standard deviations beside them
    **{"apl-1": (80, 0), "apl-2": (25, 0), "osuda-1": (48, 12), "osuda-2": (64, 10)},
    **{"self-ensembling-1": (72, 72), "self-ensembling-2": (144, 0), "self-ensembling-3": (24, 0)},
    **{"cbmt-1": (56, 48), "cbmt-2": (12, 0), "cbmt-3": (10, 0), "cbmt-s1": (72, 72)},
    **{"cbmt-s2": (4, 0)},
}


@pytest.fixture(scope="module")
def found():
    tables, problems = papers.find(BENCHMARKS)
    assert problems == []
    return tables


@pytest.fixture(scope="module")
def printed(found):
    """Table -> (block, row, column) -> number."""
    tables = {name: {} for name in found}
    for folder, benchmark in {home: home for home, _ in found.values()}.items():
        numbers, problems = papers.read_reported(folder, papers.read(benchmark))
        assert problems == []
        for (table, *key), number in numbers.items():
            tables[table][tuple(key)] = number
    return tables


@pytest.mark.parametrize("name", NUMBERS)
def test_every_printed_cell_has_its_number(found, printed, name):
    table = found[name][1].table(name)
    cells = {
        (block.name, row.name, column.name)
        for block in table.blocks
        for row in table.rows
        for column in table.columns
        if not row.ours
    }
    assert set(printed[name]) == cells
    numbers = printed[name].values()
    counted = (sum(n.value is not None for n in numbers), sum(n.std is not None for n in numbers))
    assert counted == NUMBERS[name]


def test_all_tables_are_counted(found):
    assert set(found) == set(NUMBERS)
    assert tuple(map(sum, zip(*NUMBERS.values(), strict=True))) == (611, 214)


@pytest.mark.parametrize("folder", ["apl", "cbmt", "osuda", "self_ensembling"])
def test_names_and_values_fit_the_registry(folder):
    papers.validate(papers.read(BENCHMARKS / folder))


@pytest.mark.parametrize(
    ("folder", "method", "field", "other"),
    [
        ("apl", "apl", "relevance", "none"),
        ("apl", "apl", "confidence", False),
        ("apl", "mrnet", "scales", [1.0]),
        ("apl", "cbst", "portion", 0.25),
        ("apl", "threshold", "threshold", 0.8),
        ("osuda", "osuda", "entropy_weight", 5.0),
        ("osuda", "osuda", "decay_unit", "epoch"),
        ("self_ensembling", "self_ensembling", "ema_switch", 0.1428),
        ("self_ensembling", "self_ensembling", "deploy", "student"),
    ],
)
def test_a_default_other_than_the_stated_value_is_caught(folder, method, field, other):
    benchmark = papers.read(BENCHMARKS / folder)
    stated = benchmark.fields[method]
    assert stated[field] != other
    changed = benchmark.model_copy(update={"fields": {method: stated | {field: other}}})
    with pytest.raises(BadInput, match=rf"^fields\.{method}\.{field}: the benchmark says "):
        papers.validate(changed)


@pytest.mark.parametrize("folder", ["apl", "cbmt", "osuda", "self_ensembling"])
def test_the_recipe_is_the_paper_profile_of_every_task(folder):
    benchmark = papers.read(BENCHMARKS / folder)
    tasks = {block.task for table in benchmark.tables for block in table.blocks}
    tasks |= {column.task for table in benchmark.tables for column in table.columns}
    for task in filter(None, tasks):
        recipe = registry.load("tasks", task).profiles["paper"]
        for name, wanted in benchmark.recipe.items():
            if wanted is not True:  # "must be given": no task ships weights
                assert getattr(recipe, name) == wanted, f"{task}, {name}"


@pytest.mark.parametrize("name", NUMBERS)
def test_a_table_is_read_from_a_protocol_of_its_tasks(found, name):
    table = found[name][1].table(name)
    tasks = {block.task for block in table.blocks} | {column.task for column in table.columns}
    for task in filter(None, tasks):
        assert table.protocol in registry.load("tasks", task).protocols


def means(printed, found, name):
    """(row, column) -> the mean of the columns it averages, and the printed average."""
    table = found[name][1].table(name)
    return {
        (row.name, column.name): (
            statistics.fmean(printed[name][block.name, row.name, n].value for n in column.mean_of),
            printed[name][block.name, row.name, column.name],
        )
        for block in table.blocks
        for row in table.rows
        for column in table.columns
        if column.mean_of and not row.ours
    }


@pytest.mark.parametrize(
    ("name", "half", "odd"),  # half of the last printed digit; apl-1's copied rows have one decimal
    [
        ("apl-1", 0.05, {("SIFA-v2 +APL", "Avg")}),
        ("apl-2", 0.005, {("Threshold [7]", "Avg")}),
        ("osuda-2", 0.05, {("SIFA [3]", "Average HD")}),
    ],
)
def test_an_average_that_does_not_match_its_columns_says_so(printed, found, name, half, odd):
    averages = means(printed, found, name)
    assert {k for k, (mean, n) in averages.items() if abs(mean - n.value) > half + 1e-9} == odd
    for mean, number in (averages[key] for key in odd):
        assert f"{mean + 1e-9:.2f}" in number.note


def test_osuda_overall_dice_is_no_plain_mean(printed, found):
    for (row, column), (mean, got) in means(printed, found, "osuda-1").items():
        if column == "Overall Dice":
            assert got.value - mean > 6, row
            assert f"their plain mean is {mean:.2f}" in got.note
        elif abs(mean - got.value) > 0.051:
            assert f"their plain mean is {mean:.2f}" in got.note
    source = printed["osuda-1"]["HGG → LGG", "Source only", "Overall Dice"]
    assert source.std == 43.5
    assert "typesetting slip" in source.note


@pytest.mark.parametrize("name", ["osuda-1", "osuda-2"])
def test_what_a_note_of_osuda_calls_not_stated_stands_in_the_way_of_a_verdict(printed, found, name):
    columns = {column.name: column for column in found[name][1].table(name).columns}
    unstated = {key: n.note for key, n in printed[name].items() if "not stated" in n.note}
    assert {column for *_, column in unstated} == {
        column for column in columns if "HD" in column or "EnhT" in column
    }
    for (*_, column), note in unstated.items():
        assert columns[column].because in note


def test_numbers_that_a_paper_gives_twice(printed):
    for column in ("LV", "RK", "LK", "SP", "Avg"):
        assert (
            printed["apl-2"]["MRI → CT", "APL (+L_SSL)", column].value
            == printed["apl-1"]["MRI → CT", "SIFA-v1 +APL", column].value
        )


@pytest.mark.parametrize("center", ["Center 1", "Center 2"])
def test_source_centers_say_that_they_were_trained_on(printed, center):
    cells = [n for key, n in printed["self-ensembling-1"].items() if key[0] == center]
    assert all(cell.note.startswith("evaluated on training images and labels") for cell in cells)


@pytest.mark.parametrize("name", ["self-ensembling-1", "self-ensembling-2", "self-ensembling-3"])
def test_the_row_wise_hausdorff_is_called_so(printed, name):
    cells = [number for key, number in printed[name].items() if key[2] == "Hausdorff"]
    assert cells
    assert all("row-wise legacy" in cell.note for cell in cells)


def test_a_best_value_is_no_worse_than_the_last(printed):
    best = printed["self-ensembling-2"]
    for (block, row, column), last in best.items():
        if not row.endswith("*"):
            peak = best[block, f"{row}, best epoch*", column].value
            assert peak <= last.value if column == "Hausdorff" else peak >= last.value


def test_units_are_the_columns(found):
    for folder in {home for home, _ in found.values()}:
        with (folder / "reported.csv").open(encoding="utf-8", newline="") as file:
            lines = list(csv.DictReader(file))
        for line in lines:
            table = found[line["table"]][1].table(line["table"])
            assert line["unit"] == {c.name: c.unit for c in table.columns}[line["column"]]


TOML = """
seeds = 1
absent = ["elsewhere"]
paper = { title = "T", venue = "V", url = "U" }
tolerance.percent = { limit = 1.0, reason = "R" }
recipe = {}
[[tables]]
name = "t-1"
title = "Table 1"
protocol = "cbmt"
blocks = [{ name = "B", task = "refuge2rimone" }]
columns = [
    { name = "Disc", classes = ["disc"], metric = "dice", unit = "percent" },
    { name = "Cup", classes = ["cup"], metric = "dice", unit = "percent" },
    { name = "Mean", mean_of = ["Disc", "Cup"], unit = "percent" },
]
rows = [
    { name = "R", method = "mean_teacher", overrides = { mean_teacher = { ema = 0.9 } } },
    { name = "S", method = "elsewhere+cbmt" },
]
"""


@pytest.fixture
def benchmark(tmp_path):
    """benchmark(old, new) writes TOML with one change; folder B of it."""

    def write(old="", new=""):
        assert old in TOML
        (tmp_path / "b").mkdir()
        (tmp_path / "b" / "benchmark.toml").write_text(TOML.replace(old, new), encoding="utf-8")
        return tmp_path / "b"

    return write


def test_a_small_benchmark_is_valid(benchmark):
    papers.validate(papers.read(benchmark()))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('["Disc", "Cup"]', '["Disc", "Cap"]', "Mean of t-1: no column Cap to average"),
        ('["Disc", "Cup"]', '["Disc", "Mean"]', "Mean of t-1: no column Mean to average"),
        ("seeds = 1", "seeds = 0", "seeds: Input should be greater than 0"),
        ("seeds = 1", "", "seeds: Field required"),
        ('"refuge2rimone" }', '"refuge2rimone", because = "w" }', "B of t-1: has a task, give no"),
        ('"elsewhere+cbmt"', '"cbmt", elsewhere = "w"', "S of t-1: elsewhere needs tasks beside"),
    ],
)
def test_what_cannot_be_read(benchmark, old, new, message):
    with pytest.raises(BadInput, match=message):
        papers.read(benchmark(old, new))


ROW = 'method = "mean_teacher", overrides = { mean_teacher = { ema = 0.9 } }'
MEAN = 'mean_of = ["Disc", "Cup"]'
CUP = 'classes = ["cup"], metric = "dice"'


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (ROW, 'method = "cbmtt"', "t-1, R: unknown method 'cbmtt': did you mean cbmt"),
        ("ema =", "emma =", "t-1, R emma: unknown field of mean_teacher 'emma': did you mean ema"),
        ("ema = 0.9", "ema = 9", "t-1, R ema=9: Input should be less than or equal to 1"),
        ('task = "refuge2rimone"', 'task = "refuge2rim"', "t-1, B: unknown task 'refuge2rim'"),
        ("elsewhere+cbmt", 'cbmt", tasks = ["away"], read = "last', "t-1, S: unknown task 'away'"),
        (MEAN, f'protocol = "strikt", {CUP}', "unknown protocol 'strikt': did you mean strict"),
        (MEAN, f'task = "away", {CUP}', "t-1, Mean: unknown task 'away'"),
    ],
)
def test_what_names_nothing(benchmark, old, new, message):
    with pytest.raises(BadInput, match=message):
        papers.validate(papers.read(benchmark(old, new)))


FIGURE = """
[[figures]]
name = "t-a"
title = "Fig. 1"
task = "refuge2rimone"
protocol = "cbmt"
method = "cbmt"
field = "ema"
values = [0.9, 0.98]
"""


@pytest.fixture
def with_figure(benchmark):
    """with_figure(old, new) writes TOML and FIGURE with one change; the folder of it."""

    def write(old="", new=""):
        folder = benchmark()
        assert old in FIGURE
        with (folder / "benchmark.toml").open("a", encoding="utf-8") as file:
            file.write(FIGURE.replace(old, new))
        return folder

    return write


def test_a_figure_is_found_by_its_name(with_figure):
    folder = with_figure()
    papers.validate(papers.read(folder))
    found, problems = papers.find_figures(folder.parent)
    assert problems == []
    ((name, (home, benchmark)),) = found.items()
    assert (name, home, benchmark.figure(name).values) == ("t-a", folder, (0.9, 0.98))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[0.9, 0.98]", "[0.9]", "figures.0: .*values of t-a: give two or more, each once"),
        ("[0.9, 0.98]", "[0.9, 0.9]", "figures.0: .*values of t-a: give two or more, each once"),
        ('field = "ema"', "", "figures.0.field: Field required"),
        ("field =", "fields =", "figures.0.fields: Extra inputs|figures.0.field: Field required"),
        (FIGURE, FIGURE * 2, "figure t-a given twice"),
    ],
)
def test_a_figure_that_cannot_be_read(with_figure, old, new, message):
    with pytest.raises(BadInput, match=message):
        papers.read(with_figure(old, new))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("refuge2rimone", "refuge2rim", "t-a: unknown task 'refuge2rim': did you mean refuge2rim"),
        ('method = "cbmt"', 'method = "cbmtt"', "t-a: unknown method 'cbmtt': did you mean cbmt"),
        ('method = "cbmt"', 'method = "adabn+cbmt"', "t-a: unknown method 'adabn.cbmt'"),
        ('protocol = "cbmt"', 'protocol = "cbm"', "unknown protocol 'cbm': did you mean cbmt"),
        ('"ema"', '"emma"', "t-a emma: unknown field of cbmt 'emma': did you mean ema"),
        ("0.98", "9.8", "t-a ema=9.8: Input should be less than or equal to 1"),
    ],
)
def test_what_a_figure_names_and_is_not_there(with_figure, old, new, message):
    with pytest.raises(BadInput, match=message):
        papers.validate(papers.read(with_figure(old, new)))


def test_the_name_of_a_figure_belongs_to_one_paper(with_figure):
    folder = with_figure()
    shutil.copytree(folder, folder.parent / "c")
    found, problems = papers.find_figures(folder.parent)
    assert found["t-a"][0] == folder
    assert problems == [
        f"{folder.parent / 'c' / 'benchmark.toml'}: figure 't-a' is in {folder} too, which counts"
    ]


def test_rows_of_codes_that_average_over_mirror_images_say_that_ours_do_not():
    rows = {row.method: row for row in papers.read(BENCHMARKS / "apl").table("apl-2").rows}
    for name in ("cbst", "mrnet"):
        assert registry.load("methods", name)().flip is False
        assert "mirror images, ours does not (flip)" in rows[name].because
