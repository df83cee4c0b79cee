import copy
import dataclasses

import pytest
import torch

from sfdabench.checks.toy import Toy, _labelled, draw
from sfdabench.core.checkpoint import CheckpointKeeper
from sfdabench.core.context import SourceContext
from sfdabench.core.head import SIGMOID, SOFTMAX
from sfdabench.core.streams import Clock
from sfdabench.models.segmenter import Segmenter
from sfdabench.models.weights import sha256
from sfdabench.networks.deeplabv2_resnet101 import DeepLabV2ResNet101
from sfdabench.networks.unet_small import UNetSmall
from sfdabench.stages.source_training import SourceTraining, validation_dice

STAGE = SourceTraining(epochs=6, validate_every=2, learning_rate=1e-2)


def build():
    torch.manual_seed(0)
    return Segmenter(UNetSmall(width=4, depth=2).build(channels=3, outputs=2))


def context(work, model=None, at_epoch=None):
    """A source of 16 toy images, and 8 to validate on."""
    toy, clock = Toy(), Clock()
    images, labels = draw(toy, "source", 24, foreground=True)
    return SourceContext(
        clock=clock,
        keeper=CheckpointKeeper(work, patience=0.0, at_epoch=at_epoch),
        source=_labelled(toy, "source", clock, images[:16], labels[:16]),
        validation=_labelled(toy, "source test", Clock(), images[16:], labels[16:]),
        start_model=model or build(),
        classes=("cup", "disc"),
        head=SIGMOID,
        seed=0,
    )


def fit(work, stage=STAGE, **given):
    """The trained model, and the context with its curves and notes."""
    seen = context(work, **given)
    return stage.train(seen), seen


def test_the_selected_epoch_is_the_best_on_source_validation(tmp_path):
    model, seen = fit(tmp_path)
    curve = seen.curves["validation_dice"]
    assert len(curve) == 3  # after epochs 2, 4, 6
    assert len(seen.curves["loss"]) == 6
    assert seen.notes["validation_dice"] == pytest.approx(max(curve), abs=1e-6)
    assert seen.notes["selected_epoch"] in (1, 3, 5)
    assert validation_dice(model, seen.validation, SIGMOID, 0.75) == pytest.approx(
        seen.notes["validation_dice"], abs=1e-6
    )


def test_the_last_epoch_is_kept_where_the_recipe_says_so(tmp_path):
    stage = dataclasses.replace(STAGE, select="last", validate_every=1)
    model, seen = fit(tmp_path, stage)
    assert seen.notes["selected_epoch"] == 5
    last = seen.curves["validation_dice"][-1]
    assert seen.notes["validation_dice"] == pytest.approx(last, abs=1e-6)
    assert validation_dice(model, seen.validation, SIGMOID, 0.75) == pytest.approx(last, abs=1e-6)


def test_the_model_that_it_starts_from_stays_as_it_is(tmp_path):
    start = build()
    before = sha256(start.weights())
    model, _ = fit(tmp_path, model=start)
    assert sha256(start.weights()) == before != sha256(model.weights())


def test_an_auxiliary_head_learns_by_its_weight(tmp_path):
    torch.manual_seed(0)
    start = DeepLabV2ResNet101(layers=(1, 1, 1, 1), width=4).build(channels=3, outputs=2)

    def moved(weight):
        stage = dataclasses.replace(STAGE, epochs=1, auxiliary_weight=weight)
        model, _ = fit(tmp_path / str(weight), stage, model=Segmenter(copy.deepcopy(start)))
        before, after = start.state_dict(), model.weights()
        return [k for k in before if "auxiliary" in k and not torch.equal(before[k], after[k])]

    assert moved(0.1)
    assert not moved(0.0)


def test_killed_in_any_epoch_it_ends_with_the_same_weights(tmp_path):
    whole, seen = fit(tmp_path / "whole")

    class Killed(Exception):
        pass

    for last in (1, 4):

        def die(_, epoch, *__, last=last):
            if epoch == last:
                raise Killed

        with pytest.raises(Killed):
            fit(tmp_path / f"killed-{last}", at_epoch=die)
        resumed, again = fit(tmp_path / f"killed-{last}")
        assert sha256(resumed.weights()) == sha256(whole.weights())
        assert (again.curves, again.notes) == (seen.curves, seen.notes)


def test_validation_dice_by_hand(tmp_path):
    """A model that says yes everywhere: (2 G + 1) / (N + G + 1) a class."""

    class Yes(torch.nn.Module):
        def forward(self, images):
            return torch.full((len(images), 2, 24, 24), 9.0)

    validation = context(tmp_path).validation
    sizes = validation.masks(torch.from_numpy(validation.labels)).sum(dim=(2, 3))
    expected = ((2 * sizes + 1) / (24 * 24 + sizes + 1)).mean().item()
    assert validation_dice(Yes(), validation, SIGMOID, 0.75) == pytest.approx(expected)


def test_validation_dice_of_exclusive_classes_leaves_the_background_out(tmp_path):
    """A model that says the first class everywhere: (2 G + 1) / (N + G + 1), and 1 / (G + 1)."""
    toy = Toy(head=SOFTMAX)
    validation = _labelled(toy, "source test", Clock(), *draw(toy, "source", 8, foreground=True))

    class First(torch.nn.Module):
        def forward(self, images):
            return torch.tensor([0.0, 9.0, 0.0]).view(1, 3, 1, 1).expand(len(images), 3, 24, 24)

    first, second = validation.masks(torch.from_numpy(validation.labels)).sum(dim=(2, 3))[:, 1:].T
    expected = ((2 * first + 1) / (24 * 24 + first + 1) + 1 / (second + 1)).mean().item() / 2
    assert validation_dice(First(), validation, SOFTMAX, 0.75) == pytest.approx(expected)
