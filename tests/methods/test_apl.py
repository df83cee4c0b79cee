"""APL's equations by hand, and what moves by which loss (methods-cross-modality.md §2)."""

from itertools import combinations

import pytest
import torch

from sfdabench.checks import toy
from sfdabench.checks.toy import Toy, attempt, draw
from sfdabench.core.head import SOFTMAX
from sfdabench.methods.apl import APL, disagreement, margin, relevance
from sfdabench.models.segmenter import Segmenter
from sfdabench.networks.deeplabv2_resnet101 import DeepLabV2ResNet101
from sfdabench.primitives.fine_tuning import HEADS

# One step: the target's nine images are one batch.
ONE = {"epochs": 1, "batch_size": 9, "learning_rate": 1e-2}
WEIGHTINGS = ("pixels", "shares", "product", "none")


def maps(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double().softmax(1)


def deployed(folder, **fields):
    """Weights of the toy's model before and after, by part: of the heads, of all else."""
    method = APL(**(ONE | fields))
    run = attempt(method, Toy(head=SOFTMAX), folder)
    parts = []
    for model in (run.start, run.deployed):
        named = model.weights()
        heads = {n: v for n, v in named.items() if n.partition(".")[0] in HEADS}
        parts.append((heads, {n: v for n, v in named.items() if n not in heads}))
    return parts


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


class TestConsistency:
    def test_by_hand(self):
        """Two pixels: heads agree on class 0 in one, differ (0, 1) in the other."""
        p = torch.tensor([[0.8, 0.2], [0.6, 0.4]]).T.view(1, 2, 1, 2)
        q = torch.tensor([[0.9, 0.1], [0.3, 0.7]]).T.view(1, 2, 1, 2)
        joint = torch.tensor([[0.72 + 0.18, 0.08 + 0.42], [0.18 + 0.12, 0.02 + 0.28]]) / 2
        pixels = torch.tensor([[1.0, 1.0], [0, 0]])
        assert torch.allclose(relevance(p, q, "none")[0], joint)
        assert torch.allclose(relevance(p, q, "pixels")[0], pixels * joint)
        assert torch.allclose(relevance(p, q, "shares")[0], pixels / 2 * joint)
        assert torch.allclose(relevance(p, q, "product")[0], pixels @ joint)
        assert disagreement(relevance(p, q, "pixels")).item() == pytest.approx(0.25)

    def test_without_weights_it_is_one_minus_the_inner_product(self):
        """BCDM's discrepancy, per pixel and image."""
        p, q = maps(3, 5, 6, 7), maps(3, 5, 6, 7, seed=1)
        expected = (1 - (p * q).sum(dim=1)).mean()
        assert torch.allclose(disagreement(relevance(p, q, "none")), expected)

    def test_the_diagonal_cancels(self):
        matrix = torch.rand(4, 5, 5)
        other = matrix + torch.diag_embed(torch.rand(4, 5))
        assert torch.equal(disagreement(matrix), disagreement(other))
        expected = matrix.sum(dim=(1, 2)) - matrix.diagonal(dim1=1, dim2=2).sum(dim=1)
        assert torch.allclose(disagreement(matrix), expected.mean())

    @pytest.mark.parametrize("weighting", WEIGHTINGS)
    def test_zero_for_equal_one_hot_heads_and_positive_for_others(self, weighting):
        sure = (maps(2, 5, 6, 7) == maps(2, 5, 6, 7).amax(dim=1, keepdim=True)).double()
        assert disagreement(relevance(sure, sure, weighting)) == 0
        assert disagreement(relevance(sure, sure.roll(1, dims=1), weighting)) > 0.1

    @pytest.mark.parametrize("weighting", WEIGHTINGS)
    def test_numbers_of_pixels_scale_with_the_image_and_shares_do_not(self, weighting):
        p, q = maps(1, 4, 5, 5), maps(1, 4, 5, 5, seed=1)
        one = disagreement(relevance(p, q, weighting))
        p, q = (m.repeat(3, 1, 2, 2) for m in (p, q))
        times = 4 if weighting in ("pixels", "product") else 1
        assert torch.allclose(times * one, disagreement(relevance(p, q, weighting)))

    def test_its_gradient_brings_the_heads_together(self):
        torch.manual_seed(0)
        logits = [torch.randn(2, 4, 6, 6).requires_grad_() for _ in range(2)]

        def inner_product():
            p, q = (one.softmax(dim=1) for one in logits)
            return (p * q).sum(dim=1).mean()

        before = inner_product().item()
        loss = disagreement(relevance(*(one.softmax(dim=1) for one in logits), "shares"))
        with torch.no_grad():
            for one, gradient in zip(logits, torch.autograd.grad(loss, logits), strict=True):
                one -= 1000 * gradient
        assert inner_product().item() > before + 0.01


class TestConfidence:
    def test_by_hand(self):
        probability = torch.tensor([[0.5, 0.2, 0.3], [0.1, 0.8, 0.1]]).T.view(1, 3, 1, 2)
        assert margin(probability).flatten().tolist() == pytest.approx([0.2, 0.7])

    def test_lies_in_zero_to_one_and_reaches_both(self):
        weight = margin((maps(2, 5, 9, 9) + maps(2, 5, 9, 9, seed=1)) / 2)
        assert weight.shape == (2, 9, 9)
        assert ((weight >= 0) & (weight <= 1)).all()
        assert margin(torch.tensor([0.0, 1, 0]).view(1, 3, 1, 1)) == 1
        assert margin(torch.tensor([0.4, 0.4, 0.2]).view(1, 3, 1, 1)) == 0

    @pytest.mark.parametrize(("reduction", "divisor"), [("pixels", 4), ("confidence", 1.2)])
    def test_weighs_the_cross_entropy(self, reduction, divisor):
        logits = torch.tensor([[0.5, 0.5], [0.2, 0.8], [0.9, 0.1], [0.7, 0.3]]).log().T
        label = torch.tensor([[1.0, 0], [0, 1], [0, 1], [1, 0]]).T
        weight = torch.tensor([0.0, 0.6, 0.2, 0.4]).view(1, 2, 2)
        loss = APL(reduction=reduction).self_training(
            logits.reshape(1, 2, 2, 2), label.reshape(1, 2, 2, 2), weight
        )
        terms = torch.tensor([0.5, 0.8, 0.1, 0.7]).log() * weight.flatten()
        assert loss.item() == pytest.approx(-terms.sum().item() / divisor)


class TestAlternation:
    @pytest.mark.parametrize("network", ["unet_dual", "deeplabv2_resnet101"])
    def test_heads_then_encoder_each_on_its_own(self, network, tmp_path, monkeypatch):
        """What has a gradient at each step of the optimiser."""
        if network == "deeplabv2_resnet101":
            torch.manual_seed(0)
            built = DeepLabV2ResNet101(layers=(1, 1, 1, 1), width=4).build(channels=3, outputs=3)
            monkeypatch.setattr(toy, "source_model", lambda *_: Segmenter(built).eval())
        steps = []
        step = torch.optim.SGD.step

        def recorded(self, *arguments):
            steps.append(
                tuple(
                    sum(p.grad is not None and bool(p.grad.any()) for p in group["params"])
                    / len(group["params"])
                    for group in self.param_groups
                )
            )
            return step(self, *arguments)

        monkeypatch.setattr(torch.optim.SGD, "step", recorded)
        attempt(APL(epochs=1, batch_size=5), Toy(head=SOFTMAX, size=(32, 32)), tmp_path)
        assert steps == [(0, 1), (1, 0), (0, 1), (1, 0)]  # (encoder, heads)

    def test_heads_do_not_feel_the_self_training(self, tmp_path):
        runs = [
            deployed(tmp_path / str(i), **fields)
            for i, fields in enumerate([{}, {"confidence": False}, {"auxiliary_weight": 1.0}])
        ]
        (start, _), (heads, encoder) = runs[0]
        assert not any(torch.equal(start[name], heads[name]) for name in heads)
        for _, (other_heads, other_encoder) in runs[1:]:
            assert same(heads, other_heads)
            assert not same(encoder, other_encoder)

    def test_the_encoder_does_not_feel_the_consistency(self, tmp_path):
        """With heads that cannot move, all readings of it lead to one encoder."""
        runs = [
            deployed(tmp_path / weighting, relevance=weighting, head_factor=1e-30)
            for weighting in WEIGHTINGS
        ]
        for start, (heads, encoder) in runs:
            assert same(heads, start[0])
            assert not same(encoder, start[1])
            assert same(encoder, runs[0][1][1])

    def test_each_reading_of_the_relevance_moves_the_heads_elsewhere(self, tmp_path):
        heads = [deployed(tmp_path / w, relevance=w)[1][0] for w in WEIGHTINGS]
        for one, other in combinations(heads, 2):
            assert not same(one, other)

    def test_counted_in_pixels_the_heads_come_to_agree(self, tmp_path):
        """Divided by the pixels twice the consistency does little: 8e-5 beside 1e-2 at 256 px."""
        apart = {}
        for weighting in ("pixels", "shares"):
            problem = Toy(head=SOFTMAX)
            method = APL(epochs=20, batch_size=4, relevance=weighting, head_factor=10.0)
            run = attempt(method, problem, tmp_path / weighting)
            images = torch.from_numpy(draw(problem, "target", 9, foreground=True)[0]).float()
            for name, model in (("start", run.start), (weighting, run.deployed)):
                with torch.no_grad():
                    p, q = (x.softmax(1) for x in model.eval().heads(images / 127.5 - 1))
                apart[name] = (1 - (p * q).sum(dim=1)).mean().item()
        assert apart["pixels"] < 0.05 * apart["start"]
        assert apart["shares"] > 10 * apart["pixels"]

    def test_both_heads_are_deployed_unless_the_main_one_is_asked_for(self, tmp_path):
        problem = Toy(head=SOFTMAX)
        both, main = (
            attempt(APL(epochs=1, batch_size=5, deploy=kind), problem, tmp_path / kind).deployed
            for kind in ("both", "main")
        )
        images = torch.from_numpy(draw(problem, "target", 9, foreground=True)[0]).float()
        with torch.no_grad():
            p, q = (x.softmax(1) for x in main.heads(images / 127.5 - 1))
            merged = both(images / 127.5 - 1)
            assert torch.equal(main(images / 127.5 - 1).softmax(1), p)
        assert torch.allclose(merged.softmax(1), (p + q) / 2, atol=1e-5)
        assert not torch.allclose(merged.softmax(1), p, atol=1e-3)

    def test_batch_norm_stays(self, tmp_path):
        start, after = deployed(tmp_path)
        kept = {name for name in start[1] if torch.equal(start[1][name], after[1][name])}
        # of each of a U-Net block's two norms: scale, shift and three of statistics
        assert len(kept) == 5 * 2 * 5
        assert all(part in kept for part in ("stem.1.weight", "stem.1.running_mean"))


def test_the_heads_come_to_agree(tmp_path):
    """On the toy the curve of equation 2 falls, and the foreground does not vanish."""
    from sfdabench.core.checkpoint import read

    method = APL(epochs=12, batch_size=4, learning_rate=1e-3, head_factor=100.0, relevance="none")
    attempt(method, Toy(head=SOFTMAX), tmp_path)
    curves = read(tmp_path / "stage-0.safetensors")["curves"]
    assert set(curves) == {"consistency", "self_training", "confidence", "foreground"}
    assert curves["consistency"][-1] < 0.8 * curves["consistency"][0]
    assert curves["foreground"][-1] > 0.05
