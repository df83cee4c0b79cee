import copy

import pytest
import torch
from torch import nn

from sfdabench.core.errors import RunFailed
from sfdabench.primitives.batch_norm import (
    batch_norm_layers,
    batch_statistics,
    mixed_statistics,
    pool_statistics,
    reestimate,
    running_moments,
    select_trainable,
)


def network():
    """Batch norm on the images themselves, then dropout, then a deeper batch norm."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(True), nn.Dropout(0.5)
    )
    for layer in batch_norm_layers(model):
        nn.init.uniform_(layer.weight, 0.5, 2)
        nn.init.normal_(layer.bias)
        layer.running_mean.normal_()
        layer.running_var.uniform_(0.5, 2)
    return model.eval()


def images(count=6):
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 + 1


def without_dropout(model):
    return model[:-1]


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(one, other):
    return all(torch.equal(value, other[name]) for name, value in one.items())


def one_layer(mean=0.0, variance=1.0):
    layer = nn.BatchNorm1d(1, eps=0.0)
    layer.running_mean.fill_(mean)
    layer.running_var.fill_(variance)
    return layer.eval()


def test_affine_is_scale_and_shift_of_batch_norm():
    model = network()
    chosen = select_trainable(model, "affine")
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {"0.weight", "0.bias", "2.weight", "2.bias"}
    assert [id(p) for p in chosen] == [id(p) for p in model.parameters() if p.requires_grad]


def test_all_unfreezes_what_was_frozen():
    model = network().requires_grad_(False)
    assert len(select_trainable(model, "all")) == 6
    assert all(p.requires_grad for p in model.parameters())


def test_affine_without_batch_norm_is_named():
    with pytest.raises(RunFailed, match="trainable=affine: the network has no batch norm"):
        select_trainable(nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4)), "affine")


def test_batch_statistics_are_train_mode_without_its_traces():
    model = network()
    before, expected = state(model), without_dropout(copy.deepcopy(model)).train()(images())
    with batch_statistics(model):
        found = model(images())
    assert torch.equal(found, expected)
    assert same(before, model.state_dict())
    assert not any(module.training for module in model.modules())
    assert len(batch_norm_layers(model)) == 2


def test_mixture_by_hand():
    """Batch of 1 and 3: mean 2, variance 1. Source: mean 10, variance 5. A quarter of these."""
    layer, source = one_layer(), one_layer(10.0, 5.0)
    with torch.no_grad():
        layer.weight.fill_(3.0)
        layer.bias.fill_(0.5)
    with mixed_statistics([layer], [source], 0.25) as used:
        found = layer(torch.tensor([[1.0], [3.0]]))
    assert (used[0].mean.item(), used[0].variance.item()) == (4.0, 2.0)
    expected = torch.tensor([[-3.0], [-1.0]]) * 3 / 2**0.5 + 0.5
    assert torch.allclose(found, expected)


def test_ends_of_the_mixture():
    """All of the source is eval mode; nothing of it is train mode, gradients included."""
    model = network()
    layers, source = batch_norm_layers(model), batch_norm_layers(copy.deepcopy(model))
    for layer in layers:
        layer.reset_running_stats()  # those of `source` serve
    expected = copy.deepcopy(model)
    for mine, theirs in zip(batch_norm_layers(expected), source, strict=True):
        mine.load_state_dict(theirs.state_dict())
    with mixed_statistics(layers, source, 1.0) as used:
        assert torch.allclose(model(images()), expected(images()), atol=1e-5)
    assert torch.equal(used[1].mean, source[1].running_mean)

    theirs = without_dropout(copy.deepcopy(model)).train()
    theirs(images()).square().sum().backward()
    with mixed_statistics(layers, source, 0.0):
        model(images()).square().sum().backward()
    for mine, other in zip(model.parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(mine.grad, other.grad, rtol=1e-3, atol=1e-3)


def test_gradient_goes_through_the_batch_part():
    layer, source = nn.BatchNorm1d(2).double().eval(), nn.BatchNorm1d(2).double()
    features = torch.randn(5, 2, dtype=torch.float64, requires_grad=True)
    with mixed_statistics([layer], [source], 0.3) as used:
        assert torch.autograd.gradcheck(layer, features)
    assert not used[0].mean.requires_grad


def test_mixing_ends_with_its_block():
    model = network()
    layers, before = batch_norm_layers(model), network()(images())
    state_before = state(model)
    with pytest.raises(RuntimeError, match="size of tensor"), mixed_statistics(layers, layers, 0.5):
        model(images()[:, :2])
    with mixed_statistics(layers, layers, 0.5):
        model(images())
    assert torch.equal(model(images()), before)
    assert same(state_before, model.state_dict())


def test_layers_not_reached_report_the_source():
    model = network()
    layers = batch_norm_layers(model)
    with mixed_statistics(layers, layers, 0.0) as used:
        model[0](images())
    assert torch.equal(used[1].variance, layers[1].running_var)
    assert not torch.equal(used[0].variance, layers[0].running_var)


def test_one_value_a_channel_uses_the_source():
    layer = one_layer(10.0, 4.0)
    with mixed_statistics([layer], [layer], 0.0):
        assert layer(torch.tensor([[14.0]])).item() == 2.0


def test_half_precision_comes_back_as_it_went_in():
    layer = one_layer(1.0, 4.0)
    with mixed_statistics([layer], [layer], 1.0) as used:
        assert layer(torch.tensor([[5.0], [1.0]], dtype=torch.bfloat16)).dtype == torch.bfloat16
    assert used[0].mean.dtype == torch.float32


def test_pooled_statistics_are_those_of_all_values():
    """Batches of 5 and 1, far from zero; the oracle sees all images at once."""
    model, shown = network(), images() + 1000
    parameters = [p.clone() for p in model.parameters()]
    pool_statistics(model, shown.split(5))
    first = running_moments(batch_norm_layers(model)[0])
    variance, mean = torch.var_mean(shown.double(), (0, 2, 3), correction=0)
    assert torch.allclose(first.mean.double(), mean)
    assert torch.allclose(first.variance.double(), variance, rtol=1e-3)
    assert all(torch.equal(a, b) for a, b in zip(parameters, model.parameters(), strict=True))
    assert not any(module.training for module in model.modules())


def test_pooling_one_batch_reproduces_train_mode_in_eval_mode():
    model = network()
    expected = without_dropout(copy.deepcopy(model)).train()(images())
    pool_statistics(model, [images()])
    assert torch.allclose(model(images()), expected, atol=1e-5)


def test_pooled_variance_holds_the_distance_between_batches():
    """Batches 0, 2 and 10, 12: within each the variance is 1 (unbiased 2), together 26."""
    model, other = nn.Sequential(nn.BatchNorm1d(1)), nn.Sequential(nn.BatchNorm1d(1))
    batches = [torch.tensor([[0.0], [2.0]]), torch.tensor([[10.0], [12.0]])]
    pool_statistics(model, batches)
    reestimate(other, batches)
    assert (model[0].running_mean.item(), model[0].running_var.item()) == (6.0, 26.0)
    assert (other[0].running_mean.item(), other[0].running_var.item()) == (6.0, 2.0)


def test_pooling_one_value_keeps_the_statistics():
    model = nn.Sequential(one_layer(2.0, 7.0))
    pool_statistics(model, [torch.tensor([[3.0]])])
    assert (model[0].running_mean.item(), model[0].running_var.item()) == (2.0, 7.0)
