"""Tables for a terminal: drawn without rich as rich would draw them."""

import pytest

from sfdabench.report import terminal

LEFT, RIGHT = ("class", "metric"), ("adapted", "change")


@pytest.mark.parametrize(
    "rows",
    [
        [("cup", "dice %", "81.67", "+30.52"), ("disc", "assd_mean px", "9.03", "-")],
        [("a class whose name is longer than its heading", "iou %", "1.00", "-0.50")],
        [],
    ],
)
def test_a_table_is_drawn_as_rich_draws_it(rows, monkeypatch):
    monkeypatch.setattr(terminal, "text", rich := Rich(terminal.text))
    drawn = terminal.grid("protocol strict", LEFT, RIGHT, rows)
    assert rich.calls == 0
    assert drawn == terminal._by_rich("protocol strict", LEFT, RIGHT, rows)


class Rich:
    """Counts the tables that rich draws."""

    def __init__(self, draw):
        self.draw, self.calls = draw, 0

    def __call__(self, *arguments, **settings):
        self.calls += 1
        return self.draw(*arguments, **settings)


@pytest.mark.parametrize(
    ("title", "name"), [("protocol", "x" * 90), ("protocol", "視神経乳頭"), ("a title " * 9, "cup")]
)
def test_what_is_too_wide_or_of_wide_letters_is_left_to_rich(title, name, monkeypatch):
    monkeypatch.setattr(terminal, "text", rich := Rich(terminal.text))
    drawn = terminal.grid(title, LEFT, RIGHT, [(name, "dice %", "1.00", "-")])
    assert rich.calls == 1
    assert max(map(len, drawn.splitlines())) <= terminal.WIDTH
    assert all(drawn.count(letter) >= name.count(letter) for letter in name)
