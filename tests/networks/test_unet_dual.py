import pytest
import torch
from torch import nn

from sfdabench.core.errors import BadInput
from sfdabench.models.segmenter import Segmenter
from sfdabench.networks.unet_dual import UNetDual
from sfdabench.networks.unet_small import UNetSmall


def built(entry, outputs=5):
    torch.manual_seed(0)
    return entry.build(channels=3, outputs=outputs).eval()


@pytest.mark.parametrize("size", [(32, 32), (29, 23), (3, 1)])
@pytest.mark.parametrize("depth", [1, 3])
def test_both_heads_have_the_size_of_the_image(size, depth):
    model = Segmenter(built(UNetDual(width=4, depth=depth)))
    images = torch.rand(2, 3, *size)
    main, auxiliary = model.heads(images)
    assert main.shape == auxiliary.shape == (2, 5, *size)
    assert torch.equal(main, model(images))


def test_it_is_unet_small_and_a_classifier():
    dual, small = built(UNetDual()), built(UNetSmall())
    own = dual.state_dict()
    shared = small.state_dict()
    assert set(own) - set(shared) == {"auxiliary.weight", "auxiliary.bias"}
    assert own["auxiliary.weight"].shape == (5, 16, 1, 1)
    small.load_state_dict({name: own[name] for name in shared})
    images = torch.rand(2, 3, 29, 23)
    assert torch.equal(dual(images), small(images))


def test_the_auxiliary_head_sees_the_level_below_the_last():
    """Its logits do not depend on the last block, and are enlarged with aligned corners."""
    network = built(UNetDual())
    images = torch.rand(1, 3, 31, 31)
    below, last = network.last_levels(images)
    assert below.shape == (1, 16, 16, 16)
    assert last.shape == (1, 8, 31, 31)
    main, auxiliary = network.heads(images)
    assert torch.allclose(auxiliary[..., ::2, ::2], network.auxiliary(below), atol=1e-5)
    for parameter in network.up[-1].parameters():
        nn.init.zeros_(parameter)
    after = network.heads(images)
    assert torch.equal(after[1], auxiliary)
    assert not torch.equal(after[0], main)


def test_no_backbone(tmp_path):
    with pytest.raises(BadInput, match="unet_dual has no pretrained backbone"):
        UNetDual().load_backbone(nn.Identity(), tmp_path / "w.pth")
