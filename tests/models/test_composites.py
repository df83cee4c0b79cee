"""What is deployed around a network is described, rebuilt, and predicts the same bit for bit."""

import copy
import json
import sys

import pytest
import torch
from torch import nn

from sfdabench.core import registry
from sfdabench.core.errors import BadInput, RunFailed
from sfdabench.core.head import HEADS, SIGMOID
from sfdabench.models.composites import Averaged, MergedHeads, Normalised, describe, rebuild
from sfdabench.models.normaliser import Normaliser
from sfdabench.models.part import Part
from sfdabench.models.segmenter import OnlineSegmenter, Segmenter
from sfdabench.models.weights import sha256
from sfdabench.networks.unet_dual import UNetDual

IMAGES = torch.rand(2, 3, 29, 23, generator=torch.Generator().manual_seed(0)) * 2 - 1
PLUGIN = """
from dataclasses import dataclass
from torch import nn
from sfdabench.core.method import Method
from sfdabench.models.part import Part

@dataclass(frozen=True)
class Mine(Method):
    '''Nothing.'''

class Prompt(Part):
    def __init__(self, channels, *, strength=0.5, sizes=(1, 2)):
        super().__init__()
        self.strength = strength
        self.shift = nn.Parameter(nn.Conv2d(channels, 1, 1).weight.data[0, :, 0, 0])

    def forward(self, images):
        return images + self.strength * self.shift.view(1, -1, 1, 1)

class Stranger(nn.Module):
    def forward(self, images):
        return images

def local():
    class Inner(Part):
        pass
    return Inner()
"""


def network(seed=0):
    torch.manual_seed(seed)
    return UNetDual(width=4, depth=2).build(channels=3, outputs=2)


def segmenter(seed=0, **named):
    return Segmenter(network(seed), **named).eval()


def normaliser(**fields):
    part = Normaliser(3, **fields)
    with torch.no_grad():
        for p in part.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return part


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A plug-in's module with parts in it."""
    monkeypatch.setattr(registry, "_plugins", [])
    (tmp_path / "methods").mkdir()
    (tmp_path / "methods" / "mine.py").write_text(PLUGIN)
    registry.add_plugins(tmp_path)
    return sys.modules[registry.load("methods", "mine").__module__]


def both(model, deployed):
    with torch.no_grad():
        for call in ("__call__", "heads", "penultimate", "features"):
            yield getattr(model, call)(IMAGES), getattr(deployed, call)(IMAGES)


def same(one, other):
    if isinstance(one, tuple):
        return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    return torch.equal(one, other)


def round_trip(model, precision="float32"):
    description = json.loads(json.dumps(describe(model)))
    state = {name: value.clone() for name, value in model.weights().items()}
    again = rebuild(network(1), description, state, "file", precision)
    assert type(again) is type(model)
    assert not again.training
    assert sha256(again.weights()) == sha256(state)
    for one, other in both(model.eval(), again):
        assert same(one, other)
    return description


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("head", HEADS.values(), ids=str)
def test_composites_come_back_and_predict_the_same(head, precision):
    part = normaliser(width=5)
    described = round_trip(Normalised(segmenter(precision=precision), part), precision)
    assert described == {
        "name": "Normalised",
        "part": {
            "module": "sfdabench.models.normaliser",
            "class": "Normaliser",
            "arguments": {"channels": 3, "width": 5, "kernel": 3},
        },
    }
    described = round_trip(Averaged(segmenter(precision=precision), part, head), precision)
    assert (described["name"], described["head"]) == ("Averaged", head.name)


def test_a_plain_segmenter_needs_no_description():
    model = segmenter()
    assert describe(model) is None
    again = rebuild(network(1), None, model.weights(), "file")
    for one, other in both(model, again):
        assert same(one, other)
    assert describe(OnlineSegmenter(segmenter(), lambda images: images, 2)) is None


def test_names_of_the_source_model_survive():
    model = segmenter()
    names = set(model.state_dict())
    before = {name: value.clone() for name, value in model.weights().items()}
    whole = Normalised(model, normaliser())
    assert names < set(whole.state_dict())
    assert set(before) < set(whole.weights())
    assert all(torch.equal(whole.weights()[name], value) for name, value in before.items())
    extra = set(whole.weights()) - set(before)
    assert extra
    assert {name.partition(".")[0] for name in extra} == {"before"}
    other = Averaged(segmenter(), normaliser(), SIGMOID)
    extra = set(other.weights()) - set(before)
    assert {name.partition(".")[0] for name in extra} == {"translate"}


def test_normalised_sees_what_the_part_makes():
    part, model = normaliser(), segmenter()
    whole = Normalised(model, part)
    with torch.no_grad():
        assert torch.equal(whole(IMAGES), model(part(IMAGES)))
        assert same(whole.heads(IMAGES), model.heads(part(IMAGES)))
        features = whole.penultimate(IMAGES)
        assert torch.equal(whole.classify(features, (29, 23)), whole(IMAGES))
        low, last = whole.features(IMAGES)
        hand = whole.classify(last, (29, 23)), whole.classify_auxiliary(low, (29, 23))
        assert same(whole.heads(IMAGES), hand)
    whole(IMAGES).sum().backward()
    assert all(p.grad is not None for p in part.parameters())


@pytest.mark.parametrize("head", HEADS.values(), ids=str)
def test_averaged_is_the_mean_of_probabilities(head):
    part, model = normaliser(), segmenter()
    whole = Averaged(model, part, head)

    def probability(logits):
        return logits.sigmoid() if head == SIGMOID else logits.softmax(1)

    with torch.no_grad():
        one, other = model(IMAGES), model(part(IMAGES))
        expected = (probability(one) + probability(other)) / 2
        assert torch.allclose(probability(whole(IMAGES)), expected, atol=1e-6)
        assert torch.equal(whole.heads(IMAGES)[0], whole(IMAGES))
        hidden = model.heads(IMAGES)[1], model.heads(part(IMAGES))[1]
        expected = (probability(hidden[0]) + probability(hidden[1])) / 2
        assert torch.allclose(probability(whole.heads(IMAGES)[1]), expected, atol=1e-6)
        extreme = whole._mean(torch.full((1, 2, 1, 1), 200.0), torch.full((1, 2, 1, 1), 200.0))
        assert torch.isfinite(extreme).all()


def test_an_untrained_normaliser_changes_no_bit():
    model = segmenter()
    with torch.no_grad():
        assert torch.equal(Normalised(model, Normaliser(3))(IMAGES), model(IMAGES))


def test_the_normaliser_is_dae_s():
    """Convolution, bell, convolution, bell, convolution, added to the image."""
    part = normaliser(width=4)
    first, bell, second, other, last = part.layers
    assert all((scale > 0).all() for scale in (bell.scale, other.scale))
    with torch.no_grad():
        maps = torch.exp(-(first(IMAGES) ** 2) / (bell.scale.view(1, -1, 1, 1) ** 2 + 1e-6))
        maps = torch.exp(-(second(maps) ** 2) / (other.scale.view(1, -1, 1, 1) ** 2 + 1e-6))
        assert torch.allclose(part(IMAGES), IMAGES + last(maps), atol=1e-6)
    scales = torch.stack([Normaliser(1, width=1000).layers[1].scale]).flatten()
    assert scales.mean().item() == pytest.approx(0.2, abs=0.01)
    assert scales.std().item() == pytest.approx(0.05, abs=0.01)
    with pytest.raises(ValueError, match="kernel=2"):
        Normaliser(3, kernel=2)


def test_a_part_of_a_plug_in_comes_back(mine):
    described = round_trip(Normalised(segmenter(), mine.Prompt(3, strength=0.25)))
    arguments = {"channels": 3, "strength": 0.25, "sizes": [1, 2]}
    assert described["part"]["arguments"] == arguments
    assert described["part"]["class"] == "Prompt"


def test_a_deep_copy_is_independent_and_described_alike(mine):
    whole = Normalised(segmenter(), mine.Prompt(3))
    twin = copy.deepcopy(whole)
    assert describe(twin) == describe(whole)
    with torch.no_grad():
        twin.before.shift.add_(1)
    assert not torch.equal(twin.before.shift, whole.before.shift)


def test_a_part_remembers_the_outermost_constructor():
    class Inner(Part):
        def __init__(self, width):
            super().__init__()
            self.width = width

    class Outer(Inner):
        def __init__(self, half, more=1):
            super().__init__(2 * half)

    class Same(Outer):
        pass

    assert Inner(3).arguments == {"width": 3}
    assert Outer(half=2).arguments == {"half": 2, "more": 1}
    assert Same(4, 5).arguments == {"half": 4, "more": 5}
    assert Part().arguments == {}


def test_arguments_that_no_file_can_hold_are_refused():
    class Taking(Part):
        def __init__(self, value):
            super().__init__()

    for value in (nn.Conv2d(1, 1, 1), torch.zeros(1), float("nan"), {1, 2}):
        with pytest.raises(TypeError, match="plain JSON values"):
            Taking(value)
    with pytest.raises(TypeError, match="widths of its constructor cannot be named"):

        class Open(Part):
            def __init__(self, *widths):
                super().__init__()


class Local(Part):
    """In no file that may hold a part."""


def refusals(mine):
    def hooked():
        model = segmenter()
        model.network.stem.register_forward_hook(lambda *_: None)
        return model

    def hooked_before():
        model = Normalised(segmenter(), normaliser())
        model.before.layers.register_forward_pre_hook(lambda *_: None)
        return model

    def replaced():
        model = segmenter()
        model.forward = lambda images: images
        return model

    def replaced_within():
        model = segmenter()
        model.network.penultimate = lambda images: images
        return model

    class Own(Segmenter):
        pass

    return {
        "type Conv2d": nn.Conv2d(3, 2, 1),
        "type Sequential": nn.Sequential(normaliser(), segmenter()),
        "type Own": Own(network()),
        "'network.stem' of the deployed model has a forward hook": hooked(),
        "'before.layers' of the deployed model has a forward hook": hooked_before(),
        "the deployed model has its method forward replaced": replaced(),
        "'network' of the deployed model has its method penultimate replaced": replaced_within(),
        "Conv2d, is no sfdabench.models.part.Part": Normalised(segmenter(), nn.Conv2d(3, 3, 1)),
        "Stranger, is no sfdabench.models.part.Part": Normalised(segmenter(), mine.Stranger()),
        "Inner, cannot be built anew: .* defines no part": Normalised(segmenter(), mine.local()),
        "Local, cannot be built anew: .*test_composites: no file": Normalised(segmenter(), Local()),
        "Part, cannot be built anew: .*part defines no part": Normalised(segmenter(), Part()),
    }


def test_what_weights_cannot_bring_back_is_refused(mine):
    for reason, model in refusals(mine).items():
        with pytest.raises(RunFailed, match=reason):
            describe(model)


def test_a_composite_goes_around_a_plain_segmenter():
    for model in (Normalised(segmenter(), normaliser()), network()):
        with pytest.raises(RunFailed, match="goes around a plain Segmenter, not a"):
            Normalised(model, normaliser())

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.before = nn.Conv2d(3, 2, 1)

    with pytest.raises(RunFailed, match=r"weights called before\.\* itself"):
        Normalised(Segmenter(Net()), normaliser())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"name": "Sequential"}, "not the description of a composite"),
        ({"name": None}, "not the description of a composite"),
        ({"head": "sigmoid"}, "not the description of a composite"),
        ({"name": "Averaged"}, "not the description of a composite"),
        ({"name": "Averaged", "head": "linear"}, "not the description of a composite"),
        ({"part": None}, "not the description of a composite"),
        ({"part": {"module": "sfdabench.models.normaliser"}}, "not the description of a composite"),
        ({"part": {"module": "os", "class": "system"}}, "os: no file of an entry"),
        ({"part": {"module": "torch.nn", "class": "Linear"}}, "torch.nn: no file of an entry"),
        ({"part": {"module": "sfdabench.models.segmenter", "class": "nn"}}, "no part 'nn'"),
        ({"part": {"module": "sfdabench.models.unet", "class": "UNet"}}, "no part 'UNet'"),
        ({"part": {"module": "sfdabench.models.composites", "class": "Part"}}, "no part 'Part'"),
        ({"part": {"module": "sfdabench.models...core.files", "class": "x"}}, "no file"),
        ({"part": {"module": ["sfdabench"], "class": "x"}}, "not the description"),
        ({"part": {"module": "sfdabench.methods.tent", "class": "Tent"}}, "no part 'Tent'"),
        (
            {"part": {"module": "sfdabench.models.normaliser", "class": ["Normaliser"]}},
            "not the description",
        ),
    ],
)
def test_a_description_that_names_anything_else_is_one_line(change, reason):
    described = describe(Normalised(segmenter(), normaliser()))
    part = {"arguments": {"channels": 3}} | (change.get("part") or {})
    broken = described | change | ({"part": part} if change.get("part") else {})
    with pytest.raises(BadInput, match=rf"^file\.safetensors: .*{reason}"):
        rebuild(network(), broken, {}, "file.safetensors")


@pytest.mark.parametrize(
    "arguments",
    [{}, {"channels": "3"}, {"channels": -1}, {"channels": 3, "depth": 1}, {"channels": 3.5}, []],
)
def test_arguments_that_a_part_does_not_take_are_one_line(arguments):
    described = describe(Normalised(segmenter(), normaliser()))
    described["part"]["arguments"] = arguments
    with pytest.raises(BadInput, match=r"^f: not the description of a composite"):
        rebuild(network(), described, {}, "f")


def test_weights_that_do_not_fit_are_named():
    whole = Normalised(segmenter(), normaliser())
    described, state = describe(whole), whole.weights()
    short = {name: v for name, v in state.items() if name != "before.layers.0.weight"}
    with pytest.raises(BadInput, match=r"f: weights of another network; .*layers\.0\.weight"):
        rebuild(network(), described, short, "f")
    with pytest.raises(BadInput, match="unexpected: before"):
        rebuild(network(), None, state, "f")
    with pytest.raises(BadInput, match="missing"):
        rebuild(network(), described, segmenter().weights(), "f")


@pytest.mark.parametrize("merge", ["probabilities", "logits"])
def test_merged_heads_are_rebuilt(merge):
    head = HEADS["softmax"]
    model = MergedHeads(segmenter(), head, merge, weight=0.5)
    description = json.loads(json.dumps(describe(model)))
    again = rebuild(network(seed=1), description, model.weights(), "a file")
    with torch.no_grad():
        main, auxiliary = model.heads(IMAGES)
        merged = model(IMAGES)
        assert torch.equal(merged, again(IMAGES))
        if merge == "logits":
            expected = (main + auxiliary / 2).softmax(1)
        else:
            expected = (main.softmax(1) + auxiliary.softmax(1) / 2) / 1.5
    assert torch.allclose(merged.softmax(1), expected, atol=1e-5)
    assert MergedHeads(model, head, "logits").network is model.network


def test_merged_heads_go_around_a_plain_segmenter():
    with pytest.raises(RunFailed, match="goes around a plain Segmenter, not a Normalised"):
        MergedHeads(Normalised(segmenter(), Normaliser(3)), SIGMOID, "logits")


@pytest.mark.parametrize("wrong", [{"merge": "logits", "weight": 1.0}, {"head": "sigmoid"}])
def test_a_description_of_merged_heads_that_lacks_something_is_refused(wrong):
    with pytest.raises(BadInput, match="a file: not the description of a composite"):
        rebuild(network(), {"name": "MergedHeads", **wrong}, network().state_dict(), "a file")
