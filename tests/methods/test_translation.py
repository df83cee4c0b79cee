"""Translators, their judges and the methods that train them (methods-compared.md §8 to 11, 13)."""

import math

import numpy as np
import pytest
import torch
from by_hand.harm import dice_on_the_source

from sfdabench.checks import toy
from sfdabench.checks.toy import CPU, Toy, attempt
from sfdabench.core.errors import RunFailed
from sfdabench.core.head import SIGMOID, SOFTMAX
from sfdabench.core.streams import Clock, Stream
from sfdabench.methods.cycada import CyCADA
from sfdabench.methods.cyclegan import CycleGAN
from sfdabench.methods.dsfn import DSFN
from sfdabench.methods.sifa import SIFA
from sfdabench.methods.synsegnet import SynSegNet
from sfdabench.models.composites import Averaged, Normalised
from sfdabench.models.discriminators import PatchDiscriminator, PixelDiscriminator
from sfdabench.models.segmenter import Segmenter
from sfdabench.models.translators import (
    ImageDecoder,
    ResnetGenerator,
    Translator,
    UnitRange,
    reflected,
)
from sfdabench.primitives.adversarial import Gate, ReplayPool, fooling_pixels, judging_pixels
from sfdabench.primitives.losses import balanced_cross_entropy, squared_dice_loss
from sfdabench.primitives.translation import (
    CyclePair,
    constant_then_linear,
    generator_losses,
    judge_losses,
    semantic_loss,
)

TRANSLATING = [CycleGAN, SynSegNet, CyCADA, DSFN, SIFA]


def stream(images, name="target"):
    return Stream(name, images, tuple(map(str, range(len(images)))), CPU, 0, Clock())


def pair(images, **fields):
    shape = {"width": 4, "blocks": 1, "skip": False, "pool": 2} | fields
    return CyclePair(stream(images, "source"), stream(images), **shape)


def pictures(count=3, side=24):
    return np.random.default_rng(0).integers(0, 256, (count, 3, side, side)).astype(np.uint8)


# --- networks ------------------------------------------------------------------------------------
def test_the_generator_is_the_published_one():
    """11.378 million weights for colour images, as its authors print."""
    assert sum(p.numel() for p in ResnetGenerator(3).parameters()) == 11_378_179


@pytest.mark.parametrize("side", [(24, 24), (29, 23), (30, 8)])
@pytest.mark.parametrize("fields", [{}, {"skip": True}, {"sifa": True, "skip": True}])
def test_a_generator_keeps_size_and_range(side, fields):
    drawn = ResnetGenerator(2, 4, 1, **fields)(torch.rand(1, 2, *side) * 2 - 1)
    assert drawn.shape == (1, 2, *side)
    assert drawn.abs().max() <= 1


def test_a_generator_that_skips_starts_near_the_identity():
    """tanh(x) where the last convolution is zero; a cycle then costs |x - tanh(tanh x)|."""
    images = torch.rand(1, 1, 24, 24) * 2 - 1
    network = ResnetGenerator(1, 4, 1, skip=True)
    for parameter in network.layers[-1].parameters():
        torch.nn.init.zeros_(parameter)
    assert torch.equal(network(images), images.tanh())


def test_reflection_is_the_librarys():
    maps = torch.rand(2, 3, 9, 7)
    assert torch.equal(reflected(maps, 3), torch.nn.ReflectionPad2d(3)(maps))


def test_reflection_by_copies_is_the_same(monkeypatch):
    """What runs on CUDA, where the library's gradient adds in no fixed order."""
    maps = torch.rand(2, 3, 9, 7)
    monkeypatch.setattr(torch.Tensor, "is_cuda", property(lambda self: True))
    by_copies = reflected(maps, 3)
    monkeypatch.undo()
    assert torch.equal(by_copies, torch.nn.ReflectionPad2d(3)(maps))


def test_the_patch_discriminator_is_monais():
    from monai.networks.nets import PatchDiscriminator as Theirs

    theirs = Theirs(2, channels=8, in_channels=3, num_layers_d=3, norm="INSTANCE", bias=True)
    ours = PatchDiscriminator(3, 8)
    for mine, its in zip(ours.parameters(), theirs.parameters(), strict=True):
        mine.data.copy_(its.data)
    images = torch.rand(2, 3, 64, 48)
    torch.testing.assert_close(ours(images), theirs(images)[-1], rtol=0, atol=0)
    assert sum(p.numel() for p in PatchDiscriminator(1).parameters()) == 2_762_689


@pytest.mark.parametrize(("padding", "sides"), [(1, {256: 30, 24: 2}), (2, {256: 35, 24: 7})])
def test_patches_of_images_of_several_sizes(padding, sides):
    judge = PatchDiscriminator(1, 4, outputs=2, padding=padding, affine=True)
    for side, left in sides.items():
        assert judge(torch.rand(1, 1, side, side)).shape == (1, 2, left, left)
    assert judge(torch.rand(1, 1, 29, 23)).isfinite().all()


def test_a_pixel_is_judged_by_itself():
    torch.manual_seed(0)
    judge = PixelDiscriminator(2, 32).eval()
    maps = torch.rand(1, 2, 5, 4)
    verdict = judge(maps)
    maps[..., 0, 0] += 1
    moved = (judge(maps) != verdict).any(dim=1)[0]
    assert moved[0, 0]
    assert moved.sum() == 1


@pytest.mark.parametrize(("stride", "shape"), [(1, (29, 23)), (2, (15, 12)), (8, (4, 3))])
def test_the_decoder_enlarges_features_to_the_image(stride, shape):
    images = torch.rand(2, 3, 29, 23)
    drawn = ImageDecoder(5, 3, stride, width=8)(torch.rand(2, 5, *shape), images)
    assert drawn.shape == images.shape


# --- ranges --------------------------------------------------------------------------------------
def test_a_translation_lies_in_the_range_of_the_other_domain():
    mr, ct = [[-2.0], [10.0]], [[-1.0], [3.0]]
    translator = Translator(mr, ct, width=4, blocks=1)
    drawn = translator(torch.randn(1, 1, 24, 24) * 5)
    assert -1 <= drawn.min() <= drawn.max() <= 3
    there = UnitRange(mr)
    assert there.to_unit(torch.tensor([[[[-2.0, 4.0, 10.0, 99.0]]]])).flatten().tolist() == [
        *(-1, 0, 1, 1)
    ]
    assert there.from_unit(torch.tensor([[[[-1.0, 0.0, 1.0]]]])).flatten().tolist() == [-2, 4, 10]


def test_ranges_of_pictures_and_of_volumes():
    assert stream(pictures()).value_range() == ([-1.0] * 3, [1.0] * 3)
    volume = np.linspace(0, 1000, 2 * 500 * 10, dtype=np.float32).reshape(2, 2, 50, 50)
    low, high = stream(volume).value_range()
    assert low == pytest.approx([*np.quantile(volume, 0.001, axis=(0, 2, 3))])
    assert high == pytest.approx([*np.quantile(volume, 0.999, axis=(0, 2, 3))])


def test_many_volumes_are_looked_at_evenly():
    volume = np.arange(1000, dtype=np.float32).repeat(4).reshape(1000, 1, 2, 2)
    low, high = stream(volume).value_range()
    assert low[0] < 5
    assert high[0] > 995


def test_a_channel_that_is_constant_has_no_range():
    images = np.stack([np.zeros((2, 8, 8)), np.random.default_rng(0).random((2, 8, 8))], 1)
    with pytest.raises(RunFailed, match="source: channel 0 of the images is 0 nearly everywhere"):
        stream(images.astype(np.float32), "source").value_range()


# --- losses --------------------------------------------------------------------------------------
def test_cycle_and_identity_of_generators_that_are_tanh():
    images = pictures()
    two = pair(images, skip=True).requires_grad_(False)
    for translator in (two.to_target, two.to_source):
        for parameter in translator.generator.layers[-1].parameters():
            torch.nn.init.zeros_(parameter)
    s = torch.rand(2, 3, 24, 24) * 2 - 1
    losses, as_target, as_source = generator_losses(two, s, -s, cycle=10.0, identity=0.5)
    assert torch.equal(as_target, s.tanh())
    assert torch.equal(as_source, (-s).tanh())
    again = (s - s.tanh().tanh()).abs().mean()
    assert float(losses["cycle"]) == pytest.approx(20 * float(again), rel=1e-5)
    same = (s - s.tanh()).abs().mean()
    assert float(losses["identity"]) == pytest.approx(10 * float(same), rel=1e-5)
    assert "identity" not in generator_losses(two, s, -s, cycle=10.0, identity=0.0)[0]


def test_no_loss_reaches_the_other_side():
    two, s = pair(pictures()), torch.rand(2, 3, 24, 24)
    judges = [*two.judge_target.parameters(), *two.judge_source.parameters()]
    generators = [*two.to_target.parameters(), *two.to_source.parameters()]
    losses, *drawn = generator_losses(two, s, -s, 1.0, 1.0)
    torch.stack([*losses.values()]).sum().backward()
    assert all(p.grad is None and p.requires_grad for p in judges)
    before = [p.grad.clone() for p in generators]
    torch.stack([*judge_losses(two, s, -s, *drawn).values()]).sum().backward()
    assert all(p.grad is not None for p in judges)
    assert all(torch.equal(p.grad, b) for p, b in zip(generators, before, strict=True))


def test_a_pool_gives_back_what_it_was_given():
    torch.manual_seed(0)
    pool, given = ReplayPool(3, (1, 1, 1)), torch.arange(40.0).view(20, 2, 1, 1, 1)
    shown = torch.cat([pool(batch) for batch in given]).flatten().tolist()
    assert shown[:3] == [0, 1, 2]
    assert set(shown) <= set(range(40))
    fresh = sum(value == place for place, value in enumerate(shown[3:], 3))
    assert 10 < fresh < 28  # of 37, one in two
    for place, value in enumerate(shown):
        assert value <= place
    twin = ReplayPool(3, (1, 1, 1))
    twin.load_state_dict(pool.state_dict())
    states = []
    for one in (pool, twin):
        torch.manual_seed(1)
        states.append([one(batch).flatten().tolist() for batch in given])
    assert states[0] == states[1]


@pytest.mark.parametrize(
    ("epochs", "factors"),
    [(1, [1 / 2]), (4, [1, 1, 2 / 3, 1 / 3]), (5, [1, 1, 3 / 4, 2 / 4, 1 / 4])],
)
def test_the_rate_is_constant_then_falls(epochs, factors):
    assert [constant_then_linear(epochs, e) for e in range(epochs)] == pytest.approx(factors)


def test_of_200_epochs_the_last_has_one_part_of_101():
    assert constant_then_linear(200, 99) == 1
    assert constant_then_linear(200, 100) == pytest.approx(100 / 101)
    assert constant_then_linear(200, 199) == pytest.approx(1 / 101)


def test_balanced_cross_entropy_and_squared_dice_of_two_pixels():
    p = torch.tensor([[0.8, 0.001], [0.2, 0.999]]).view(1, 2, 1, 2)
    truth = torch.tensor([[1.0, 1.0], [0.0, 0.0]]).view(1, 2, 1, 2)
    # all pixels are of class 0: its weight is 0
    assert float(balanced_cross_entropy(p.log(), truth, SOFTMAX)) == 0
    truth = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).view(1, 2, 1, 2)
    expected = -(0.5 * math.log(0.8) + 0.5 * math.log(0.999)) / 2
    assert float(balanced_cross_entropy(p.log(), truth, SOFTMAX)) == pytest.approx(expected)
    wrong = torch.tensor([[0.0, 1.0], [1.0, 0.0]]).view(1, 2, 1, 2)
    clipped = -(0.5 * math.log(0.2) + 0.5 * math.log(0.005)) / 2
    assert float(balanced_cross_entropy(p.log(), wrong, SOFTMAX)) == pytest.approx(clipped)
    one = torch.tensor([0.8, 0.3]).view(1, 1, 1, 2).logit()
    two = torch.tensor([[0.8, 0.3], [0.2, 0.7]]).view(1, 2, 1, 2).log()
    on = torch.tensor([1.0, 0.0]).view(1, 1, 1, 2)
    both = torch.cat((on, 1 - on), 1)
    assert float(balanced_cross_entropy(one, on, SIGMOID)) == pytest.approx(
        float(balanced_cross_entropy(two, both, SOFTMAX))
    )
    foreground = 2 * 0.999 / (0.2**2 + 0.999**2 + 1)
    background = 2 * 0.8 / (0.8**2 + 0.001**2 + 1)
    dice = squared_dice_loss(p.log(), truth, SOFTMAX, background=False)
    assert float(dice) == pytest.approx(1 - foreground)
    dice = squared_dice_loss(p.log(), truth, SOFTMAX, background=True)
    assert float(dice) == pytest.approx(1 - (foreground + background) / 2, rel=1e-5)


def test_a_judge_of_pixels_that_knows_nothing_is_right_in_half():
    class Undecided(torch.nn.Module):
        def forward(self, maps):
            return torch.stack((maps[:, 0], maps[:, 0]), 1)

    maps = torch.rand(2, 3, 4, 4)
    loss, right = judging_pixels(Undecided(), maps, maps)
    assert float(loss) == pytest.approx(2 * math.log(2))
    assert float(right) == 0
    assert float(fooling_pixels(Undecided(), maps)) == pytest.approx(math.log(2))

    class Sure(torch.nn.Module):
        """Positive maps are the source's."""

        def forward(self, maps):
            return torch.stack((-maps[:, 0], maps[:, 0]), 1) * 50

    loss, right = judging_pixels(Sure(), torch.ones(1, 1, 2, 2), -torch.ones(1, 1, 2, 2))
    assert float(loss) < 1e-6
    assert float(right) == 1
    assert float(fooling_pixels(Sure(), -torch.ones(1, 1, 2, 2))) == pytest.approx(100)


def test_the_gate_looks_at_the_last_hundred_steps():
    gate = Gate(0.6)
    assert not gate.opens(torch.tensor(0.5))
    assert gate.opens(torch.tensor(0.9))
    for _ in range(98):
        gate.opens(torch.tensor(0.5))
    assert not gate.opens(torch.tensor(1.0))
    twin = Gate(0.6)
    twin.load_state_dict(gate.state_dict())
    for _ in range(99):
        gate.opens(torch.tensor(0.7))
    assert gate.opens(torch.tensor(0.7))
    assert not twin.opens(torch.tensor(0.7))


def test_the_semantic_loss_asks_what_the_model_saw_before():
    two = pair(pictures())
    s, t = torch.rand(1, 3, 24, 24), -torch.rand(1, 3, 24, 24)

    def sign(images):
        return 9 * images[:, :1]

    kept = semantic_loss(two, sign, s, t, (s, t), SIGMOID)
    swapped = semantic_loss(two, sign, s, t, (t, s), SIGMOID)
    assert float(kept) < float(swapped)
    by_hand = torch.nn.functional.softplus(-9 * s[:, 0]).mean()
    by_hand = by_hand + torch.nn.functional.softplus(9 * t[:, 0]).mean()
    assert float(kept) == pytest.approx(float(by_hand), rel=1e-4)


# --- methods -------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("fuse", "kind"), [("mean", Averaged), ("translated", Normalised), ("target", Segmenter)]
)
def test_dsfn_deploys_what_its_predictions_are_fused_from(fuse, kind, tmp_path):
    done = attempt(DSFN(**DSFN.smoke | {"fuse": fuse}), Toy(), tmp_path)
    assert type(done.deployed) is kind


def test_first_version_of_sifa_needs_one_head():
    assert SIFA(low_level=False).needs.network == {"penultimate"}
    assert SIFA().needs.network == {"penultimate", "auxiliary"}


@pytest.mark.parametrize("entry", TRANSLATING)
def test_standardised_volumes_are_translated_in_their_own_ranges(entry, tmp_path, monkeypatch):
    """Floats without bounds, of scales far apart: what the segmenter sees must be the target's."""
    real = toy.draw

    def floats(of, domain, *more, **named):
        images, labels = real(of, domain, *more, **named)
        scale, shift = (0.01, 3.0) if domain == "source" else (0.2, -20.0)
        return images.astype(np.float32) * scale + shift, labels

    seen = []
    plain = Segmenter.forward
    kept = Segmenter.features

    def look(self, images):
        seen.append(images.detach())
        return plain(self, images)

    def look_at_features(self, images):
        seen.append(images.detach())
        return kept(self, images)

    toy._source_model.cache_clear()
    monkeypatch.setattr(toy, "draw", floats)
    monkeypatch.setattr(Segmenter, "forward", look)
    monkeypatch.setattr(Segmenter, "features", look_at_features)
    try:
        attempt(entry(**entry.smoke), Toy(), tmp_path)
    finally:
        toy._source_model.cache_clear()
    translated = [images for images in seen if images.mean() < -1]
    assert translated
    assert all(float(images.min()) > -30 for images in translated)


@pytest.mark.parametrize("entry", TRANSLATING)
def test_a_target_that_is_the_source_is_not_harmed(entry, tmp_path, monkeypatch):
    """With nothing to translate, what the source taught must stay."""
    fields = dict(entry.phantom) | {"width": 4, "blocks": 1}
    if entry is SIFA:
        fields |= {"epochs": 12}
    before, after = dice_on_the_source(entry(**fields), tmp_path, monkeypatch)
    assert after > before - 0.05
