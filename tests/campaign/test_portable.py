"""A source model as a small file and back."""

import json

import pytest
import torch

from sfdabench.campaign import portable
from sfdabench.core.errors import BadInput
from sfdabench.models.weights import from_bytes, sha256, to_bytes
from sfdabench.stages import source_training as train

STATE = {"weight": torch.tensor([1 / 3, -2.5, 0.0]), "batches": torch.tensor(70001)}
INFO = {"selected_epoch": 3, "validation_dice": 0.9, "seconds": 1.5, "curves": {"loss": [1.0]}}


def test_there_and_back(tmp_path):
    train.put(tmp_path / "a", STATE, INFO)
    data = portable.pack(tmp_path / "a")
    found = portable.unpack(data, "x", tmp_path / "b")
    state, _ = from_bytes(found.path.read_bytes(), found.path)
    assert state["batches"] == 70001, "beyond what float16 holds"
    assert state["weight"].dtype == torch.float32
    assert torch.equal(state["weight"], STATE["weight"].half().float())
    assert found.sha256 == sha256(state)
    assert json.loads((tmp_path / "b" / "source.json").read_text()) == {
        "sha256": found.sha256,
        **INFO,
    }
    assert portable.pack(tmp_path / "b") == data, "rounded once is rounded for good"


def test_the_cache_takes_it_as_its_own(tmp_path):
    train.put(tmp_path / "a", STATE, INFO)
    placed = portable.unpack(portable.pack(tmp_path / "a"), "x", tmp_path / "b")

    def never(*_):
        raise AssertionError("trained anew")

    found = train.cached(tmp_path / "b", never, never, print)
    assert (found.path, found.sha256) == (placed.path, placed.sha256)


def test_a_file_that_is_none_is_named(tmp_path):
    with pytest.raises(BadInput, match=r"here\.safetensors: not a whole safetensors file"):
        portable.unpack(b"no", "here.safetensors", tmp_path)
    with pytest.raises(BadInput, match=r"here\.safetensors: no source model"):
        portable.unpack(to_bytes(STATE), "here.safetensors", tmp_path)
