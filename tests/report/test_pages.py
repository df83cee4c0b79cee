"""docs/write_methods.py: the pages of methods, on records written by hand."""

import importlib.util
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "docs" / "write_methods.py"


@pytest.fixture
def pages(tmp_path, monkeypatch):
    """The script, writing into a folder of the test."""
    spec = importlib.util.spec_from_file_location("write_methods", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    monkeypatch.setattr(script, "OUT", tmp_path / "methods")
    return script


@pytest.fixture
def put(tmp_path, make_record):
    """put(task, method, seed, Dice of both classes, **changed keys): a record of two epochs.

    The source model has a Dice of 0.5.
    """

    def write(task, method, seed=0, dice=0.8, **keys):
        scores, before = (
            make_record.means(["strict"], ["cup", "disc"], dice=value) for value in (dice, 0.5)
        )
        plain = {"task": task, "scores": scores, "audit": make_record.audit([0.75, dice], scores)}
        if keys.get("status") == "failed":
            plain = {"task": task}
        record = make_record(method, seed, **plain | keys)
        if record.unadapted:
            record = make_record.keep_source(tmp_path / "results", record, before)
        count = len(list((tmp_path / "results" / task / method).glob("?.json")))
        make_record.keep(tmp_path / "results", record, name=str(count))

    return write


def test_every_page_is_written_though_a_task_has_failed_runs_only(
    pages, put, tmp_path, monkeypatch, capsys
):
    put("refuge2rimone", "cbmt", dice=0.8)
    put("refuge2rimone", "cbmt", seed=1, dice=0.9)
    put("refuge2rimone", "cbmt", overrides={"cbmt": {"ema": 0.9, "alpha": 0.5}})
    put("refuge2rimone", "adabn", status="failed", reason="diverged")
    put("hgg2lgg", "cbmt", status="failed", reason="out of memory")
    monkeypatch.setattr(sys, "argv", ["write_methods", "--results", str(tmp_path / "results")])
    pages.main()
    said = capsys.readouterr().err
    assert "refuge2rimone/adabn/0.json (adabn, seed 0): failed (diverged), left out" in said
    assert "no run of hgg2lgg is finished" in said
    written = {path.name for path in (tmp_path / "methods").iterdir()}
    assert {f"{name}.md" for name in pages.registry.names("methods")} | {"README.md"} <= written
    page = (tmp_path / "methods" / "cbmt.md").read_text(encoding="utf-8")
    assert "| `source_only` | 2 | 50.0 ± 0.0 | 50.0 ± 0.0 | |" in page
    assert "| `cbmt` | 2 | 85.0 ± 7.1 | 85.0 ± 7.1 | 0.0 |" in page
    assert "| `cbmt alpha=0.5 ema=0.9` | 1 | 80.0 | 80.0 | 0.0 |" in page
    assert "![Dice by epoch of adaptation](cbmt.svg)" in page
    assert {path for path in written if path.endswith(".svg")} == {"cbmt.svg"}
    page = (tmp_path / "methods" / "adabn.md").read_text(encoding="utf-8")
    assert "## Measured" not in page


def test_rows_of_papers_are_labelled_as_runs_are(pages):
    rows = list(pages.rows_in_papers("apl"))
    assert "| `apl-2` | APL (L_Con) | `apl confidence=false` |" in rows
    assert "| `apl-1` | CyCADA +APL | `cycada+apl cycada.heads=both` |" in rows
