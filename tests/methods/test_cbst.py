"""Rounds, portions and quotas (methods-cross-modality.md §3.2)."""

import contextlib

import pytest
import torch

from sfdabench.checks.toy import Killed, Toy, attempt, draw
from sfdabench.core.checkpoint import read
from sfdabench.core.head import SOFTMAX
from sfdabench.methods.cbst import CBST
from sfdabench.models.weights import sha256
from sfdabench.primitives.pseudo_labels import IGNORE, class_balanced_labels, class_thresholds

TOY = Toy(head=SOFTMAX)


def portions(monkeypatch, folder, **fields):
    """What each round asks for."""
    asked = []
    labels = CBST.labels

    def recorded(self, context, model, portion):
        asked.append(portion)
        return labels(self, context, model, portion)

    monkeypatch.setattr(CBST, "labels", recorded)
    attempt(CBST(epochs=1, batch_size=9, **fields), TOY, folder)
    return asked


def test_three_rounds_of_a_growing_portion(monkeypatch, tmp_path):
    assert portions(monkeypatch, tmp_path) == pytest.approx([0.2, 0.25, 0.3])
    assert len(list(tmp_path.glob("stage-*"))) == 3


def test_the_portion_has_an_end(monkeypatch, tmp_path):
    asked = portions(monkeypatch, tmp_path, rounds=3, portion_step=0.2)
    assert asked == pytest.approx([0.2, 0.4, 0.5])


def test_the_share_that_is_kept_is_about_the_portion(tmp_path):
    """About: a pixel may also be kept as a class that it does not win."""
    attempt(CBST(rounds=1, epochs=1, batch_size=9, portion=0.3, sampling=1), TOY, tmp_path)
    (kept,) = read(tmp_path / "stage-0.safetensors")["curves"]["kept"]
    assert 0.29 < kept < 0.4


def test_the_first_loss_is_that_of_each_image_s_own_labels(tmp_path):
    method = CBST(rounds=1, epochs=1, batch_size=9, sampling=1)
    done = attempt(method, TOY, tmp_path)
    images, _ = draw(TOY, "target", 9, foreground=True)
    with torch.no_grad():
        maps = done.start(torch.from_numpy(images).float() / 127.5 - 1).softmax(dim=1)
    highest, winner = maps.max(dim=1)
    thresholds = class_thresholds([highest[winner == c] for c in range(3)], 0.2)
    labels = class_balanced_labels(maps, thresholds)
    kept = labels != IGNORE
    chosen = maps.gather(1, labels.masked_fill(~kept, 0).long())
    (loss,) = read(tmp_path / "stage-0.safetensors")["curves"]["loss"]
    assert loss == pytest.approx(-chosen[kept].log().mean().item(), rel=1e-5)


def test_winners_by_hand():
    """Class 0 wins three of five pixels, of which every second is looked at."""
    maps = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3], [0.6, 0.4], [0.4, 0.6]]).T
    first, second = CBST(sampling=2).winners(maps.view(2, 1, 5))
    assert first.tolist() == pytest.approx([0.9, 0.6])
    assert second.tolist() == pytest.approx([0.8])
    assert [len(v) for v in CBST(sampling=1).winners(maps.view(2, 5, 1))] == [3, 2]


def test_every_round_starts_with_a_new_optimiser(monkeypatch, tmp_path):
    """Without momentum from the round before."""
    fresh, step = [], torch.optim.SGD.step

    def recorded(self, *arguments):
        fresh.append(not self.state)
        return step(self, *arguments)

    monkeypatch.setattr(torch.optim.SGD, "step", recorded)
    attempt(CBST(rounds=2, epochs=1, batch_size=5), TOY, tmp_path)
    assert fresh == [True, False, True, False]


@pytest.mark.parametrize("kill_after", [0, 1, 2])
def test_killed_within_a_round_the_labels_are_those_of_its_start(kill_after, tmp_path):
    method = CBST(rounds=2, epochs=2, batch_size=4, learning_rate=1e-2)
    whole = attempt(method, TOY, tmp_path / "whole").deployed
    with contextlib.suppress(Killed):
        attempt(method, TOY, tmp_path / "killed", kill_after=kill_after)
    resumed = attempt(method, TOY, tmp_path / "killed").deployed
    assert sha256(resumed.weights()) == sha256(whole.weights())


def test_batch_norm_stays(tmp_path):
    done = attempt(CBST(epochs=1), TOY, tmp_path)
    before, after = done.start.weights(), done.deployed.weights()
    assert torch.equal(before["stem.1.weight"], after["stem.1.weight"])
    assert torch.equal(before["stem.1.running_var"], after["stem.1.running_var"])
    assert not torch.equal(before["stem.0.weight"], after["stem.0.weight"])
