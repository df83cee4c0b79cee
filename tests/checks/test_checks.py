"""What the contracts say of a faulty entry, and which values of a field they try."""

from dataclasses import dataclass
from typing import Annotated, Literal

import pytest
from annotated_types import MinLen

from sfdabench.checks import Outcome, gather, run_contract
from sfdabench.checks.protocols import check_names_metrics_that_exist
from sfdabench.checks.values import contrasts, field_hints
from sfdabench.core.fields import Fraction, Positive, PositiveInt
from sfdabench.core.protocol import Protocol

PROTOCOL = """
from sfdabench.core.protocol import Protocol

BAD = Protocol(
    title="bad", paper=None, unit="case", geometry="original", spacing="mm", threshold=0.5,
    smoothing=0.0, metrics=("dice", "dice"), empty="drop", std="sample",
    postprocess=("polish",), exceptions={"nowhere": {"unit": "slice"}, "drishti": {"metrics": 3}},
)
"""


def test_all_faults_of_a_contract_are_gathered():
    protocol = Protocol(
        title="",
        paper=None,
        unit="case",
        geometry="original",
        spacing="mm",
        threshold=0.5,
        smoothing=0.0,
        metrics=("dice", "dice", "dise"),
        empty="drop",
        std="sample",
    )
    outcome = run_contract(check_names_metrics_that_exist, "metrics", protocol)
    assert not outcome.passed
    assert outcome.faults == ("unknown metrics: ['dise']", "named more than once: ['dice']")


def test_an_exception_is_the_last_fault():
    def contract(entry):
        yield "one"
        raise ValueError(f"two of {entry}\nand more")

    assert run_contract(contract, "x", "it").faults == ("one", "ValueError: two of it")
    assert [*gather(contract("it"), "here")] == ["here: one", "here: ValueError: two of it"]


def test_several_faults_are_shown_on_a_line_each():
    assert Outcome("x").detail == ""
    assert Outcome("x", ("one",)).detail == "one"
    assert Outcome("x", ("one", "two")).detail == "\n     one\n     two"


def test_the_command_shows_every_fault(sfdabench, tmp_path, monkeypatch):
    from sfdabench.core import registry

    monkeypatch.setattr(registry, "_plugins", [*registry._plugins])
    (tmp_path / "protocols").mkdir()
    (tmp_path / "protocols" / "bad.py").write_text(PROTOCOL, encoding="utf-8")
    code, out, _ = sfdabench("check", "bad", "--plugins", tmp_path)
    assert code == 1
    for fault in ("nowhere: no such data set", "drishti: TypeError", "['polish']"):
        assert fault in out
    assert "named more than once: ['dice']" in out


@dataclass(frozen=True)
class Fields:
    """A field of every type that entries have."""

    switch: bool = True
    mode: Literal["a", "b", "c"] = "a"
    count: PositiveInt = 1
    share: Fraction = 1.0
    rate: Positive | None = None
    name: str = "cup"
    scales: Annotated[tuple[Positive, ...], MinLen(1)] = (1.0,)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("switch", [[(False, True)]]),
        ("mode", [[("a", "b")], [("a", "c")], [("b", "c")]]),
        ("count", [[(1, 2)]]),  # neither 0 nor a fraction
        ("share", [[(1.0, 0.5), (1.0, 0.0)]]),  # nothing above 1
        ("rate", [[(None, 2.0), (None, 0.5), (None, 1.0)]]),
        ("name", [[("cup", "disc")]]),
    ],
)
def test_other_values_lie_in_the_range_of_the_field(name, expected):
    hints = field_hints(Fields())
    groups = contrasts(Fields(), name, hints[name], ("cup", "disc"))
    assert [sorted(group, key=str) for group in groups] == [sorted(g, key=str) for g in expected]


def test_tuples_change_an_item_or_their_length():
    (group,) = contrasts(Fields(), "scales", field_hints(Fields())["scales"], ())
    others = [other for _, other in group]
    assert (2.0,) in others
    assert (1.0, 2.0) in others
    assert () not in others  # at least one


def test_a_type_without_known_values_has_none():
    @dataclass(frozen=True)
    class Odd:
        """A field that nothing can be tried for."""

        table: dict = None

    assert contrasts(Odd(), "table", dict, ()) == []
