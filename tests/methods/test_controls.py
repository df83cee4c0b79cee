import torch

from sfdabench.checks.toy import Toy, attempt, draw
from sfdabench.methods.adabn import AdaBN
from sfdabench.methods.pseudo_label import PseudoLabel
from sfdabench.methods.source_only import SourceOnly
from sfdabench.methods.supervised import Supervised
from sfdabench.models.weights import sha256
from sfdabench.primitives.batch_norm import batch_norm_layers, reestimate


def target():
    images, _ = draw(Toy(), "target", 9, foreground=True)
    return torch.from_numpy(images).float() / 127.5 - 1


def test_source_only_deploys_the_source_model(tmp_path):
    done = attempt(SourceOnly(), Toy(), tmp_path)
    assert sha256(done.deployed.weights()) == sha256(done.start.weights())


def test_adabn_statistics_are_those_of_the_target(tmp_path):
    """One batch of all images: the first layer's running mean is that of its input."""
    done = attempt(AdaBN(batch_size=9), Toy(), tmp_path)
    first = {}

    def keep(_, inputs):
        first.setdefault("input", inputs[0])

    layer = batch_norm_layers(done.deployed)[0]
    handle = layer.register_forward_pre_hook(keep)
    with torch.no_grad():
        done.deployed.eval()(target())
    handle.remove()
    assert torch.allclose(layer.running_mean, first["input"].mean(dim=(0, 2, 3)), atol=1e-5)


def test_reestimation_leaves_momentum_and_mode_as_they_were(tmp_path):
    model = attempt(SourceOnly(), Toy(), tmp_path).deployed
    before = [layer.momentum for layer in batch_norm_layers(model)]
    reestimate(model, [target()])
    assert [layer.momentum for layer in batch_norm_layers(model)] == before
    assert not any(module.training for module in model.modules())


def test_every_reading_of_pseudo_labelling_is_another_method(tmp_path):
    hashes = set()
    for labels in ("online", "offline"):
        for mode in ("train", "eval"):
            method = PseudoLabel(epochs=2, labels=labels, label_mode=mode, learning_rate=1e-3)
            done = attempt(method, Toy(), tmp_path / f"{labels}-{mode}")
            hashes.add(sha256(done.deployed.weights()))
    assert len(hashes) == 4


def test_supervised_learns_what_its_labels_say(tmp_path):
    """On the toy's own label maps the loss falls."""
    method = Supervised(epochs=8, batch_size=4, learning_rate=5e-3, augmentation="none")
    attempt(method, Toy(), tmp_path)
    from sfdabench.core.checkpoint import read

    losses = read(tmp_path / "stage-0.safetensors")["curves"]["loss"]
    assert losses[-1] < 0.8 * losses[0]
