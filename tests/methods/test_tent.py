"""TENT: offline it is frozen at the end; online each batch is predicted once, then learnt from."""

import copy

import pytest
import torch
from torch import nn

from sfdabench.checks.toy import Killed, Toy, attempt, draw
from sfdabench.core.checkpoint import read
from sfdabench.core.head import HEADS, SIGMOID, SOFTMAX
from sfdabench.core.seeding import generator
from sfdabench.methods.tent import Tent
from sfdabench.models.segmenter import OnlineSegmenter, Segmenter
from sfdabench.networks.unet_small import UNetSmall
from sfdabench.primitives.batch_norm import (
    batch_norm_layers,
    batch_statistics,
    reestimate,
    select_trainable,
)
from sfdabench.primitives.entropy import mean_entropy, tent_step


def target(head=SIGMOID):
    images, _ = draw(Toy(head=head), "target", 9, foreground=True)
    return torch.from_numpy(images).float() / 127.5 - 1


def curves(folder):
    return read(folder / "stage-0.safetensors")["curves"]


def test_only_scale_and_shift_of_batch_norm_move(tmp_path):
    done = attempt(Tent(epochs=2, batch_size=4), Toy(), tmp_path)
    mine = {id(p) for layer in batch_norm_layers(done.deployed) for p in layer.parameters()}
    start = dict(done.start.named_parameters())
    for name, parameter in done.deployed.named_parameters():
        assert torch.equal(parameter, start[name]) == (id(parameter) not in mine), name


def test_statistics_are_reestimated_after_the_last_step(tmp_path):
    done = attempt(Tent(batch_size=9), Toy(), tmp_path)
    expected = copy.deepcopy(done.deployed)
    reestimate(expected, [target()])
    for mine, theirs in zip(
        batch_norm_layers(done.deployed), batch_norm_layers(expected), strict=True
    ):
        assert torch.allclose(mine.running_mean, theirs.running_mean, atol=1e-5)
        assert torch.allclose(mine.running_var, theirs.running_var, rtol=1e-4)


@pytest.mark.parametrize("head", HEADS.values(), ids=str)
def test_loss_is_the_entropy_under_batch_statistics(tmp_path, head):
    done = attempt(Tent(batch_size=9), Toy(head=head), tmp_path)
    start = copy.deepcopy(done.start)
    with torch.no_grad(), batch_statistics(start):
        expected = mean_entropy(start(target(head)), head)
    assert curves(tmp_path)["loss"] == pytest.approx([expected.item()], rel=1e-4)


@pytest.mark.parametrize("head", HEADS.values(), ids=str)
def test_entropy_falls(tmp_path, head):
    attempt(Tent(epochs=6, batch_size=4, learning_rate=1e-2), Toy(head=head), tmp_path)
    loss = curves(tmp_path)["loss"]
    assert loss[-1] < 0.97 * loss[0]


def online(model):
    optimiser = torch.optim.Adam(select_trainable(model, "affine"), 1e-2)

    def learn(images):
        return tent_step(model, optimiser, images, SIGMOID, lambda **losses: None)

    return OnlineSegmenter(model, learn, batch_size=2)


def test_online_it_predicts_then_learns():
    torch.manual_seed(0)
    model = Segmenter(UNetSmall(width=4, depth=1).build(channels=3, outputs=2)).eval()
    before = copy.deepcopy(model)
    images = torch.randn(4, 3, 16, 16)
    deployed = online(model)
    with torch.inference_mode():
        first = deployed(images[:2])
        second = deployed(images[:2])
    with torch.no_grad(), batch_statistics(before):
        assert torch.equal(first, before(images[:2]))
    assert not torch.equal(first, second)
    assert not first.requires_grad


def test_online_only_scale_and_shift_move():
    torch.manual_seed(0)
    model = Segmenter(UNetSmall(width=4, depth=1).build(channels=3, outputs=2)).eval()
    before = copy.deepcopy(model.state_dict())
    with torch.inference_mode():
        online(model)(torch.randn(2, 3, 16, 16))
    moved = {name for name, value in model.state_dict().items() if not value.equal(before[name])}
    norms = {n for n, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert moved
    assert moved <= {f"{norm}.{part}" for norm in norms for part in ("weight", "bias")}


def test_the_contract_on_kills_does_kill_it(tmp_path):
    for batch in range(3):
        with pytest.raises(Killed):
            attempt(Tent(batch_size=4, online=True), Toy(count=9), tmp_path, kill_after=batch)
    attempt(Tent(batch_size=4, online=True), Toy(count=9), tmp_path, kill_after=3)


def entropy(logits, head):
    """The paper's, of a pixel's classes; of both outcomes of each channel for a sigmoid."""
    if head == SOFTMAX:
        p = logits.softmax(1)
        return -(p * p.log()).sum(1).mean()
    p = logits.sigmoid()
    return -(p * p.log() + (1 - p) * (1 - p).log()).mean()


class ByHand:
    """Equations of the paper's §3 on plain tensors: its own batch norm, its own Adam.

    Every batch is normalised by its own mean and population variance. Scale and shift take a step
    of Adam (beta 0.9 and 0.999) along the gradient of the entropy.
    """

    def __init__(self, model, head, rate):
        self.model, self.head, self.rate = copy.deepcopy(model), head, rate
        self.layers = [m for m in self.model.modules() if isinstance(m, nn.BatchNorm2d)]
        for p in self.model.parameters():
            p.requires_grad_(False)
        self.trained = [p for m in self.layers for p in (m.weight, m.bias)]
        for p in self.trained:
            p.requires_grad_(True)
        for layer in self.layers:
            layer.forward = lambda x, layer=layer: self.norm(x, layer)
        self.first = [torch.zeros_like(p) for p in self.trained]
        self.second = [torch.zeros_like(p) for p in self.trained]
        self.count, self.seen = 0, []

    def norm(self, x, layer):
        mean = x.mean((0, 2, 3), keepdim=True)
        variance = (x - mean).square().mean((0, 2, 3), keepdim=True)
        unbiased = variance * x.numel() / (x.numel() - x.shape[1])
        self.seen.append((layer, mean.flatten().detach(), unbiased.flatten().detach()))
        x = (x - mean) / (variance + layer.eps).sqrt()
        return x * layer.weight.view(1, -1, 1, 1) + layer.bias.view(1, -1, 1, 1)

    def step(self, images):
        logits = self.model(images)
        gradients = torch.autograd.grad(entropy(logits, self.head), self.trained)
        self.count += 1
        for p, g, m, v in zip(self.trained, gradients, self.first, self.second, strict=True):
            m.mul_(0.9).add_(0.1 * g)
            v.mul_(0.999).add_(0.001 * g * g)
            m_hat, v_hat = m / (1 - 0.9**self.count), v / (1 - 0.999**self.count)
            with torch.no_grad():
                p -= self.rate * m_hat / (v_hat.sqrt() + 1e-8)
        return logits.detach()

    def statistics(self, batches):
        """The mean over batches of each batch's statistics, with the adapted scale and shift."""
        self.seen.clear()
        with torch.no_grad():
            for images in batches:
                self.model(images)
        for layer in self.layers:
            own = [(mean, variance) for other, mean, variance in self.seen if other is layer]
            layer.running_mean.copy_(torch.stack([m for m, _ in own]).mean(0))
            layer.running_var.copy_(torch.stack([v for _, v in own]).mean(0))


def batches(images, epoch, passes, size=4):
    order = generator(0, "target", "shuffle", 0, epoch, passes).permutation(len(images))
    return [images[order[start : start + size]] for start in range(0, len(order), size)]


def close(model, by_hand):
    """Equal but for rounding: a small part of the least step that any epoch takes."""
    state = model.state_dict()
    for name, value in by_hand.state_dict().items():
        if "num_batches" not in name:
            assert torch.allclose(state[name], value, atol=2e-5, rtol=1e-4), name


@pytest.mark.parametrize("head", HEADS.values(), ids=str)
def test_two_epochs_are_those_of_the_paper(tmp_path, head):
    done = attempt(Tent(epochs=2, batch_size=4, steps=2), Toy(head=head), tmp_path)
    hand = ByHand(done.start, head, 1e-3)
    images = target(head)
    for epoch in range(2):
        for batch in batches(images, epoch, 1):
            hand.step(batch)
            hand.step(batch)
        hand.statistics(batches(images, epoch, 2))
    assert hand.count == 12
    close(done.deployed, hand.model)
    moved = [(p - q).abs().max() for p, q in zip(hand.trained, affine(done.start), strict=True)]
    assert min(moved) > 1e-3, "far beyond the tolerance"


@pytest.mark.parametrize("head", HEADS.values(), ids=str)
def test_online_a_pass_is_that_of_the_paper(tmp_path, head, monkeypatch):
    """Batches in the order of the data set, logits from before the last of the updates."""
    forward, predicted = OnlineSegmenter.forward, []

    def watched(self, images):
        predicted.append(forward(self, images))
        return predicted[-1]

    monkeypatch.setattr(OnlineSegmenter, "forward", watched)
    done = attempt(Tent(batch_size=4, steps=2, online=True), Toy(head=head), tmp_path)
    hand = ByHand(done.start, head, 1e-3)
    images = target(head)
    for i, start in enumerate(range(0, 9, 4)):
        hand.step(images[start : start + 4])
        expected = hand.step(images[start : start + 4])
        assert torch.allclose(predicted[i], expected, atol=1e-3, rtol=1e-3)
    assert len(predicted) == 3
    close(done.deployed, hand.model)


def affine(model):
    return [p for layer in batch_norm_layers(model) for p in layer.parameters()]


def test_needs_follow_from_the_field():
    assert Tent().needs.setting == "SFDA"
    assert Tent().needs.changes == {"parameters", "statistics"}
    assert Tent(online=True).needs.setting == "TTA"
    assert Tent(online=True).needs.changes == {"parameters"}
