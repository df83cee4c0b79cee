"""`sfdabench table`: one, the list, all of them."""

import csv
import re
import sys
from pathlib import Path

import pytest

from sfdabench import cli
from sfdabench.report import render, tables


@pytest.fixture(scope="module")
def phantom(tmp_path_factory, make_record):
    """Records of four methods on two tasks of CBMT's first table."""
    out = tmp_path_factory.mktemp("phantom")
    scores = make_record.means(["strict", "cbmt"], ["cup", "disc"], assd_mean=9.0)
    for task in ("refuge2rimone", "refuge2drishti"):
        for method in ("source_only", "cbmt", "pseudo_label", "supervised"):
            make_record.keep(out, make_record(method, task=task, scores=scores))
    return out


@pytest.fixture
def table(monkeypatch, capsys):
    """Exit code, standard output and error of `sfdabench table ARGUMENTS`."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["sfdabench", "table", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return stop.value.code, *capsys.readouterr()

    return call


def test_the_list_says_how_much_is_measured(table, phantom, tmp_path):
    code, out, err = table("--results", phantom)
    assert (code, err) == (0, "")
    by_name = dict(line.split(": ", 1) for line in out.splitlines())
    assert list(by_name) == tables.list_tables()
    measured = {name: re.search(r"; (\d+) of (\d+) cells", said) for name, said in by_name.items()}
    assert int(measured["cbmt-1"][1]) >= 10  # W/o DA and CBMT by four columns, the oracle by two
    assert [measured[name][2] for name in ("cbmt-1", "osuda-2")] == ["56", "64"]
    code, out, err = table("--results", tmp_path / "absent")
    assert (code, len(out.splitlines())) == (0, len(by_name))
    assert "no such folder; nothing has been run into it yet" in err


def test_all_tables_in_every_format(table, phantom, tmp_path):
    code, out, err = table("--all", "--results", phantom, "--out", tmp_path / "new" / "tables")
    assert (code, out) == (0, "")
    written = {path.name for path in (tmp_path / "new" / "tables").iterdir()}
    assert written == {f"{n}{s}" for n in tables.list_tables() for s in (".csv", ".md", ".tex")}
    assert err.count("wrote ") == len(written)
    text = (tmp_path / "new" / "tables" / "cbmt-1.md").read_text(encoding="utf-8")
    assert text == render.markdown(tables.build("cbmt-1", phantom))


@pytest.mark.parametrize("every", [True, False])
def test_long_is_one_cell_a_row(table, phantom, tmp_path, every):
    path = tmp_path / "cbmt-2.csv"
    which = ("--all", "--out", tmp_path) if every else ("cbmt-2", "--format", "csv", "--out", path)
    found = []
    for long in ([], ["--long"]):
        code, _, _ = table(*which, *long, "--results", phantom)
        assert code == 0
        with path.open(encoding="utf-8", newline="") as file:
            found.append(list(csv.DictReader(file)))
    wide, narrow = found
    assert len(narrow) == 2 * len(wide)  # two columns
    assert [line["published"] for line in narrow[:2]] == ["64.19", "15.11"]
    assert (wide[0]["Avg. Dice [%]"], wide[0]["Avg. ASSD [px]"]) == ("64.19", "15.11")
    assert narrow[0]["measured"] == wide[0]["Avg. Dice [%] measured"] != ""


def test_a_kind_of_data_is_chosen_with_kind(table, phantom):
    code, out, _ = table("cbmt-1", "--results", phantom, "--kind", "real")
    assert code == 0
    count = len(list(phantom.glob("refuge2*/*/*.json")))  # of the table's tasks
    assert f"not shown: {count} records of phantom data, profile phantom" in out
    code, _, err = table("cbmt-1", "--data", "real")
    assert code == 2
    assert "--data" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--all"], "--out DIR"),
        (["cbmt-1", "--all", "--out", "x"], "give no NAME"),
        (["--out", "x"], "name a table, or give --all"),
        (["cbmt-1", "--long"], "--long: for --format csv, not text"),
        (["--long"], "--long: name a table"),
        (["--format", "csv"], "--format csv: name a table"),
        (["--all", "--out", "x", "--format", "latex"], "--format latex: --all writes every format"),
        (["cbmt-1", "--out", "."], "--out .: a folder; name a file, or give --all"),
        (["--all", "--out", "/dev/null/x"], "--out"),
        (["--profile", "papr"], "unknown profile 'papr': did you mean paper"),
    ],
)
def test_bad_input(table, monkeypatch, tmp_path, arguments, message):
    monkeypatch.chdir(tmp_path)
    code, out, err = table(*arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert not list(Path.cwd().iterdir())
