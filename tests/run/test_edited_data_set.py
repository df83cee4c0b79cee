"""After an edit of a data set's code, `run` and `run --force` give what the new code gives."""

import json
import sys

import pytest

from sfdabench.core import registry

ADAPTER = """
from sfdabench.datasets.drishti import Drishti

class Fickle(Drishti):
    phantom_cases = 14

    def read_label(self, case):
        label = super().read_label(case)
        {line}
        return label
"""
TASK = """
from dataclasses import replace

from sfdabench.core.task import Domain
from sfdabench.tasks.refuge2drishti import TASK as _FUNDUS

_FAST = replace(
    _FUNDUS.profiles["phantom"], size=32, epochs=2, network_fields={"width": 4, "depth": 2}
)
TASK = replace(
    _FUNDUS,
    source=(Domain("tiny_source"),),
    target=Domain("fickle"),
    profiles={**_FUNDUS.profiles, "phantom": _FAST},
)
"""


@pytest.fixture
def run(tmp_path, monkeypatch, sfdabench):
    """run(line, flag): what `run --json` says where the target's `read_label` has this line."""
    monkeypatch.setattr(registry, "_plugins", list(registry._plugins))
    for kind, name, text in (("tasks", "fickle", TASK), ("datasets", "fickle", ADAPTER)):
        (tmp_path / kind).mkdir()
        (tmp_path / kind / f"{name}.py").write_text(text)

    def call(line, *flags):
        (tmp_path / "datasets" / "fickle.py").write_text(ADAPTER.format(line=line))
        sys.modules.pop("sfdabench_plugins.datasets.fickle", None)  # as a new process has it
        names = ("--method", "source_only", "--task", "fickle", "--plugins", tmp_path)
        where = ("--out", tmp_path / "out", "--device", "cpu", "--json")
        code, out, err = sfdabench("run", *names, *where, *flags)
        assert code == 0, err
        return json.loads(out)

    yield call
    for kind in ("tasks", "datasets"):
        sys.modules.pop(f"sfdabench_plugins.{kind}.fickle", None)


def test_a_dropped_class_moves_the_scores(run):
    as_it_was, dropped = "label[:] += 0", "label[label == 2] = 1  # the cup"
    before = run(as_it_was)
    after = run(dropped)
    forced = run(dropped, "--force")
    assert before["scores"]["strict"]["cup"]["dice"] > 0
    assert after["scores"]["strict"]["cup"]["dice"] == 0
    assert after["record"] != before["record"]
    assert after["source_sha256"] == before["source_sha256"]
    assert forced["scores"] == after["scores"]
    again = run(as_it_was, "--force")
    assert again["record"] == before["record"]
    assert again["scores"] == before["scores"]
