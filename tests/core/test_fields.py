from dataclasses import dataclass
from typing import Literal

import pytest

from sfdabench.core.errors import BadInput
from sfdabench.core.fields import Fraction, PositiveInt, override, pairs, plain


@dataclass(frozen=True)
class Knobs:
    epochs: PositiveInt = 20
    ema: Fraction = 0.98
    kind: Literal["loss", "none"] = "loss"
    flag: bool = False
    limit: float | None = 1.0


def test_text_becomes_the_type_of_the_field():
    given = {"epochs": "3", "ema": "0.5", "kind": "none", "flag": "true", "limit": "none"}
    assert override(Knobs(), given, owner="knobs") == Knobs(3, 0.5, "none", True, None)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("epochs", "0", r"--set epochs=0: .*greater than 0.*field 'epochs' of knobs"),
        ("epochs", "2.5", "epochs"),
        ("epochs", "true", "--set epochs=true: .*field 'epochs' of knobs"),
        ("epochs", True, "true and false are no numbers"),
        ("ema", "false", "--set ema=false: .*field 'ema' of knobs"),
        ("limit", False, "true and false are no numbers"),
        ("epochs", "many", "epochs"),
        ("limit", "inf", r"--set limit=inf: .*finite number.*field 'limit' of knobs"),
        ("limit", "1e999", "finite number"),
        ("limit", "nan", "finite number"),
        ("ema", "1.5", r"less than or equal to 1"),
        ("kind", "losss", r"'loss' or 'none'"),
        ("emma", "1", r"unknown field of knobs 'emma': did you mean ema"),
    ],
)
def test_a_wrong_value_names_the_field(field, value, message):
    with pytest.raises(BadInput, match=message):
        override(Knobs(), {field: value}, owner="knobs")


def test_the_default_is_left_as_it_was():
    before = Knobs()
    override(before, {"epochs": "3"}, owner="knobs")
    assert before.epochs == 20


@pytest.mark.parametrize("text", ["ema", "=3", ""])
def test_a_pair_needs_a_name_and_an_equals_sign(text):
    with pytest.raises(BadInput, match="expected field=value"):
        pairs([text], "--set")


def test_a_field_given_twice_is_an_error():
    with pytest.raises(BadInput, match="given twice"):
        pairs(["a=1", "a=2"], "--set")


def test_plain_values_are_json():
    value = plain({"knobs": Knobs(), "set": frozenset({"b", "a"}), "tuple": (1, 2)})
    assert value["set"] == ["a", "b"]
    assert value["tuple"] == [1, 2]
    assert value["knobs"]["ema"] == 0.98
