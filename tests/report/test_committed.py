"""The committed tables are what the committed records render to."""

from pathlib import Path

import pytest

from sfdabench.core.paths import shipped
from sfdabench.report import render, tables
from sfdabench.store import records

SETS = sorted(path.parent for path in shipped("results").glob("*/cbmt-1.md"))


def test_there_are_results():
    assert {folder.name for folder in SETS} >= {"phantom", "real-128px"}


@pytest.mark.parametrize("folder", SETS, ids=lambda folder: folder.name)
def test_committed_tables_are_rendered_from_the_records(folder):
    built = tables.build("cbmt-1", folder)
    assert not built.problems
    committed = Path(folder / "cbmt-1.md").read_text(encoding="utf-8")
    assert render.FORMATS["markdown"](built).rstrip() == committed.rstrip()


@pytest.mark.parametrize("folder", SETS, ids=lambda folder: folder.name)
def test_committed_records_are_whole_and_hold_no_path(folder):
    found, problems = records.read_all(folder)
    assert not problems
    assert len(found) >= 6
    for record in found:
        assert record["status"] == "done"
        text = (folder / record["path"]).read_text(encoding="utf-8")
        assert '"/' not in text, f"{record['path']} holds an absolute path"
