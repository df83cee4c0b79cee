"""OSUDA's arithmetic by hand, and what its specification derives (methods-cross-modality.md §5)."""

import copy
import math

import pytest
import torch
from torch import nn

from sfdabench.checks.toy import Toy, attempt, draw
from sfdabench.core.checkpoint import read
from sfdabench.core.head import SIGMOID
from sfdabench.methods.osuda import OSUDA, transferability
from sfdabench.models.weights import sha256
from sfdabench.primitives.batch_norm import Moments, batch_norm_layers, pool_statistics
from sfdabench.primitives.entropy import mean_entropy

QUICK = {"epochs": 2, "batch_size": 4, "learning_rate": 1e-2}


def target():
    images, _ = draw(Toy(), "target", 9, foreground=True)
    return torch.from_numpy(images).float() / 127.5 - 1


def curves(folder):
    return read(folder / "stage-0.safetensors")["curves"]


def layer(mean, variance, weight=(1.0,), bias=(0.0,)):
    made = nn.BatchNorm2d(len(mean), eps=0.0)
    values = {"running_mean": mean, "running_var": variance, "weight": weight, "bias": bias}
    made.load_state_dict({k: torch.tensor(v) for k, v in values.items()}, strict=False)
    return made


def moved(done):
    """Names of parameters that differ from the source model's."""
    before = dict(done.start.named_parameters())
    return {n for n, p in done.deployed.named_parameters() if not torch.equal(p, before[n])}


@pytest.mark.parametrize(
    ("unit", "shares"),
    [
        ("iteration", [1, math.exp(-1), math.exp(-2), math.exp(-3), math.exp(-4)]),
        ("epoch", [1, 1, math.exp(-1), math.exp(-1), math.exp(-2)]),
        ("scaled", [1, math.exp(-0.5), math.exp(-1), math.exp(-1.5), math.exp(-2)]),
    ],
)
def test_hand_over_of_statistics(unit, shares):
    """Ten iterations in five epochs of two."""
    method = OSUDA(epochs=5, decay_unit=unit)
    assert [method.source_share(t, steps=2) for t in range(5)] == pytest.approx(shares)
    half = OSUDA(epochs=5, decay_unit=unit, eta=0.5)
    assert [half.source_share(t, steps=2) for t in range(5)] == pytest.approx(
        [share / 2 for share in shares]
    )


def test_weight_of_entropy_falls_linearly():
    method = OSUDA(epochs=2)
    assert [method.weight_of_entropy(t, 2) for t in range(4)] == [10, 7.5, 5, 2.5]


def test_transferability_by_hand():
    """Distances 0 and 3 in one layer, 1 in another: closeness 1, 1/4, 1/2, their mean 7/12."""
    source = [layer([1.0, 4.0], [1.0, 4.0], (1.0, 1.0), (0.0, 0.0)), layer([0.0], [1.0])]
    now = [
        Moments(torch.tensor([2.0, 10.0]), torch.tensor([4.0, 4.0])),
        Moments(torch.tensor([-3.0]), torch.tensor([9.0])),
    ]
    alpha = transferability(source, now)
    assert alpha.tolist() == pytest.approx([12 / 7, 3 / 7, 6 / 7])
    assert alpha.mean().item() == pytest.approx(1)


def test_a_dead_channel_has_a_finite_weight():
    """Its variance is next to nothing; the layer's own epsilon is under the root."""
    source = [nn.BatchNorm2d(2)]
    source[0].running_var.copy_(torch.tensor([1e-30, 1.0]))
    source[0].running_mean.fill_(0.1)
    alpha = transferability(source, [Moments(torch.zeros(2), torch.ones(2))])
    distances = [0.1 / (1e-5**0.5), 0.1 / (1 + 1e-5) ** 0.5]
    closeness = [1 / (1 + d) for d in distances]
    assert alpha.tolist() == pytest.approx([2 * c / sum(closeness) for c in closeness], rel=1e-4)


def test_consistency_by_hand():
    """Gaps .5 + 1 and 2; alpha 1.6 and .4 from distances 0 and 3."""
    source = [layer([0.0, 0.0], [1.0, 1.0], (1.0, 1.0), (0.0, 0.0))]
    mine = [layer([9.0, 9.0], [9.0, 9.0], (1.5, 1.0), (-1.0, 2.0))]
    now = [Moments(torch.tensor([0.0, 3.0]), torch.ones(2))]

    def loss(**fields):
        return OSUDA(**fields).consistency_loss(mine, source, now)

    assert loss().item() == pytest.approx(2.6 * 1.5 + 1.4 * 2)
    assert loss(consistency="mean").item() == pytest.approx((2.6 * 1.5 + 1.4 * 2) / 2)
    assert loss(channel_weighting=False).item() == pytest.approx(3.5)
    loss().backward()
    assert mine[0].weight.grad.tolist() == pytest.approx([2.6, 0])
    assert mine[0].bias.grad.tolist() == pytest.approx([-2.6, 1.4])


def test_starts_as_the_source_model_with_nothing_to_correct(tmp_path):
    """One batch in one epoch: what is logged is of the first forward pass."""
    done = attempt(OSUDA(epochs=1, batch_size=9), Toy(), tmp_path)
    with torch.no_grad():
        expected = mean_entropy(done.start.eval()(target()), SIGMOID)
    found = curves(tmp_path)
    assert found["entropy"] == pytest.approx([expected.item()], rel=1e-4)
    assert found["consistency"] == [0.0]
    assert found["share"] == [1.0]


@pytest.mark.parametrize("unit", ["iteration", "epoch", "scaled"])
def test_without_entropy_only_statistics_change(tmp_path, unit):
    """OSUDA-SE: not a weight moves, and the statistics are those of the target."""
    method = OSUDA(**QUICK | {"batch_size": 9}, entropy_weight=0.0, decay_unit=unit)
    done = attempt(method, Toy(), tmp_path)
    assert not moved(done)
    assert not done.gradients  # nothing is trained on, so nothing may be logged as if it were
    assert curves(tmp_path)["consistency"] == [0.0, 0.0]
    expected = copy.deepcopy(done.start)
    pool_statistics(expected, [target()])
    for mine, theirs in zip(
        batch_norm_layers(done.deployed), batch_norm_layers(expected), strict=True
    ):
        assert torch.allclose(mine.running_mean, theirs.running_mean, atol=1e-5)
        assert torch.allclose(mine.running_var, theirs.running_var, rtol=1e-4)


def test_deployed_statistics_belong_to_the_last_weights(tmp_path):
    """An ordinary model: in eval mode it does what the whole target as one batch would do."""
    done = attempt(OSUDA(**QUICK | {"batch_size": 9}), Toy(), tmp_path)
    again = copy.deepcopy(done.deployed)
    pool_statistics(again, [target()])
    assert torch.allclose(again.eval()(target()), done.deployed.eval()(target()), atol=1e-4)
    assert type(done.deployed) is type(done.start)
    assert not any("forward" in vars(module) for module in done.deployed.modules())


def test_entropy_falls(tmp_path):
    """Below that of statistics alone; equation 6 as printed, without its minus, would raise it."""
    last = {}
    for weight in (0.0, 10.0):
        folder = tmp_path / str(weight)
        attempt(OSUDA(**QUICK | {"epochs": 4}, entropy_weight=weight), Toy(), folder)
        last[weight] = curves(folder)["entropy"][-1]
    assert last[10.0] < 0.95 * last[0.0], last


def test_affine_leaves_convolutions_alone(tmp_path):
    done = attempt(OSUDA(**QUICK, trainable="affine"), Toy(), tmp_path)
    own = {
        f"{name}.{part}"
        for name, module in done.deployed.named_modules()
        if isinstance(module, nn.BatchNorm2d)
        for part in ("weight", "bias")
    }
    assert moved(done) == own


def test_every_variant_is_another_method(tmp_path):
    variants = [
        {},
        {"channel_weighting": False},
        {"entropy_weight": 0.0},
        {"decay_unit": "epoch"},
        {"decay_unit": "scaled"},
        {"eta": 0.0},
        {"consistency": "mean"},
        {"balanced": True},
        {"trainable": "affine"},
    ]
    hashes = {
        sha256(attempt(OSUDA(**QUICK | fields), Toy(), tmp_path / str(i)).deployed.weights())
        for i, fields in enumerate(variants)
    }
    assert len(hashes) == len(variants)


def test_channel_weights_matter_with_the_mean_and_not_with_the_sum(tmp_path):
    """The summed loss pins scale and shift either way, and Adam divides its size out."""

    slow = {"epochs": 10, "batch_size": 4, "learning_rate": 1e-3, "entropy_weight": 1.0}

    def apart(name, **fields):
        with_weights, without = (
            attempt(
                OSUDA(**slow, channel_weighting=on, **fields),
                Toy(),
                tmp_path / f"{name}-{on}",
            ).deployed.weights()
            for on in (True, False)
        )
        gaps = [(with_weights[n].float() - without[n].float()).abs().mean() for n in without]
        return max(gaps).item()

    assert apart("sum", consistency="sum") < apart("mean", consistency="mean") / 5


def test_the_optimiser_is_a_choice(tmp_path):
    adam, sgd = (
        sha256(attempt(OSUDA(epochs=1, optimiser=kind), Toy(), tmp_path / kind).deployed.weights())
        for kind in ("adam", "sgd")
    )
    assert adam != sgd
