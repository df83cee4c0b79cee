"""A source model as a small file and back."""

import pytest
import torch

from sfdabench.campaign import portable
from sfdabench.core.errors import BadInput
from sfdabench.core.head import SIGMOID
from sfdabench.core.progress import Progress
from sfdabench.core.stage import Problem, Stage
from sfdabench.models.weights import sha256, to_bytes
from sfdabench.run import artefacts, realise, sources

QUIET = Progress(quiet=True)
STATE = {"weight": torch.tensor([1 / 3, -2.5, 0.0]), "batches": torch.tensor(70001)}
NOTES = {"selected_epoch": 3, "validation_dice": 0.9}
STAGE = Stage(
    kind="stages",
    name="source_training",
    fields={},
    code={},
    network="unet_small",
    network_fields={},
    problem=Problem({"disc": (1,)}, SIGMOID, 3, "light", "cross_entropy"),
)


@pytest.fixture
def trained(tmp_path):
    return sources.put(tmp_path / "a", STAGE, to_bytes(STATE), notes=NOTES, seconds=1.5)


def test_there_and_back(tmp_path, trained):
    data = portable.pack(trained)
    placed = portable.unpack(data, "x", tmp_path / "b", STAGE)
    state = placed.state()
    assert state["batches"] == 70001, "beyond what float16 holds"
    assert state["weight"].dtype == torch.float32
    assert torch.equal(state["weight"], STATE["weight"].half().float())
    card = artefacts.read_card(artefacts.place(tmp_path / "b", STAGE)).card
    assert card == placed.card
    assert (card.key, card.sha256) == (STAGE.key, sha256(state))
    assert (card.notes, card.seconds) == (NOTES, 1.5)
    assert portable.pack(placed) == data, "rounded once is rounded for good"


def test_the_cache_takes_it_as_its_own(tmp_path, trained):
    placed = portable.unpack(portable.pack(trained), "x", tmp_path / "b", STAGE)

    def never():
        raise AssertionError("trained anew")

    again = realise.realise(STAGE, never, cache=tmp_path / "b", device="cpu", progress=QUIET)
    assert again == placed


def test_it_takes_the_place_of_what_is_there(tmp_path, trained):
    other = {**STATE, "batches": torch.tensor(1)}
    sources.put(tmp_path / "b", STAGE, to_bytes(other), notes=NOTES)
    portable.unpack(portable.pack(trained), "x", tmp_path / "b", STAGE)
    placed = realise.find(tmp_path / "b", STAGE, (), QUIET.say)
    assert placed.state()["batches"] == 70001


def test_a_file_that_is_none_is_named(tmp_path):
    with pytest.raises(BadInput, match=r"here\.safetensors: not a whole safetensors file"):
        portable.unpack(b"no", "here.safetensors", tmp_path, STAGE)
    with pytest.raises(BadInput, match=r"here\.safetensors: no source model"):
        portable.unpack(to_bytes(STATE), "here.safetensors", tmp_path, STAGE)
