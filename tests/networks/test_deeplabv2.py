import copy

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from sfdabench.checks.networks import (
    check_first_of_two_heads_is_the_main_one,
    check_heads_are_the_two_classifiers_on_the_two_features,
)
from sfdabench.core import registry
from sfdabench.core.errors import BadInput
from sfdabench.core.fields import override
from sfdabench.models.segmenter import Segmenter

NAME = "deeplabv2_resnet101"
SMALL = {"layers": (1, 2, 2, 2), "width": 4}


def entry(**fields):
    return registry.load("networks", NAME)(**fields)


def built(outputs=2, channels=3, **fields):
    torch.manual_seed(0)
    return entry(**fields).build(channels=channels, outputs=outputs)


@pytest.fixture(scope="module")
def full():
    return built(outputs=5)


@pytest.fixture(scope="module")
def small():
    return built(**SMALL)


def tensors(convolution, norm, name_of_norm):
    """The six tensors of a convolution without bias and its norm, as torchvision names them."""
    kept = ("weight", "bias", "running_mean", "running_var")
    width = convolution[1][0]
    return (
        {f"{convolution[0]}.weight": convolution[1]}
        | {f"{name_of_norm}.{part}": (width,) for part in kept}
        | {f"{name_of_norm}.num_batches_tracked": ()}
    )


def documented(blocks=(3, 4, 23, 3)):
    """Names and shapes of ResNet-101 in torchvision, without fc: written from its description."""
    state = tensors(("conv1", (64, 3, 7, 7)), None, "bn1")
    channels = 64
    for stage, repetitions in enumerate(blocks):
        width = 64 * 2**stage
        for block in range(repetitions):
            at = f"layer{stage + 1}.{block}"
            state |= tensors((f"{at}.conv1", (width, channels, 1, 1)), None, f"{at}.bn1")
            state |= tensors((f"{at}.conv2", (width, width, 3, 3)), None, f"{at}.bn2")
            state |= tensors((f"{at}.conv3", (4 * width, width, 1, 1)), None, f"{at}.bn3")
            if block == 0:
                down = f"{at}.downsample"
                state |= tensors((f"{down}.0", (4 * width, channels, 1, 1)), None, f"{down}.1")
            channels = 4 * width
    return state


class TestBackbone:
    def test_names_and_shapes_are_torchvision_s(self, full):
        state = full.backbone.state_dict()
        assert {name: tuple(value.shape) for name, value in state.items()} == documented()
        # 101 layers: the stem, 33 blocks of three, and fc, which is left out; four projections
        assert sum(name.endswith("conv1.weight") for name in state) == 1 + 33
        assert sum(value.ndim == 4 for value in state.values()) == 1 + 33 * 3 + 4
        assert len(state) == 6 * (1 + 33 * 3 + 4)

    def test_parameters(self, full):
        # the published 44,549,160 without the 2048 x 1000 + 1000 of fc
        assert sum(p.numel() for p in full.backbone.parameters()) == 44_549_160 - 2_049_000
        heads = 4 * 5 * (9 * (1024 + 2048) + 2)
        assert sum(p.numel() for p in full.parameters()) == 42_500_160 + heads

    @pytest.mark.parametrize("size", [(64, 96), (57, 71), (33, 8)])
    def test_both_stages_are_at_stride_eight(self, small, size):
        third, fourth = small.backbone(torch.rand(2, 3, *size))
        height, width = (-(-side // 8) for side in size)
        assert third.shape == (2, 64, height, width)
        assert fourth.shape == small.penultimate(torch.rand(2, 3, *size)).shape
        assert fourth.shape == (2, 128, height, width)

    def test_strides_and_dilations_of_the_filters(self, full):
        stages = [getattr(full.backbone, f"layer{stage}") for stage in (1, 2, 3, 4)]
        filters = [[(b.conv2.stride[0], b.conv2.dilation[0]) for b in stage] for stage in stages]
        assert filters == [
            [(1, 1)] * 3,
            [(2, 1)] + [(1, 1)] * 3,
            [(1, 1)] + [(1, 2)] * 22,
            [(1, 2)] + [(1, 4)] * 2,
        ]
        assert [stage[0].downsample[0].stride[0] for stage in stages] == [1, 2, 1, 1]

    def test_dilation_sees_what_stride_saw(self):
        """Every fourth value is that of the plain ResNet at stride 32, with the same weights."""
        dilated = built(**SMALL).backbone.eval()
        plain = copy.deepcopy(dilated)
        for stage in (plain.layer3, plain.layer4):
            for layer in stage.modules():
                if isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3):
                    layer.dilation = layer.padding = (1, 1)
            stage[0].conv2.stride = stage[0].downsample[0].stride = (2, 2)
        images = torch.rand(2, 3, 128, 96)
        with torch.no_grad():
            (third, fourth), (wide_third, wide_fourth) = plain(images), dilated(images)
        assert fourth.shape[-2:] == (4, 3)
        assert torch.allclose(wide_third[..., ::2, ::2], third, atol=1e-5)
        assert torch.allclose(wide_fourth[..., ::4, ::4], fourth, atol=1e-5)

    def test_initialisation(self):
        backbone = built(layers=(1, 1, 1, 1), width=32).backbone
        spread = backbone.layer4[0].conv2.weight.std().item()
        assert spread == pytest.approx((2 / (9 * 256)) ** 0.5, rel=0.02)
        norms = [m for m in backbone.modules() if isinstance(m, nn.BatchNorm2d)]
        assert all(m.weight.eq(1).all() and m.bias.eq(0).all() for m in norms)


class TestHeads:
    def test_each_is_the_sum_of_four_convolutions(self, small):
        for head, channels in ((small.classifier, 128), (small.auxiliary, 64)):
            maps = torch.rand(2, channels, 9, 7)
            total = sum(
                F.conv2d(maps, b.weight, b.bias, padding=rate, dilation=rate)
                for b, rate in zip(head.branches, (6, 12, 18, 24), strict=True)
            )
            assert torch.allclose(head(maps), total, atol=1e-6)

    def test_initialisation(self):
        head = built(layers=(1, 1, 1, 1), width=32).classifier
        weights = torch.cat([branch.weight.flatten() for branch in head.branches])
        assert weights.std().item() == pytest.approx(0.01, rel=0.02)
        assert abs(weights.mean().item()) < 1e-3

    def test_they_are_on_the_stages_they_should_be(self, small):
        network = copy.deepcopy(small).eval()
        images = torch.rand(2, 3, 57, 71)
        with torch.no_grad():
            before = network.heads(images)
            network.backbone.layer4[0].conv1.weight.mul_(-1)
            after = network.heads(images)
        assert before[0].shape == before[1].shape == (2, 2, 57, 71)
        assert torch.equal(before[1], after[1])
        assert not torch.equal(before[0], after[0])

    def test_forward_is_the_main_one_and_trains_it_alone(self, small):
        network = copy.deepcopy(small).train()
        network(torch.rand(1, 3, 33, 47)).square().mean().backward()
        without = {name for name, p in network.named_parameters() if p.grad is None}
        assert without == {name for name, _ in network.named_parameters() if "auxiliary." in name}

    def test_logits_are_enlarged_with_aligned_corners(self, small):
        features = torch.rand(1, 128, 5, 5)
        with torch.no_grad():
            coarse, fine = small.classifier(features), small.classify(features, (33, 33))
        assert torch.equal(fine[..., ::32, ::32], coarse[..., ::4, ::4])

    @pytest.mark.parametrize("precision", ["float32", "bfloat16"])
    def test_segmenter_gives_both_in_float32(self, small, precision):
        model = Segmenter(copy.deepcopy(small), precision=precision).eval()
        images = torch.rand(2, 3, 33, 47)
        main, auxiliary = model.heads(images)
        assert main.dtype == auxiliary.dtype == torch.float32
        assert torch.equal(main, model(images))
        assert auxiliary.shape == (2, 2, 33, 47)

    def test_the_contract_sees_a_second_head_that_is_the_first(self):
        class Twice(registry.load("networks", NAME)):
            def build(self, **sizes):
                module = entry(**SMALL).build(**sizes)
                module.heads = lambda images: (module(images), module(images))
                return module

        assert [*check_first_of_two_heads_is_the_main_one(Twice)] == ["both heads are one"]

    def test_the_contract_sees_features_of_another_head(self):
        class Other(registry.load("networks", NAME)):
            def build(self, **sizes):
                module = entry(**SMALL).build(**sizes)
                heads = module.heads
                module.heads = lambda images: (heads(images)[0], heads(images)[1] + 1)
                return module

        (fault,) = check_heads_are_the_two_classifiers_on_the_two_features(Other)
        assert fault.startswith("the auxiliary head is another result")


class TestFields:
    def test_of_a_small_variant_are_read_from_text(self):
        small = override(entry(), {"layers": "[1, 1, 2, 1]", "width": "8"}, owner=NAME)
        assert (small.layers, small.width) == ((1, 1, 2, 1), 8)
        assert sum(p.numel() for p in small.build(channels=1, outputs=2).parameters()) < 10**6

    @pytest.mark.parametrize("layers", ["[3, 4, 23]", "[3, 4, 0, 3]", "101"])
    def test_layers_are_four_numbers(self, layers):
        with pytest.raises(BadInput, match="layers"):
            override(entry(), {"layers": layers}, owner=NAME)


class TestWeights:
    @staticmethod
    def torchvision_named(network):
        state = {
            key: torch.randn(value.shape) if value.is_floating_point() else value + 7
            for key, value in network.backbone.state_dict().items()
        }
        return state | {"fc.weight": torch.zeros(1000, 128), "fc.bias": torch.zeros(1000)}

    @pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
    @pytest.mark.parametrize("counters", [True, False])
    def test_load_into_the_backbone_alone(self, small, tmp_path, suffix, counters):
        state = self.torchvision_named(small)
        if not counters:
            state = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
        path = tmp_path / f"resnet101{suffix}"
        save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
        network = copy.deepcopy(small)
        entry(**SMALL).load_backbone(network, path)
        loaded = network.backbone.state_dict()
        assert all(torch.equal(loaded[key], state[key]) for key in loaded if key in state)
        for head in ("classifier", "auxiliary"):
            before, after = (getattr(n, head).state_dict() for n in (small, network))
            assert all(torch.equal(after[key], before[key]) for key in before)

    @pytest.mark.parametrize("channels", [1, 4])
    def test_other_channels_answer_a_grey_image_as_rgb_does(self, small, tmp_path, channels):
        state = self.torchvision_named(small)
        save_file(state, tmp_path / "rgb.safetensors")
        network = built(channels=channels, **SMALL)
        entry(**SMALL).load_backbone(network, tmp_path / "rgb.safetensors")
        grey = torch.rand(2, 1, 32, 32)
        ours = network.backbone.conv1(grey.expand(-1, channels, -1, -1))
        assert torch.allclose(
            ours,
            F.conv2d(grey.expand(-1, 3, -1, -1), state["conv1.weight"], stride=2, padding=3),
            atol=1e-4,
        )
        assert network.backbone.conv1.weight.is_contiguous()

    def test_weights_of_the_same_channels_are_taken_as_they_are(self, tmp_path):
        network = built(channels=1, **SMALL)
        state = self.torchvision_named(network)
        save_file(state, tmp_path / "grey.safetensors")
        entry(**SMALL).load_backbone(network, tmp_path / "grey.safetensors")
        assert torch.equal(network.backbone.conv1.weight, state["conv1.weight"])

    def test_wrong_keys_are_named_and_nothing_is_changed(self, small, tmp_path):
        state = self.torchvision_named(small)
        del state["layer3.1.bn2.bias"]
        state["layer5.0.weight"] = torch.zeros(3)
        state["conv1.weight"] = torch.zeros(4, 2, 7, 7)
        save_file(state, tmp_path / "other.safetensors")
        network = copy.deepcopy(small)
        with pytest.raises(BadInput) as caught:
            entry(**SMALL).load_backbone(network, tmp_path / "other.safetensors")
        for part in (
            "other.safetensors",
            "1 missing: layer3.1.bn2.bias",
            "1 unexpected: layer5.0.weight",
            "1 mis-shaped: conv1.weight (4, 2, 7, 7), not (4, 3, 7, 7)",
        ):
            assert part in str(caught.value)
        now = network.state_dict()
        assert all(torch.equal(value, now[key]) for key, value in small.state_dict().items())

    def test_file_without_a_stem_is_refused(self, small, tmp_path):
        state = self.torchvision_named(small)
        del state["conv1.weight"]
        save_file(state, tmp_path / "cut.safetensors")
        with pytest.raises(BadInput, match=r"1 missing: conv1\.weight"):
            entry(**SMALL).load_backbone(copy.deepcopy(small), tmp_path / "cut.safetensors")
