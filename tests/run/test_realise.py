"""One stage from its value and granted folders: made once, checked, made again where damaged."""

import pytest
import torch

from sfdabench.checks.toy import Killed
from sfdabench.core.errors import BadInput, RunFailed
from sfdabench.core.progress import Progress
from sfdabench.run import artefacts
from sfdabench.run.grants import Granted, Grants
from sfdabench.run.making import model_of
from sfdabench.run.plan import resolve
from sfdabench.run.realise import realise
from sfdabench.stages.source_training import SourceTraining

QUIET = Progress(quiet=True)


@pytest.fixture
def train(monkeypatch, in_process):
    """train(body): what stands in for the training; returns the list of thread counts seen."""

    def be(body):
        counts = []

        def stand_in(self, context):
            counts.append(torch.get_num_threads())
            return body(context)

        monkeypatch.setattr(SourceTraining, "train", stand_in)
        return counts

    return be


@pytest.fixture
def make(tmp_path):
    """make(): the source model of the tiny task, in a cache of its own; `said` are its lines."""
    run = resolve(method="source_only", task="tiny", seed=0, data=None, out=tmp_path, device="cpu")

    def grants():
        prepared = {
            "source": run.source_train[0].arrays(run.cache, QUIET, "source"),
            "validation": run.source_test[0].arrays(run.cache, QUIET, "source test"),
        }
        folders = {r: (Granted(p.images_folder, p.labels_folder),) for r, p in prepared.items()}
        return Grants(splits=folders)

    def realised(grants=grants, **changes):
        progress = Progress(quiet=True)
        progress.say = realised.said.append
        flags = {"cache": tmp_path / "cache", "device": "cpu", "progress": progress}
        return realise(run.source, grants, **flags | changes)

    realised.said, realised.stage, realised.stages = [], run.source, tmp_path / "cache" / "stages"
    return realised


def untrained(context):
    context.note(selected_epoch=1, validation_dice=0.5)
    return context.model()


def test_a_model_is_made_once_and_named_by_its_content(make, train):
    counts = train(untrained)

    def never():
        raise AssertionError("asked for what it may read")

    first = make()
    again = make(grants=never)
    assert len(counts) == 1
    assert again == first
    assert first.folder.name == make.stage.folder_name
    assert (first.stage.key, first.card.notes) == (
        make.stage.key,
        {"selected_epoch": 1, "validation_dice": 0.5},
    )
    names = {path.name for path in first.folder.parent.iterdir()} - {f"{first.folder.name}.lock"}
    assert names == {first.folder.name}, "the work folder is gone"
    assert {path.name for path in first.folder.iterdir()} == {"card.json", "weights.safetensors"}
    model = model_of(first, "cpu", "float32")
    assert not model.training
    for name, value in model.weights().items():
        assert torch.equal(value, first.state()[name])


def test_force_makes_it_again(make, train):
    counts = train(untrained)
    assert make(force=True).card.sha256 == make(force=True).card.sha256
    assert len(counts) == 2


@pytest.mark.parametrize("card", [b"{}", b"[]", b'{"sha2'])
def test_a_model_without_a_readable_card_is_made_anew(make, train, card):
    counts = train(untrained)
    first = make()
    (first.folder / "card.json").write_bytes(card)
    assert make().card.sha256 == first.card.sha256
    (line,) = make.said
    assert str(first.folder / "card.json") in line
    assert line.endswith("; made anew")
    make()
    assert (len(counts), len(make.said)) == (2, 1)


def test_the_card_of_another_stage_is_no_card_of_this_one(make, train):
    train(untrained)
    first = make()
    other = first.card.model_copy(update={"key": "0" * 64})
    artefacts.write_card(first.folder, other)
    with pytest.raises(BadInput, match=r"card\.json: the card of another stage"):
        artefacts.read_card(first.folder)
    assert make().card.key == make.stage.key


def test_a_file_beside_the_card_is_held_to_its_hash(make, train):
    train(untrained)
    first = make()
    weights = first.folder / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(BadInput, match=r"weights\.safetensors"):
        first.state()
    assert make().card == make().card
    (line,) = make.said
    assert "weights.safetensors: does not have its recorded hash; made anew" in line


def test_what_fails_leaves_nothing_behind(make, train):
    def diverged(context):
        raise ValueError("diverged")

    train(diverged)
    with pytest.raises(RunFailed, match="ValueError: diverged"):
        make()
    assert [path.suffix for path in make.stages.iterdir()] == [".lock"]


def test_a_killed_training_goes_on_with_the_threads_it_was_begun_with(make, train):
    def killed(context):
        raise Killed

    begun = train(killed)
    with pytest.raises(Killed):
        make(threads=2)
    assert {path.name for path in make.stages.glob("*.work/*")} == {"open", "threads"}
    ended = train(untrained)
    assert make(threads=1).card.threads == 2
    assert (begun, ended) == ([2], [2])
