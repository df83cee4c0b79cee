import collections
import pickle

import pytest
import torch
from torch import nn

from sfdabench.core.errors import BadInput
from sfdabench.models import weights


def network(width=4):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width))


def test_round_trip_with_metadata():
    state = network().state_dict()
    data = weights.to_bytes(state, {"seed": "3", "network": "x"})
    again, metadata = weights.from_bytes(data, "x.safetensors")
    assert metadata == {"seed": "3", "network": "x"}
    assert weights.sha256(again) == weights.sha256(state)
    assert weights.from_bytes(weights.to_bytes(state), "x")[1] == {}


def test_bytes_of_channels_last_shared_and_half_tensors():
    shared = torch.rand(2, 3, 4, 4).to(memory_format=torch.channels_last)
    state = {"a": shared, "b": shared, "c": shared.bfloat16(), "d": torch.tensor(3)}
    again, _ = weights.from_bytes(weights.to_bytes(state), "x")
    assert all(torch.equal(again[name], state[name]) for name in state)


def test_hash_is_of_the_content():
    state = network().state_dict()
    before = weights.sha256(state)
    assert before == weights.sha256(dict(reversed(state.items())))
    last = network().to(memory_format=torch.channels_last).state_dict()
    assert before == weights.sha256(last)


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s.update({"0.bias": s["0.bias"] + 1e-7}),
        lambda s: s.update({"0.bias": s["0.bias"].double()}),
        lambda s: s.update({"0.bias": s["0.bias"].reshape(2, 2)}),
        lambda s: s.update({"0.other": s.pop("0.bias")}),
    ],
)
def test_hash_sees_value_dtype_shape_and_name(change):
    state = dict(network().state_dict())
    before = weights.sha256(state)
    change(state)
    assert weights.sha256(state) != before


@pytest.mark.parametrize("cut", [0, 4, 40, -1])
def test_broken_file_is_named(tmp_path, cut):
    path = tmp_path / "model.safetensors"
    path.write_bytes(weights.to_bytes(network().state_dict())[:cut])
    with pytest.raises(BadInput, match=r"model\.safetensors: not a whole safetensors file"):
        weights.read(path)


@pytest.mark.parametrize("name", ["a.safetensors", "a.pth", "a.pt", "a.txt"])
def test_text_is_no_weights(tmp_path, name):
    (tmp_path / name).write_text("hello, I am text\n" * 20)
    with pytest.raises(BadInput, match=name):
        weights.read(tmp_path / name)


def test_missing_file(tmp_path):
    with pytest.raises(BadInput, match=r"gone\.pth: no such file"):
        weights.read(tmp_path / "gone.pth")


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("part", [0.05, 0.5, 0.95])
def test_truncated_torch_file(tmp_path, zipped, part):
    path = tmp_path / "model.pth"
    torch.save(network().state_dict(), path, _use_new_zipfile_serialization=zipped)
    path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])
    with pytest.raises(BadInput, match=r"model\.pth"):
        weights.read(path)


class Malicious:
    def __reduce__(self):
        return (eval, ("__import__('os').environ.__setitem__('SFDABENCH_PWNED', '1')",))


def test_no_pickle_is_run(tmp_path, monkeypatch):
    monkeypatch.delenv("SFDABENCH_PWNED", raising=False)
    torch.save(Malicious(), tmp_path / "new.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Malicious(), protocol=2))
    for name in ("new.pth", "plain.pth"):
        with pytest.raises(BadInput, match=name):
            weights.read(tmp_path / name)
    import os

    assert "SFDABENCH_PWNED" not in os.environ


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, torch.zeros(2)])
def test_torch_file_of_something_else(tmp_path, content):
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(BadInput, match="holds no state dict"):
        weights.read(tmp_path / "other.pth")


def test_ordered_dict_is_read(tmp_path):
    torch.save(collections.OrderedDict(network().state_dict()), tmp_path / "a.pth")
    assert set(weights.read(tmp_path / "a.pth")) == set(network().state_dict())


def test_fill():
    target = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    weights.fill(target, network().state_dict(), "x")
    assert weights.sha256(target.state_dict()) == weights.sha256(network().state_dict())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(value):
    module, state = nn.Linear(2, 2), nn.Linear(2, 2).state_dict()
    state["bias"] = torch.tensor([0.0, value])
    before = module.bias.clone()
    with pytest.raises(BadInput, match=r"f.pth: weights that are NaN or infinite: bias"):
        weights.fill(module, state, "f.pth")
    assert torch.equal(module.bias, before)


def test_fill_counts_what_it_does_not_name():
    target = nn.Sequential(*(nn.Linear(2, 2) for _ in range(6)))
    with pytest.raises(BadInput, match=r"f\.pth: weights of another .* 12 missing: .* and 4 more"):
        weights.fill(target, {}, "f.pth")


def test_fill_of_another_width_leaves_the_module_alone():
    target = network()
    with pytest.raises(BadInput, match=r"mis-shaped: 0\.weight \(8, 3, 3, 3\), not \(4, 3, 3, 3\)"):
        weights.fill(target, network(8).state_dict(), "x")
    assert weights.sha256(target.state_dict()) == weights.sha256(network().state_dict())
