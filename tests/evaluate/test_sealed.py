"""Masks that another process predicted: they come back, and nothing else is let in."""

import zipfile
from dataclasses import replace

import numpy as np
import pytest

from sfdabench.core import registry
from sfdabench.core.errors import RunFailed
from sfdabench.evaluate.sealed import MaskSpec, seal, unseal

SHAPES = {"strict": (2, 9, 13), "cbmt": (1, 4)}


@pytest.fixture
def cases():
    rng = np.random.default_rng(0)
    return [{name: rng.random(shape) > 0.5 for name, shape in SHAPES.items()} for _ in range(11)]


def test_sealed_masks_come_back(tmp_path, cases):
    seal(tmp_path / "e.zip", iter(cases))
    back = list(unseal(tmp_path / "e.zip", [SHAPES] * 11))
    assert len(back) == 11
    for case, again in zip(cases, back, strict=True):
        assert case.keys() == again.keys()
        assert all((case[name] == again[name]).all() for name in case)


@pytest.mark.parametrize(
    "shapes",
    [
        [SHAPES] * 10,
        [SHAPES] * 12,
        [SHAPES | {"cbmt": (1, 5)}] * 11,
        [SHAPES | {"osuda": (1, 5)}] * 11,
        [{"strict": (2, 9, 13)}] * 11,
    ],
    ids=["a case too many", "a case too few", "shape", "a protocol too few", "a protocol too many"],
)
def test_masks_of_other_cases_are_refused(tmp_path, cases, shapes):
    seal(tmp_path / "e.zip", iter(cases))
    with pytest.raises(RunFailed, match="not the masks that were to be predicted"):
        list(unseal(tmp_path / "e.zip", shapes))


@pytest.mark.parametrize("content", [b"", b"x" * 100])
def test_what_is_no_archive_is_refused(tmp_path, content):
    (tmp_path / "e.zip").write_bytes(content)
    with pytest.raises(RunFailed, match=r"e\.zip: not the masks"):
        list(unseal(tmp_path / "e.zip", []))


def test_an_entry_that_unpacks_to_more_than_its_mask_is_not_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / "e.zip", "w", zipfile.ZIP_DEFLATED) as z:
        z.writestr("0/strict/2x9x13", b"\0" * 2**24)
    with pytest.raises(RunFailed, match="16777216 bytes for 2x9x13"):
        list(unseal(tmp_path / "e.zip", [{"strict": (2, 9, 13)}]))


def test_a_spec_goes_through_plain_values():
    task = registry.load("tasks", "refuge2drishti")
    protocols = {name: registry.load("protocols", name) for name in registry.names("protocols")}
    protocols = {name: replace(p, exceptions={}) for name, p in protocols.items()}
    spec = MaskSpec.of(task, protocols)
    assert MaskSpec.read(spec.plain()) == spec
