"""Off-line labels of the sure pixels (methods-cross-modality.md §3.1)."""

import pytest
import torch

from sfdabench.checks.toy import Toy, attempt, draw
from sfdabench.core.checkpoint import read
from sfdabench.core.head import HEADS, SOFTMAX
from sfdabench.methods.threshold import Threshold
from sfdabench.models.weights import sha256

QUICK = {"epochs": 2, "batch_size": 4, "learning_rate": 1e-2}


def run(folder, head=SOFTMAX, **fields):
    done = attempt(Threshold(**(QUICK | fields)), Toy(head=head), folder)
    return done, read(folder / "stage-0.safetensors")["curves"]


@pytest.mark.parametrize("head", HEADS.values(), ids=str)
def test_a_higher_threshold_keeps_less(head, tmp_path):
    kept = [run(tmp_path / str(t), head, threshold=t)[1]["kept"][0] for t in (0.5, 0.7, 0.9, 0.95)]
    assert kept == sorted(kept, reverse=True)
    assert kept[0] > kept[-1] > 0


def test_the_first_loss_is_that_of_each_image_s_own_labels(tmp_path):
    """The mean of -log of the winning probability, where that is 0.9 or more."""
    done, curves = run(tmp_path, epochs=1, batch_size=9)
    images, _ = draw(Toy(head=SOFTMAX), "target", 9, foreground=True)
    with torch.no_grad():
        logits = done.start(torch.from_numpy(images).float() / 127.5 - 1)
    highest = logits.softmax(dim=1).amax(dim=1)
    assert curves["loss"][0] == pytest.approx(-highest[highest >= 0.9].log().mean().item())


def test_labels_are_taken_once(tmp_path):
    """As the model grows surer the share of kept pixels stays: the labels are the start model's."""
    _, curves = run(tmp_path, epochs=4, batch_size=3)
    assert max(curves["kept"]) == pytest.approx(min(curves["kept"]))
    assert curves["loss"][-1] < curves["loss"][0]


def test_with_no_pixel_sure_only_weight_decay_is_left(tmp_path):
    """Every trained weight shrinks by the same factor at each step."""
    done, curves = run(tmp_path, threshold=1.0, epochs=1, batch_size=9, head_factor=1.0)
    assert curves["kept"] == [0]
    assert curves["loss"] == [0]
    before, after = done.start.weights(), done.deployed.weights()
    for name in ("classifier.weight", "stem.0.weight"):
        assert torch.allclose(after[name], (1 - 1e-2 * 5e-4) * before[name])
    assert torch.equal(after["stem.1.weight"], before["stem.1.weight"])


def test_mirrored_views_change_the_labels(tmp_path):
    one, other = (run(tmp_path / str(flip), flip=flip)[0].deployed for flip in (False, True))
    assert sha256(one.weights()) != sha256(other.weights())
