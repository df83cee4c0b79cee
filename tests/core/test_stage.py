"""A stage's key: what moves it, what does not, and the way through JSON."""

import dataclasses
import json

import pytest

from sfdabench.core.errors import BadInput
from sfdabench.core.head import SIGMOID, SOFTMAX
from sfdabench.core.stage import Problem, Stage

PROBLEM = Problem({"cup": (2,), "disc": (1, 2)}, SIGMOID, 3, "light", "cross_entropy")
SOURCE = Stage(
    kind="stages",
    name="source_training",
    fields={"epochs": 3},
    code={"maker": "r1"},
    network="unet_small",
    network_fields={"width": 4, "depth": 2},
    problem=PROBLEM,
    sees={"source": [{"content": "a", "how": {"size": 32}}]},
)
ADAPTED = dataclasses.replace(
    SOURCE, kind="methods", name="adabn", fields={"batch_size": 8}, start=SOURCE, device="cpu"
)
CHANGES = [
    {"name": "adabn"},
    {"fields": {"epochs": 4}},
    {"code": {"maker": "r2"}},
    {"network": "unet_dual"},
    {"network_fields": {"width": 8, "depth": 2}},
    {"problem": dataclasses.replace(PROBLEM, head=SOFTMAX)},
    {"sees": {"source": [{"content": "b", "how": {"size": 32}}]}},
    {"seed": 1},
    {"device": "cuda"},
    {"precision": "bfloat16"},
    {"beside": (SOURCE,)},
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: next(iter(change)))
def test_every_part_moves_the_key_and_that_of_what_starts_from_it(change):
    other = dataclasses.replace(SOURCE, **change)
    assert other.key != SOURCE.key
    assert dataclasses.replace(ADAPTED, start=other).key != ADAPTED.key


def test_every_field_is_tried_above():
    tried = {name for change in CHANGES for name in change}
    assert tried | {"kind", "start"} == {f.name for f in dataclasses.fields(Stage)}


def test_order_of_names_does_not_count():
    turned = dataclasses.replace(SOURCE, network_fields={"depth": 2, "width": 4})
    assert turned.key == SOURCE.key


def test_through_json_and_back():
    whole = dataclasses.replace(ADAPTED, beside=(dataclasses.replace(SOURCE, seed=7),))
    again = Stage.read(json.loads(json.dumps(whole.plain())))
    assert again.key == whole.key
    assert again.start.key == SOURCE.key
    assert again.problem == PROBLEM


def test_order_has_each_stage_once_after_what_it_is_made_from():
    side = dataclasses.replace(SOURCE, name="side", start=SOURCE)
    last = dataclasses.replace(ADAPTED, beside=(side,))
    assert [stage.key for stage in last.order] == [SOURCE.key, side.key, last.key]


def test_a_maker_is_its_entry_with_these_fields():
    assert ADAPTED.maker().batch_size == 8
    with pytest.raises(BadInput, match="batch_size=0"):
        dataclasses.replace(ADAPTED, fields={"batch_size": 0}).maker()


def test_an_imported_model_cannot_be_made():
    with pytest.raises(BadInput, match="import it again"):
        dataclasses.replace(SOURCE, kind="imported", name="mine").maker()


def test_outputs_count_the_background_of_a_softmax():
    assert PROBLEM.outputs == 2
    assert dataclasses.replace(PROBLEM, head=SOFTMAX).outputs == 3
