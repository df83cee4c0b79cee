import copy

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from sfdabench.core import registry
from sfdabench.core.errors import BadInput
from sfdabench.models import winograd as _winograd
from sfdabench.models.deeplabv3plus import _Dropout
from sfdabench.models.resize import _matrix, convolve_resized, resize
from sfdabench.models.segmenter import Segmenter

ENTRIES = ("deeplabv3plus_mobilenetv2", "unet_small")
DEEPLAB = ENTRIES[0]


def entry(name):
    return registry.load("networks", name)


def built(name, outputs=2, **fields):
    torch.manual_seed(0)
    return entry(name)(**fields).build(channels=3, outputs=outputs)


@pytest.fixture(scope="module")
def deeplab():
    return built(DEEPLAB)


def test_folder_is_the_registry():
    assert set(ENTRIES) <= set(registry.names("networks"))


@pytest.mark.parametrize("name", ENTRIES)
@pytest.mark.parametrize("size", [(64, 64), (65, 47)])
@pytest.mark.parametrize("outputs", [2, 5])
def test_logits_have_the_size_of_the_image(name, size, outputs):
    assert built(name, outputs)(torch.rand(2, 3, *size)).shape == (2, outputs, *size)


@pytest.mark.parametrize("name", ENTRIES)
def test_forward_is_classify_after_penultimate(name):
    network, images = built(name).eval(), torch.rand(2, 3, 48, 64)
    features = network.penultimate(images)
    assert torch.equal(network(images), network.classify(features, (48, 64)))


@pytest.mark.parametrize("name", ENTRIES)
def test_batch_of_one_trains_every_parameter(name):
    network = built(name).train()
    network(torch.rand(1, 3, 64, 64)).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize("name", ENTRIES)
def test_features_are_what_is_there(name):
    network, features = built(name), entry(name).features
    layers = list(network.modules())
    assert ("batch_norm" in features) == any(isinstance(m, nn.BatchNorm2d) for m in layers)
    assert ("dropout" in features) == any(isinstance(m, nn.Dropout) for m in layers)
    assert "penultimate" in features
    assert network.penultimate(torch.rand(2, 3, 64, 64)).ndim == 4


@pytest.mark.parametrize("name", ENTRIES)
def test_same_seed_same_network(name):
    one, two = built(name).state_dict(), built(name).state_dict()
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_unet_is_small():
    assert sum(p.numel() for p in built("unet_small").parameters()) == 122474
    assert sum(p.numel() for p in built("unet_small", width=4, depth=2).parameters()) < 10_000


def test_unet_has_no_backbone(tmp_path):
    with pytest.raises(BadInput, match="has no pretrained backbone"):
        entry("unet_small")().load_backbone(built("unet_small"), tmp_path / "w.pth")


class TestDeepLab:
    def test_parameters(self, deeplab):
        def count(module):
            return sum(p.numel() for p in module.parameters())

        # torchvision's features (2,223,872) without its 1280-channel layer (412,160)
        assert count(deeplab.backbone) == 2_223_872 - 412_160
        pyramid = 320 * 256 * (1 + 3 * 9 + 1) + 1280 * 256 + 6 * 512
        decoder = 24 * 48 + 96 + 304 * 256 * 9 + 512 + 256 * 256 * 9 + 512 + 256 * 2 + 2
        assert count(deeplab) == count(deeplab.backbone) + pyramid + decoder

    def test_strides_and_channels(self, deeplab):
        low, high = deeplab.backbone(torch.rand(2, 3, 64, 96))
        assert low.shape == (2, 24, 16, 24)
        assert high.shape == (2, 320, 4, 6)
        assert deeplab.penultimate(torch.rand(2, 3, 64, 96)).shape == (2, 256, 16, 24)

    def test_strides_and_dilations_of_the_depthwise_convolutions(self, deeplab):
        depthwise = [
            m for m in deeplab.backbone.modules() if isinstance(m, nn.Conv2d) and m.groups > 1
        ]
        assert [m.stride[0] for m in depthwise] == [1, 2, 1, 2, 1, 1, 2] + [1] * 10
        assert [m.dilation[0] for m in depthwise] == [1] * 16 + [2]
        assert all(m.padding == (0, 0) for m in depthwise)

    def test_rates_of_the_pyramid(self, deeplab):
        assert [branch[0].dilation[0] for branch in deeplab.pyramid.branches] == [1, 6, 12, 18]

    def test_dropouts(self, deeplab):
        assert [m.p for m in deeplab.modules() if isinstance(m, nn.Dropout)] == [0.5, 0.5, 0.1]
        network = built(DEEPLAB, dropout_classifier=0.3)
        assert [m.p for m in network.modules() if isinstance(m, nn.Dropout)] == [0.5, 0.5, 0.3]

    def test_every_norm_is_plain_and_every_other_convolution_without_bias(self, deeplab):
        norms = [m for m in deeplab.modules() if isinstance(m, nn.BatchNorm2d)]
        assert {(m.momentum, m.eps) for m in norms} == {(0.1, 1e-5)}
        biased = [m for m in deeplab.modules() if isinstance(m, nn.Conv2d) and m.bias is not None]
        assert biased == [deeplab.classifier[1]]

    def test_padding_comes_before_the_expansion(self, deeplab):
        """An independent statement of the quirk, and where it differs from torchvision's order."""
        block = copy.deepcopy(deeplab.backbone.features[3]).eval()
        with torch.no_grad():
            block.conv[0][1].bias.fill_(1.0)
            maps = torch.rand(1, 24, 9, 9)
            (expand, norm, relu), (depthwise, *after) = block.conv[0], block.conv[1]

            def finish(hidden):
                for layer in (*after, block.conv[2], block.conv[3]):
                    hidden = layer(hidden)
                return hidden + maps

            hidden = relu(norm(expand(F.pad(maps, (1, 1, 1, 1)))))
            ours = finish(F.conv2d(hidden, depthwise.weight, groups=depthwise.groups))
            hidden = relu(norm(expand(maps)))
            theirs = finish(F.conv2d(hidden, depthwise.weight, padding=1, groups=depthwise.groups))
            assert torch.allclose(block(maps), ours, atol=1e-6)
            apart = (block(maps) - theirs).abs().amax(dim=(0, 1))
        assert apart[1:-1, 1:-1].max() < 1e-5
        assert min(apart[0].min(), apart[-1].min(), apart[:, 0].min(), apart[:, -1].min()) > 1e-3

    def test_padding_takes_part_in_the_batch_statistics(self, deeplab):
        block = copy.deepcopy(deeplab.backbone.features[2]).train()
        maps = torch.rand(2, 16, 8, 8)
        padded = block.conv[0][0](F.pad(maps, (1, 1, 1, 1)))
        block(maps)
        assert torch.allclose(
            block.conv[0][1].running_mean, 0.1 * padded.mean(dim=(0, 2, 3)), atol=1e-6
        )

    def test_logits_are_enlarged_with_aligned_corners(self, deeplab):
        network = copy.deepcopy(deeplab).eval()
        features = torch.rand(1, 256, 16, 16)
        small = network.classifier(features)
        assert torch.equal(
            network.classify(features, (61, 61))[..., ::60, ::60], small[..., ::15, ::15]
        )

    @pytest.mark.parametrize("training", [True, False])
    def test_folded_decoder_is_the_plain_one(self, training):
        network = built(DEEPLAB).double().train(training)
        images, logits = torch.rand(2, 3, 65, 47, dtype=torch.float64), []
        for folded in (True, False):
            network.decoder[0][0].folded = folded
            torch.manual_seed(1)
            logits.append(network(images))
        assert torch.allclose(*logits, atol=1e-10)

    @pytest.mark.parametrize("rate", [0.1, 0.5])
    def test_dropout_meets_its_rate_whatever_the_layout(self, rate):
        layer, maps = _Dropout(rate), torch.rand(3, 5, 101, 67) + 1
        torch.manual_seed(0)
        dropped = layer(maps)
        torch.manual_seed(0)
        assert torch.equal(dropped, layer(maps.to(memory_format=torch.channels_last)))
        assert float((dropped == 0).float().mean()) == pytest.approx(rate, abs=0.005)
        kept = dropped != 0
        assert torch.allclose(dropped[kept], maps[kept] / (1 - rate))
        assert abs(dropped.mean() - maps.mean()) < 0.02
        assert not torch.equal(dropped, layer(maps))
        assert layer.eval()(maps) is maps

    def test_pooled_norm_of_one_image_uses_the_running_statistics(self, deeplab):
        norm = copy.deepcopy(deeplab.pyramid.pooled[1])
        norm.running_mean.fill_(2.0)
        norm.running_var.fill_(4.0)
        one = torch.randn(1, 256, 1, 1)
        expected = (one - 2) / (4 + 1e-5) ** 0.5
        assert torch.allclose(norm.train()(one), expected)
        assert torch.allclose(norm.eval()(one), expected)
        assert norm.running_mean.eq(2).all()
        norm.train()(torch.randn(2, 256, 1, 1))
        assert not norm.running_mean.eq(2).any()

    def test_pooled_norm_of_one_image_without_statistics_is_its_bias(self, deeplab):
        norm = copy.deepcopy(deeplab.pyramid.pooled[1])
        norm.running_mean = norm.running_var = None
        norm.track_running_stats = False
        assert torch.equal(norm(torch.randn(1, 256, 1, 1)).flatten(), norm.bias)


def test_resizing_by_matrices_is_the_library_s():
    maps = torch.rand(2, 3, 9, 17)
    by_matrices = _matrix(9, 33, maps.device, maps.dtype) @ maps
    by_matrices = by_matrices @ _matrix(17, 30, maps.device, maps.dtype).T
    library = F.interpolate(maps, size=(33, 30), mode="bilinear", align_corners=True)
    assert torch.allclose(by_matrices, library, atol=1e-5)


@pytest.mark.parametrize("size", [(33, 30), (9, 17), (4, 5)])
def test_convolution_sees_through_resizing(size):
    maps = torch.rand(2, 6, 9, 17, dtype=torch.float64, requires_grad=True)
    weight = torch.rand(4, 6, 3, 3, dtype=torch.float64, requires_grad=True)
    folded = convolve_resized(maps, weight, size)
    plain = F.conv2d(resize(maps, size), weight, padding=1)
    assert torch.allclose(folded, plain, atol=1e-12)
    for one, two in zip(
        torch.autograd.grad(folded.square().sum(), (maps, weight)),
        torch.autograd.grad(plain.square().sum(), (maps, weight)),
        strict=True,
    ):
        assert torch.allclose(one, two, rtol=1e-10)


class TestWinograd:
    @pytest.mark.parametrize("size", [(8, 8), (9, 14), (1, 3), (4, 5)])
    def test_value_and_gradients(self, size):
        maps = torch.rand(2, 3, *size, dtype=torch.float64, requires_grad=True)
        weight = torch.rand(5, 3, 3, 3, dtype=torch.float64, requires_grad=True)
        assert torch.allclose(_winograd.convolve(maps, weight), F.conv2d(maps, weight, padding=1))
        assert torch.autograd.gradcheck(_winograd.convolve, (maps, weight))

    def test_rounding_is_that_of_float32(self):
        maps, weight = torch.randn(2, 128, 32, 32).relu(), torch.randn(64, 128, 3, 3)
        exact = F.conv2d(maps.double(), weight.double(), padding=1)
        ours = _winograd.convolve(maps, weight) - exact
        plain = F.conv2d(maps, weight, padding=1) - exact
        assert ours.norm() < 1e-5 * exact.norm()
        assert ours.norm() < 20 * plain.norm()


class TestBackbone:
    @staticmethod
    def torchvision_named(deeplab):
        state = {
            key: torch.randn(value.shape) if value.is_floating_point() else value + 7
            for key, value in deeplab.backbone.state_dict().items()
        }
        return state | {
            "features.18.0.weight": torch.zeros(1280, 320, 1, 1),
            "classifier.1.weight": torch.zeros(1000, 1280),
        }

    def test_names_are_torchvision_s(self, deeplab):
        names = set(deeplab.backbone.state_dict())
        assert len(names) == 51 * 6  # a weight and the five entries of its norm
        assert {
            "features.0.0.weight",
            "features.0.1.running_mean",
            "features.1.conv.0.0.weight",
            "features.1.conv.1.weight",
            "features.1.conv.2.bias",
            "features.2.conv.0.0.weight",
            "features.2.conv.1.0.weight",
            "features.17.conv.2.weight",
            "features.17.conv.3.num_batches_tracked",
        } <= names

    @pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
    @pytest.mark.parametrize("counters", [True, False])
    def test_loads(self, deeplab, tmp_path, suffix, counters):
        state = self.torchvision_named(deeplab)
        if not counters:
            state = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
        path = tmp_path / f"weights{suffix}"
        save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
        network = copy.deepcopy(deeplab)
        entry(DEEPLAB)().load_backbone(network, path)
        loaded = network.backbone.state_dict()
        assert all(torch.equal(loaded[key], state[key]) for key in loaded if key in state)
        untouched = network.decoder.state_dict()
        assert all(torch.equal(v, deeplab.decoder.state_dict()[k]) for k, v in untouched.items())

    def test_older_format_of_torch_save(self, deeplab, tmp_path):
        path = tmp_path / "old.pth"
        torch.save(self.torchvision_named(deeplab), path, _use_new_zipfile_serialization=False)
        entry(DEEPLAB)().load_backbone(copy.deepcopy(deeplab), path)

    def test_wrong_keys_are_named_and_nothing_is_changed(self, deeplab, tmp_path):
        state = self.torchvision_named(deeplab)
        del state["features.3.conv.1.0.weight"]
        state["layer1.0.conv1.weight"] = torch.zeros(3)
        state["features.0.0.weight"] = torch.zeros(32, 1, 3, 3)
        save_file(state, tmp_path / "other.safetensors")
        network = copy.deepcopy(deeplab)
        with pytest.raises(BadInput) as caught:
            entry(DEEPLAB)().load_backbone(network, tmp_path / "other.safetensors")
        for part in (
            "other.safetensors",
            "1 missing: features.3.conv.1.0.weight",
            "1 unexpected: layer1.0.conv1.weight",
            "1 mis-shaped: features.0.0.weight (32, 1, 3, 3), not (32, 3, 3, 3)",
        ):
            assert part in str(caught.value)
        assert all(
            torch.equal(value, deeplab.state_dict()[key])
            for key, value in network.state_dict().items()
        )


class TestSegmenter:
    images = torch.rand(2, 3, 33, 47)

    @pytest.mark.parametrize("name", ENTRIES)
    @pytest.mark.parametrize("precision", ["float32", "bfloat16"])
    def test_logits_are_float32(self, name, precision):
        model = Segmenter(built(name), precision=precision).eval()
        logits, features = model(self.images), model.penultimate(self.images)
        assert logits.dtype == features.dtype == torch.float32
        assert torch.allclose(logits, model.classify(features, (33, 47)), rtol=1e-2, atol=1e-2)

    def test_lower_precision_is_close_and_used(self):
        exact, lower = (
            Segmenter(built("unet_small"), precision=p).eval()(self.images)
            for p in ("float32", "bfloat16")
        )
        assert not torch.equal(exact, lower)
        assert torch.allclose(exact, lower, atol=0.1)

    @pytest.mark.parametrize("precision", ["bfloat16", "float32"])
    def test_autocast_of_the_caller_changes_nothing(self, precision):
        model = Segmenter(built("unet_small"), precision=precision).eval()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            within = model(self.images)
        assert torch.equal(within, model(self.images))

    def test_memory_format_moves_no_number_beyond_rounding(self):
        one, two = (
            Segmenter(built("unet_small"), channels_last=flag).eval()(self.images)
            for flag in (True, False)
        )
        assert torch.allclose(one, two, atol=1e-5)

    def test_copies_are_independent(self):
        model = Segmenter(built("unet_small"))
        other = copy.deepcopy(model)
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.zero_()
        assert model.network.classifier.weight.abs().sum() > 0

    def test_weights_bear_the_network_s_own_names(self):
        network = built("unet_small")
        assert list(Segmenter(network).weights()) == list(network.state_dict())
