"""The committed tables are what the committed records render to."""

import pytest

from sfdabench.core.paths import shipped
from sfdabench.report import render, tables
from sfdabench.store import records

NAMES = set(tables.list_tables())
TABLES = sorted(path for path in shipped("results").glob("*/*.md") if path.stem in NAMES)
SETS = sorted({path.parent for path in TABLES})


def test_there_are_results():
    assert {folder.name for folder in SETS} >= {"phantom", "real-fundus-128px", "real-abdomen-96px"}
    assert {path.stem for path in TABLES} >= {"cbmt-1", "apl-1", "osuda-1", "self-ensembling-1"}


@pytest.mark.parametrize("path", TABLES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_committed_tables_are_rendered_from_the_records(path):
    built = tables.build(path.stem, path.parent)
    assert not built.problems
    committed = path.read_text(encoding="utf-8")
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
