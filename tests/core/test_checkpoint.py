import random

import numpy as np
import pytest
import torch
from torch import nn

from sfdabench.core.checkpoint import bring_back, capture, read, write
from sfdabench.core.errors import BadInput
from sfdabench.core.seeding import generator, random_states, restore_random_states


def test_nested_state_comes_back_as_it_was(tmp_path):
    shared = torch.arange(3)
    state = {"a": [shared, {"b": shared}], 7: {"x": None, "y": True, "z": 0.1}, "empty": []}
    write(tmp_path / "c", state)
    back = read(tmp_path / "c")
    assert torch.equal(back["a"][0], shared)
    assert torch.equal(back["a"][1]["b"], shared)
    assert back[7] == {"x": None, "y": True, "z": 0.1}
    assert back["empty"] == []


def test_adam_goes_on_bit_for_bit(tmp_path):
    def step(module, optimiser):
        optimiser.zero_grad()
        module(torch.ones(1, 4)).sum().backward()
        optimiser.step()

    def make():
        torch.manual_seed(0)
        module = nn.Linear(4, 2)
        return module, torch.optim.Adam(module.parameters(), 0.1)

    module, optimiser = make()
    step(module, optimiser)
    write(tmp_path / "c", capture({"module": module, "optimiser": optimiser}))
    step(module, optimiser)
    other, other_optimiser = make()
    bring_back({"module": other, "optimiser": other_optimiser}, read(tmp_path / "c"))
    step(other, other_optimiser)
    assert torch.equal(module.weight, other.weight)


def test_what_cannot_be_kept_is_an_error(tmp_path):
    with pytest.raises(TypeError, match="object"):
        write(tmp_path / "c", {"a": object()})


def test_a_cut_file_is_named(tmp_path):
    write(tmp_path / "c", {"a": torch.ones(100)})
    (tmp_path / "c").write_bytes((tmp_path / "c").read_bytes()[:50])
    with pytest.raises(BadInput, match="not a whole checkpoint"):
        read(tmp_path / "c")


@pytest.mark.parametrize("place", ["tensor", "tree"])
def test_a_damaged_file_is_named(tmp_path, place):
    """One bit of a tensor, or a digit of the epoch, would go on to another model silently."""
    write(tmp_path / "c", {"epoch": 3, "a": torch.zeros(100), "b": torch.tensor(1.0)})
    content = bytearray((tmp_path / "c").read_bytes())
    if place == "tensor":
        content[-8] ^= 1
    else:
        content[content.index(b"value") + 9] ^= 1  # the 3
    (tmp_path / "c").write_bytes(content)
    with pytest.raises(BadInput, match="does not have the hash"):
        read(tmp_path / "c")


def test_a_loop_with_other_state_is_an_error():
    with pytest.raises(BadInput, match=r"--force"):
        bring_back({"a": torch.ones(1)}, {"b": torch.ones(1)})


def test_random_states_come_back(tmp_path):
    write(tmp_path / "c", random_states())
    drawn = random.random(), np.random.rand(), torch.rand(1)  # noqa: NPY002
    restore_random_states(read(tmp_path / "c"))
    assert (random.random(), np.random.rand(), torch.rand(1)) == drawn  # noqa: NPY002


def test_keyed_generators_are_independent_of_order():
    first = generator(0, "strong", 1, 5).random(3)
    generator(0, "strong", 1, 4).random(100)
    assert (generator(0, "strong", 1, 5).random(3) == first).all()
    assert (generator(0, "strong", 1, 6).random(3) != first).all()
