import pytest
import torch
from torch import nn

from sfdabench.core import registry
from sfdabench.core.errors import RunFailed
from sfdabench.models.segmenter import Segmenter
from sfdabench.primitives.batch_norm import batch_norm_layers
from sfdabench.primitives.fine_tuning import both_heads, encoder_and_heads, momentum_sgd

SMALL = {
    "deeplabv2_resnet101": {"layers": (1, 1, 1, 1), "width": 4},
    "unet_bn": {"width": 4, "depth": 2},
    "unet_gn": {"width": 4},
}


def built(name):
    torch.manual_seed(0)
    entry = registry.load("networks", name)(**SMALL.get(name, {}))
    return entry, Segmenter(entry.build(channels=3, outputs=5))


def ids(parameters):
    return {id(p) for p in parameters}


@pytest.mark.parametrize("name", registry.names("networks"))
def test_every_network_falls_into_encoder_heads_and_batch_norm(name):
    entry, model = built(name)
    encoder, heads = encoder_and_heads(model)
    norms = [p for layer in batch_norm_layers(model) for p in layer.parameters()]
    parts = [ids(encoder), ids(heads), ids(norms)]
    assert set.union(*parts) == ids(model.parameters())
    assert sum(map(len, parts)) == len(list(model.parameters()))
    named = dict(model.network.named_parameters())
    of_heads = {n for n, p in named.items() if id(p) in parts[1]}
    wanted = {"classifier", "auxiliary"} if "auxiliary" in entry.features else {"classifier"}
    assert {n.partition(".")[0] for n in of_heads} == wanted
    assert {p.shape[0] for n, p in named.items() if n in of_heads} == {5}
    assert all(p.requires_grad for p in model.parameters())


def test_batch_norm_may_be_trained_with_the_encoder():
    _, model = built("unet_dual")
    encoder, heads = encoder_and_heads(model, batch_norm=True)
    assert ids(encoder) | ids(heads) == ids(model.parameters())
    assert ids(encoder).isdisjoint(ids(heads))


def test_a_network_whose_head_has_another_name_is_refused():
    with pytest.raises(RunFailed, match="must be called classifier"):
        encoder_and_heads(nn.Sequential(nn.Conv2d(3, 2, 1)))


def test_heads_are_faster_and_what_has_no_gradient_stays():
    encoder, heads = ([nn.Parameter(torch.tensor([2.0]))] for _ in range(2))
    optimiser = momentum_sgd(encoder, heads, 0.1, 10.0)
    heads[0].grad = torch.tensor([0.5])
    optimiser.step()
    assert encoder[0].item() == 2.0
    assert heads[0].item() == pytest.approx(2 - 1.0 * (0.5 + 5e-4 * 2))
    optimiser.zero_grad()
    encoder[0].grad = torch.tensor([0.5])
    before = heads[0].item()
    optimiser.step()
    assert encoder[0].item() == pytest.approx(2 - 0.1 * (0.5 + 5e-4 * 2))
    assert heads[0].item() == before


def test_both_heads_are_the_network_s():
    _, model = built("unet_dual")
    images = torch.rand(1, 3, 9, 9)
    for ours, theirs in zip(
        both_heads(model.eval(), images), model.network.heads(images), strict=True
    ):
        assert torch.equal(ours, theirs)
