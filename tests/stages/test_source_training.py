import copy
import dataclasses

import pytest
import torch

from sfdabench.checks.toy import Killed, Toy, _labelled, draw
from sfdabench.core.streams import Clock
from sfdabench.core.task import Recipe
from sfdabench.models.segmenter import Segmenter
from sfdabench.models.weights import sha256
from sfdabench.networks.deeplabv2_resnet101 import DeepLabV2ResNet101
from sfdabench.networks.unet_small import UNetSmall
from sfdabench.stages.source_training import cached, train, validation_dice

RECIPE = Recipe(size=24, network="unet_small", epochs=6, validate_every=2, learning_rate=1e-2)


def build():
    torch.manual_seed(0)
    return Segmenter(UNetSmall(width=4, depth=2).build(channels=3, outputs=2))


def streams():
    toy = Toy()
    images, labels = draw(toy, "source", 24, foreground=True)
    return (
        _labelled(toy, "source", Clock(), images[:16], labels[:16]),
        _labelled(toy, "source test", Clock(), images[16:], labels[16:]),
    )


def fit(model, work, recipe=RECIPE, epoch_done=lambda done, total: None):
    return train(model, recipe, *streams(), "sigmoid", 0, work, epoch_done)


def test_the_selected_epoch_is_the_best_on_source_validation(tmp_path):
    model = build()
    info = fit(model, tmp_path)
    curve = info["curves"]["validation_dice"]
    assert len(curve) == 3  # after epochs 2, 4, 6
    assert info["validation_dice"] == pytest.approx(max(curve), abs=1e-6)
    assert info["selected_epoch"] in (1, 3, 5)
    _, validation = streams()
    assert validation_dice(model, validation, "sigmoid", 0.75) == pytest.approx(
        info["validation_dice"], abs=1e-6
    )


def test_the_last_epoch_is_kept_where_the_recipe_says_so(tmp_path):
    recipe = dataclasses.replace(RECIPE, select="last", validate_every=1)
    model = build()
    info = fit(model, tmp_path, recipe)
    assert info["selected_epoch"] == 5
    assert info["validation_dice"] == pytest.approx(info["curves"]["validation_dice"][-1], abs=1e-6)
    _, validation = streams()
    assert validation_dice(model, validation, "sigmoid", 0.75) == pytest.approx(
        info["validation_dice"], abs=1e-6
    )


def test_an_auxiliary_head_learns_by_its_weight(tmp_path):
    torch.manual_seed(0)
    start = DeepLabV2ResNet101(layers=(1, 1, 1, 1), width=4).build(channels=3, outputs=2)

    def moved(weight):
        model = Segmenter(copy.deepcopy(start))
        recipe = dataclasses.replace(RECIPE, epochs=1, auxiliary_weight=weight)
        fit(model, tmp_path / str(weight), recipe)
        before, after = start.state_dict(), model.weights()
        return [k for k in before if "auxiliary" in k and not torch.equal(before[k], after[k])]

    assert moved(0.1)
    assert not moved(0.0)


def test_killed_in_any_epoch_it_ends_with_the_same_weights(tmp_path):
    whole = build()
    fit(whole, tmp_path / "whole")

    class Killed(Exception):
        pass

    for last in (1, 4):

        def die(done, total, last=last):
            if done == last + 1:
                raise Killed

        model = build()
        with pytest.raises(Killed):
            fit(model, tmp_path / f"killed-{last}", epoch_done=die)
        resumed = build()
        fit(resumed, tmp_path / f"killed-{last}")
        assert sha256(resumed.weights()) == sha256(whole.weights())


def test_validation_dice_by_hand():
    """A model that says yes everywhere: (2 G + 1) / (N + G + 1) a class."""

    class Yes(torch.nn.Module):
        def forward(self, images):
            return torch.full((len(images), 2, 24, 24), 9.0)

    _, validation = streams()
    sizes = validation.masks(torch.from_numpy(validation.labels)).sum(dim=(2, 3))
    expected = ((2 * sizes + 1) / (24 * 24 + sizes + 1)).mean().item()
    assert validation_dice(Yes(), validation, "sigmoid", 0.75) == pytest.approx(expected)


def test_a_cached_model_is_shared_and_named_by_its_content(tmp_path):
    calls = []

    def counted(model, work):
        calls.append(1)
        return fit(model, work)

    first = cached(tmp_path / "m", build, counted, lambda message: None)
    again = cached(tmp_path / "m", build, counted, lambda message: None)
    assert len(calls) == 1
    assert first.sha256 == again.sha256
    assert not (tmp_path / "m.work").exists()


@pytest.mark.parametrize("card", [b"{}", b"[]", b'{"sha2'])
def test_a_model_without_a_readable_card_is_trained_anew(tmp_path, card):
    said = []

    def ask():
        return cached(tmp_path / "m", build, lambda model, work: {"seconds": 1.0}, said.append)

    first = ask()
    (tmp_path / "m" / "source.json").write_bytes(card)
    assert ask() == first
    assert said == ["source model m is not what its card says; trained anew"]
    assert ask().info["seconds"] == 1.0
    assert len(said) == 1


def test_a_killed_training_goes_on_with_the_threads_it_was_begun_with(tmp_path, monkeypatch):
    counts = []

    def killed(model, work):
        counts.append(torch.get_num_threads())
        raise Killed

    def finished(model, work):
        counts.append(torch.get_num_threads())
        return {}

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with pytest.raises(Killed):
            cached(tmp_path / "model", build, killed, print)
        torch.set_num_threads(1)
        cached(tmp_path / "model", build, finished, print)
        assert (counts, torch.get_num_threads()) == ([2, 2], 1)
    finally:
        torch.set_num_threads(before)
