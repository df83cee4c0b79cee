"""Scores as a terminal shows them."""

from pathlib import Path

from sfdabench.report import scores


def test_scores_are_printed_in_the_unit_of_their_protocol(make_record):
    """SIFA counts in pixels, whatever the data set knows."""
    metrics = {"hd95": make_record.score(2.0), "dice": make_record.score(0.5)}
    by_protocol = {protocol: {"liver": metrics} for protocol in ("strict", "sifa")}
    shared = {"task": "chaos2malbcv", "data": "real", "scores": by_protocol, "spacing_unit": "mm"}
    record, before = make_record("adabn", **shared), make_record("source_only", **shared)
    assert _cells(scores.comparison(record, before, Path("r.json"))) == [
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


def test_names_are_whole_in_80_columns(monkeypatch, make_record):
    """The longest of the suite, and a class longer than a line has room for."""
    monkeypatch.setenv("COLUMNS", "80")
    metrics = {"dice": make_record.score(0.5), "hd_rowwise": make_record.score(1.0)}
    long = "a_class_" * 6
    classes = {name: metrics for name in ("grey_matter", long)}
    shared = {"task": "scgm_to_site3", "scores": {"self_ensembling_legacy": classes}}
    record = make_record("entropy_minimisation", **shared)
    out = scores.comparison(record, make_record("source_only", **shared), Path("r.json"))
    assert "…" not in out
    assert max(map(len, out.splitlines())) <= 80
    for name in ("entropy_minimisation on scgm_to_site3", "protocol self_ensembling_legacy"):
        assert name in out
    rows = _cells(out)[1:]
    assert rows[0][:1] == ["grey_matter"]
    assert "".join(row[0] for row in rows if row[0] != "grey_matter").startswith(long)
