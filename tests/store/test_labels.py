"""Names of runs: one spelling, and back."""

import pytest

from sfdabench.store import labels


def test_a_label_has_every_changed_field_in_one_order():
    assert labels.label("cbmt", {}) == labels.label("cbmt", {"cbmt": {}}) == "cbmt"
    assert labels.label("cbmt", {"cbmt": {"ema": 0.9, "alpha": 0.5}}) == "cbmt alpha=0.5 ema=0.9"


def test_a_chain_names_the_method_of_each_field_in_its_own_order():
    overrides = {"cbmt": {"ema": 0.9}, "adabn": {"batch_size": 2}}
    assert labels.label("adabn+cbmt", overrides) == "adabn+cbmt adabn.batch_size=2 cbmt.ema=0.9"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *(("none", "none"), (0.5, "0.5"), (2.5e-5, "2.5e-05"), (False, "false"), (None, "null")),
        ([1.0, 1.25], "[1.0, 1.25]"),
    ],
)
def test_values_are_spelt_as_flags_take_them(value, text):
    assert labels.text(value) == text
    assert labels.settings({"mrnet": {"field": value}}) == (f"mrnet.field={text}",)
    name = labels.label("mrnet", {"mrnet": {"field": value, "other": 1}})
    assert labels.split(name) == ("mrnet", (f"field={text}", "other=1"))
