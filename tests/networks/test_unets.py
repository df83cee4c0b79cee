from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sfdabench.core import registry
from sfdabench.core.errors import BadInput
from sfdabench.core.fields import override
from sfdabench.models.segmenter import Segmenter
from sfdabench.models.unet_pooled import PooledUNet, _Double

SMALL = {"unet_bn": {"width": 4, "depth": 3}, "unet_gn": {"width": 4}}


def entry(name, **fields):
    return registry.load("networks", name)(**fields)


def built(name, outputs=2, channels=3, **fields):
    torch.manual_seed(0)
    return entry(name, **fields).build(channels=channels, outputs=outputs)


def count(module):
    return sum(p.numel() for p in module.parameters())


def shapes(module, kind=nn.Conv2d):
    return [(m.in_channels, m.out_channels) for m in module.modules() if isinstance(m, kind)]


@pytest.mark.parametrize("name", SMALL)
class TestBoth:
    @pytest.mark.parametrize("size", [(64, 48), (57, 71), (5, 3), (1, 1)])
    def test_any_size(self, name, size):
        network = built(name, outputs=5, **SMALL[name]).eval()
        assert network(torch.rand(2, 3, *size)).shape == (2, 5, *size)

    def test_one_image_of_odd_size_trains_every_parameter(self, name):
        network = built(name, channels=1, **SMALL[name]).train()
        network(torch.rand(1, 1, 57, 71)).square().mean().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())

    def test_forward_is_classify_after_penultimate(self, name):
        network = Segmenter(built(name, **SMALL[name])).eval()
        images = torch.rand(2, 3, 33, 47)
        features = network.penultimate(images)
        assert features.shape == (2, 4, 33, 47)
        assert torch.equal(network.classify(features, (33, 47)), network(images))

    def test_logits_are_not_squashed(self, name):
        network = built(name, **SMALL[name]).eval()
        with torch.no_grad():
            network.classifier.bias.fill_(-9.0)
            assert network(torch.rand(1, 3, 16, 16)).max() < -5

    def test_no_backbone(self, name, tmp_path):
        with pytest.raises(BadInput, match=f"{name} has no pretrained backbone"):
            entry(name).load_backbone(nn.Identity(), tmp_path / "w.pth")

    def test_width_is_read_from_text(self, name):
        assert override(entry(name), {"width": "16"}, owner=name).width == 16


@pytest.mark.parametrize("size", [(8, 6), (9, 7), (5, 1), (1, 1)])
def test_what_comes_up_lies_over_its_skip(size):
    """Plain doubling of plain maxima: nowhere below the image that they are the maxima of."""
    up = nn.Upsample(scale_factor=2)
    network = PooledUNet([nn.Identity()] * 3, [up, up], [nn.Identity()] * 2, nn.Identity())
    images = torch.rand(2, 1, *size)
    twice, once, skip = network(images).unbind(dim=1)
    assert torch.equal(skip, images[:, 0])
    assert (twice >= once).all()
    assert (once >= skip).all()
    assert torch.equal(once[..., ::2, ::2], F.max_pool2d(images, 2, ceil_mode=True)[:, 0])


class TestBatchNorm:
    def test_widths_are_64_to_1024(self):
        network = built("unet_bn", channels=4, outputs=4)
        down = [(4, 64), (64, 128), (128, 256), (256, 512), (512, 1024)]
        assert shapes(network.down) == [pair for a, b in down for pair in ((a, b), (b, b))]
        up = [(1024, 512), (512, 256), (256, 128), (128, 64)]
        assert shapes(network.enlarge, nn.ConvTranspose2d) == up
        assert shapes(network.up) == [pair for a, b in up for pair in ((a, b), (b, b))]
        assert shapes(network.classifier) == [(64, 4)]

    def test_parameters(self):
        widths = (64, 128, 256, 512, 1024)
        doubles = [(3, 64), *pairwise(widths), *pairwise(widths[::-1])]
        blocks = sum(9 * (a * b + b * b) + 4 * b for a, b in doubles)
        enlarged = sum(4 * a * b + a for a, b in pairwise(widths))
        assert count(built("unet_bn", outputs=1)) == blocks + enlarged + 65 == 31_037_633

    def test_each_convolution_is_normalised_then_rectified(self):
        for block in (b for part in ("down", "up") for b in getattr(built("unet_bn"), part)):
            assert [type(m) for m in block] == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU] * 2
            assert all(m.bias is None for m in block if isinstance(m, nn.Conv2d))

    def test_depth(self):
        network = built("unet_bn", width=8, depth=2)
        assert shapes(network.down)[-1] == (32, 32)


class TestGroupNorm:
    def test_fifteen_convolutions(self):
        network = built("unet_gn", channels=1, outputs=1)
        down = [(1, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256)]
        bottom = [(256, 256), (256, 256)]
        up = [(512, 256), (256, 256), (384, 128), (128, 128), (192, 64), (64, 64)]
        assert shapes(network) == [*down, *bottom, *up, (64, 1)]
        assert len(shapes(network)) == 15
        kernels = {
            (m.kernel_size, m.padding, m.bias is None)
            for m in network.modules()
            if isinstance(m, nn.Conv2d)
        }
        assert kernels == {((3, 3), (1, 1), False)}

    def test_norm_comes_after_the_activation_and_dropout_last(self):
        network = built("unet_gn")
        order = [nn.Conv2d, nn.ReLU, nn.GroupNorm, nn.Dropout2d] * 2
        blocks = [*network.down, *network.up]
        assert all([type(m) for m in block] == order for block in blocks)
        assert len(blocks) == 7
        assert {m.p for m in network.modules() if isinstance(m, nn.Dropout2d)} == {0.5}
        norms = [m for m in network.modules() if isinstance(m, nn.GroupNorm)]
        assert {m.num_groups for m in norms} == {32}
        assert len(norms) == 14

    def test_order_by_value(self):
        """An independent statement: the output of a block has mean 0 in each group."""
        block = built("unet_gn", width=4).eval().down[0]
        maps = torch.rand(2, 3, 9, 9)
        (one, _, norm, _, two, *_), groups = block, 4
        hidden = F.group_norm(one(maps).relu(), groups, norm.weight, norm.bias)
        expected = F.group_norm(two(hidden).relu(), groups)
        assert torch.allclose(block(maps), expected, atol=1e-6)
        assert block(maps).mean(dim=(2, 3)).abs().max() < 1e-5

    @pytest.mark.parametrize(("width", "groups"), [(4, 4), (16, 16), (32, 32), (96, 32)])
    def test_groups_adapt_to_the_width(self, width, groups):
        norms = [m for m in built("unet_gn", width=width).modules() if type(m) is nn.GroupNorm]
        assert {m.num_groups for m in norms} == {groups}

    def test_width_that_does_not_divide_is_refused(self):
        with pytest.raises(BadInput, match="width 48 does not divide into 32 groups"):
            built("unet_gn", width=48)

    @pytest.mark.parametrize("rate", [0.0, 0.3])
    def test_dropout_is_a_field_and_drops_whole_channels(self, rate):
        network = built("unet_gn", width=16, dropout=rate).train()
        maps = network.down[0](torch.rand(8, 3, 8, 8))
        dropped = maps.eq(0).flatten(2).all(dim=2)
        assert torch.equal(maps.eq(0).flatten(2).any(dim=2), dropped)
        assert float(dropped.float().mean()) == pytest.approx(rate, abs=0.15)

    @pytest.mark.parametrize("size", [(4, 6), (5, 1), (1, 1), (13, 25)])
    @pytest.mark.parametrize("form", [torch.contiguous_format, torch.channels_last])
    def test_doubling_is_the_library_s(self, size, form):
        maps = torch.rand(2, 3, *size, dtype=torch.float64).to(memory_format=form)
        maps.requires_grad_()
        library = F.interpolate(maps, scale_factor=2, mode="bilinear", align_corners=False)
        ours = _Double()(maps)
        assert torch.allclose(ours, library, atol=1e-12)
        (one,), (two,) = (
            torch.autograd.grad(doubled.pow(3).sum(), maps) for doubled in (ours, library)
        )
        assert torch.allclose(one, two, rtol=1e-10)
