"""The denoiser of DAE and the size predictor of SRDA, and what their methods make of them."""

import pytest
import torch

from sfdabench.checks import toy
from sfdabench.checks.toy import Toy, attempt, train
from sfdabench.core.head import SIGMOID, SOFTMAX
from sfdabench.methods.dae import DAE
from sfdabench.methods.srda import SRDA
from sfdabench.models.composites import Normalised, Sized, describe, rebuild
from sfdabench.models.denoiser import Denoiser
from sfdabench.models.weights import sha256
from sfdabench.primitives.priors import true_ratio
from sfdabench.stages.denoiser import DenoiserStage
from sfdabench.stages.size_predictor import SizePredictor


def test_true_ratios_of_both_heads():
    masks = torch.tensor([[1.0, 1.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]]).view(1, 2, 2, 2)
    assert true_ratio(masks, SOFTMAX).tolist() == [[[0.75, 0.25]]]
    assert true_ratio(masks, SIGMOID).tolist() == [[[0.75, 0.25], [0.25, 0.75]]]


@pytest.mark.parametrize("head", [SIGMOID, SOFTMAX])
def test_sizes_are_learnt_and_the_source_model_stays_as_it_is(head, tmp_path):
    setting, errors = Toy(head=head), []
    for epochs in (1, 60):
        stage = SizePredictor(epochs=epochs, batch_size=4, learning_rate=0.05)
        model, notes = train(stage, setting, tmp_path / str(epochs))
        errors.append(notes["mean_absolute_error"])
    assert errors[1] < errors[0] / 2
    assert errors[1] < 0.05  # of an image
    assert isinstance(model, Sized)
    start = toy.source_model(setting, toy.Needs())
    network = {name: v for name, v in model.weights().items() if not name.startswith("gauge.")}
    assert sha256(network) == sha256(start.weights())


def test_a_predictor_is_stored_and_rebuilt(tmp_path):
    setting = Toy()
    model, _ = train(SizePredictor(**SizePredictor.smoke), setting, tmp_path)
    network = toy._build(setting, "penultimate")
    again = rebuild(network, describe(model), model.weights(), "here")
    images = torch.rand(2, 3, 24, 24)
    assert torch.equal(again.sizes(images), model.eval().sizes(images))


def test_a_predicted_ratio_is_that_of_the_image_or_of_the_batch(tmp_path):
    """Where all images of a batch are alike, both are one."""
    fields = SRDA.smoke | {"prior": "predicted", "batch_size": 1}
    done = [
        attempt(SRDA(**fields, over=over), Toy(), tmp_path / over).fingerprint
        for over in ("image", "batch")
    ]
    assert done[0] == done[1]
    assert SRDA(prior="predicted").needs.setting == "SFDA+"
    assert SRDA().needs.setting == "SFDA"


@pytest.mark.parametrize(("size", "depth"), [((24, 24), 2), ((29, 23), 3), ((1, 1), 1)])
def test_a_denoiser_keeps_the_size(size, depth):
    denoiser = Denoiser(4, width=4, depth=depth).eval()
    assert denoiser(torch.rand(2, 4, *size)).shape == (2, 4, *size)


def test_a_denoiser_has_no_skip_on_the_finest_level():
    """Its last block sees what came from below alone."""
    *_, last = Denoiser(3, width=4, depth=2).up
    assert last[0].in_channels == 8


def test_a_denoiser_learns_to_mend(tmp_path):
    stage = DenoiserStage(
        epochs=80, batch_size=4, width=8, depth=2, learning_rate=1e-2, smallest=0.1, largest=0.2
    )
    denoiser, notes = train(stage, Toy(), tmp_path)
    assert notes["dice_after"] > notes["dice_before"]
    assert not denoiser.training


def test_the_normaliser_starts_as_the_identity_and_nothing_else_moves(tmp_path):
    done = attempt(DAE(**DAE.smoke), Toy(), tmp_path)
    assert type(done.deployed) is Normalised
    start, after = done.start.weights(), done.deployed.weights()
    assert all(torch.equal(after[name], value) for name, value in start.items())
    untrained = attempt(
        DAE(**DAE.smoke | {"learning_rate": 1e-12, "epochs": 1}), Toy(), tmp_path / "1"
    )
    torch.testing.assert_close(untrained.prediction, toy.predict(done.start, Toy()))


def test_online_each_batch_has_a_normaliser_of_its_own(tmp_path):
    """So the order of the batches before it does not count."""
    fields = DAE.smoke | {"online": True, "batch_size": 1}
    whole = attempt(DAE(**fields), Toy(count=5), tmp_path / "whole").prediction
    first = attempt(DAE(**fields), Toy(count=2), tmp_path / "first").prediction
    assert torch.equal(whole[:2], first)
    assert DAE(online=True).needs.setting == "TTA"
    assert DAE().needs.setting == "SFDA+"
