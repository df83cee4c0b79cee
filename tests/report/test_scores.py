"""Scores as a terminal shows them."""

from pathlib import Path

from sfdabench.report import scores


def test_scores_are_printed_in_the_unit_of_their_protocol():
    """SIFA counts in pixels, whatever the data set knows."""
    one = {"hd95": {"mean": 2.0, "undefined": 0}, "dice": {"mean": 0.5, "undefined": 0}}
    by_protocol = {protocol: {"liver": one} for protocol in ("strict", "sifa")}
    record = {
        **{"status": "done", "task": "chaos2malbcv", "method": "adabn", "data": "real"},
        **{"scores": by_protocol, "spacing_unit": "mm"},
        "audit": None,
    }
    assert _cells(scores.comparison(record, by_protocol, Path("r.json"))) == [
        ["protocol strict"],
        ["liver", "hd95 mm", "2.00"],
        ["liver", "dice %", "50.00"],
        ["protocol sifa"],
        ["liver", "hd95 px", "2.00"],
        ["liver", "dice %", "50.00"],
    ]


def _cells(text):
    """The heading of each table, and the first cells of each row."""
    lines = [line for line in text.splitlines() if "│" in line or line.startswith("protocol")]
    return [[cell.strip() for cell in line.split("│")[1:4]] or [line.strip()] for line in lines]


def test_names_are_whole_in_80_columns(monkeypatch):
    """The longest of the suite, and a class longer than a line has room for."""
    monkeypatch.setenv("COLUMNS", "80")
    one = {"mean": 1.0, "undefined": 110}
    long = "a_class_" * 6
    classes = {name: {"hd_rowwise": one} for name in ("grey_matter", long)}
    by_protocol = {"self_ensembling_legacy": classes}
    record = {
        **{"status": "done", "task": "scgm_to_site3", "method": "self_ensembling_sf"},
        **{"data": "phantom", "audit": None, "spacing_unit": "mm"},
        "scores": by_protocol,
    }
    out = scores.comparison(record, by_protocol, Path("r.json"))
    assert "…" not in out
    assert max(map(len, out.splitlines())) <= 80
    for name in ("self_ensembling_sf on scgm_to_site3", "protocol self_ensembling_legacy"):
        assert name in out
    rows = _cells(out)[1:]
    assert rows[0][:1] == ["grey_matter"]
    assert "".join(row[0] for row in rows[1:]) == long
