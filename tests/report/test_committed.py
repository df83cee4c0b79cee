"""The committed tables and figures are what the committed records render to."""

import pytest

from sfdabench.core.paths import shipped
from sfdabench.report import render, runs, tables
from sfdabench.report.figures import curves
from sfdabench.store import cases, records

NAMES = set(tables.list_tables())
FOLDERS = sorted({path.parent.parent.parent for path in shipped("results").glob("*/*/*/*.json")})


def stored(folder):
    """The records of a set, all of them read; none of a set that is to be refreshed as a whole."""
    found, problems = records.read_all(folder)
    old = [problem for problem in problems if "record schema 1, this version" in problem]
    assert old == problems
    assert not (found and old), "a set is of one schema"
    return found


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_committed_tables_are_rendered_from_the_records(folder):
    written = [path for path in sorted(folder.glob("*.md")) if path.stem in NAMES]
    assert written
    for path in written if stored(folder) else ():
        built = tables.build(path.stem, folder)
        assert not built.problems
        committed = path.read_text(encoding="utf-8")
        assert render.FORMATS["markdown"](built).rstrip() == committed.rstrip()


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_committed_records_are_whole_and_hold_no_path(folder):
    for record in stored(folder):
        assert record.done
        assert cases.read(folder / record.path)
        assert records.unadapted_of(record, folder).done
        text = (folder / record.path).read_text(encoding="utf-8")
        assert '"/' not in text, f"{record.path} holds an absolute path"


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_committed_records_make_curves(folder):
    for task in sorted({record.task for record in stored(folder)}):
        compared = runs.compare(folder, task).only([])
        assert curves.draw(compared, "strict", "t").axes[0].lines
