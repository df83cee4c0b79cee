"""A split: its cases, and all that its arrays depend on, the adapter's code included."""

import sys

import numpy as np
import pytest

from sfdabench.core import registry
from sfdabench.core.errors import DataFault
from sfdabench.core.progress import Progress
from sfdabench.prepare.phantoms import phantom_root
from sfdabench.prepare.preparation import Preparation
from sfdabench.prepare.split import find_split

ADAPTER = '''
"""Drishti-GS with few cases."""
from sfdabench.datasets.drishti import Drishti

class Fickle(Drishti):
    phantom_cases = 4

    def read_label(self, case):
        label = super().read_label(case)
        {line}
        return label
'''
HOW = Preparation(size=32, crop="disc", intensity="symmetric", by_label=True)


@pytest.fixture
def write(tmp_path, monkeypatch):
    """write(line): the plug-in data set `fickle` with this line in `read_label`."""
    monkeypatch.setattr(registry, "_plugins", list(registry._plugins))
    path = tmp_path / "plugins" / "datasets" / "fickle.py"
    path.parent.mkdir(parents=True)

    def call(line):
        path.write_text(ADAPTER.format(line=line))
        sys.modules.pop("sfdabench_plugins.datasets.fickle", None)  # as a new process has it

    call("label[:] += 0")
    registry.add_plugins(tmp_path / "plugins")
    yield call
    sys.modules.pop("sfdabench_plugins.datasets.fickle", None)


@pytest.fixture
def split_of(tmp_path):
    """split_of(pattern): that split of the phantom, its cases found under one root."""
    cache = tmp_path / "cache"
    roots = []

    def call(pattern="train", **changes):
        dataset = registry.load("datasets", "fickle")()
        if not roots:
            roots.append(phantom_root("fickle", dataset, cache, print))
        quiet = Progress(quiet=True)
        settings = {"labelled": True} | changes
        return find_split("fickle", pattern, roots[0], cache, {}, HOW, quiet, **settings)

    return call


def test_an_edit_of_read_label_makes_new_arrays(write, split_of, tmp_path):
    def arrays():
        return split_of().arrays(tmp_path / "cache", Progress(quiet=True), "source")

    before, inputs = arrays(), split_of().inputs
    assert set(np.unique(before.labels())) == {0, 1, 2}
    assert arrays() == before
    write("label[label == 2] = 1  # a class is dropped")
    after = arrays()
    assert set(np.unique(after.labels())) == {0, 1}
    assert split_of().content == inputs["content"]
    assert split_of().inputs != inputs
    write("label[:] += 0")
    assert arrays() == before
    assert split_of().inputs == inputs


def test_a_split_that_is_not_there_is_named(write, split_of):
    with pytest.raises(DataFault, match="fickle has no case in split 'nowhere'; found: "):
        split_of("nowhere")
