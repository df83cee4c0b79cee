"""Records and the cases beside them: what is read, and what is refused."""

import json

import pytest

from sfdabench.core.errors import BadInput
from sfdabench.core.paths import shipped
from sfdabench.store import records

# A mean over raters' slices: more scores than test cases, one dropped, one penalised.
DEPLOYED = [
    ("self_ensembling", "c1/rater1/0", "0.5", 0),
    ("self_ensembling", "c1/rater2/0", "", 1),
    ("self_ensembling", "c1/rater2/1", "0.75", 0),
    ("strict", "c1", "0.0", 1),
]
SCORES = {
    "self_ensembling": {"cord": {"dice": {"mean": 0.625, "n": 2, "undefined": 1}}},
    "strict": {"cord": {"dice": {"mean": 0.0, "n": 1, "undefined": 1}}},
}


@pytest.fixture
def record(tmp_path):
    path = tmp_path / "r.json"
    value = dict.fromkeys(records.REQUIRED) | {"schema": records.SCHEMA, "status": "done"}
    value |= {"cases": {"test": 1}, "scores": SCORES, "source_only": {"scores": SCORES}}
    records.write_json(path, value)
    names = ("protocol", "case", "value", "undefined")
    same = {"class": "cord", "metric": "dice"}
    records.write_cases(
        path.with_suffix(".csv"),
        [
            dict(zip(names, row, strict=True)) | same | {"model": model}
            for model in ("source_only", "deployed")
            for row in DEPLOYED
        ],
    )
    return path


def test_whole_cases_are_read(record):
    found = records.read_cases(record)
    assert [row["case"] for row in found if row["model"] == "deployed"] == [r[1] for r in DEPLOYED]


def test_cases_that_are_shipped_are_whole():
    of_runs = [f for f in shipped("results").glob("*/*/*/*.csv") if f.with_suffix(".json").exists()]
    assert of_runs
    for file in of_runs:
        assert records.read_cases(file.with_suffix(".json"))


def test_cases_cut_short_anywhere_are_refused(record):
    """After any byte but the last line's end, which says nothing."""
    file = record.with_suffix(".csv")
    whole = file.read_text()
    header = whole.index("\n")
    for size in range(header, len(whole) - 1):
        file.write_text(whole[:size])
        with pytest.raises(BadInput, match=f"{file}: cut short, or not of the record.*--force"):
            records.read_cases(record)
    file.write_text(whole[:-1])
    assert len(records.read_cases(record)) == 8


def test_cases_of_another_record_are_refused(record):
    file = record.with_suffix(".csv")
    first, second, *rest = file.read_text().splitlines(keepends=True)
    file.write_text("".join([first, second.replace("cord", "canal"), *rest]))
    with pytest.raises(BadInput, match="not of the record beside it"):
        records.read_cases(record)
    file.write_text("".join([first, second, second, *rest]))
    with pytest.raises(BadInput, match="not of the record beside it"):
        records.read_cases(record)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"schema": 1', "not a whole record .*delete it and run again"),
        ("[]", "not a record of sfdabench; move it out"),
        ('{"schema": 99}', "record schema 99, this version reads 1"),
        ('{"schema": 1, "status": "done"}', "record lacks task, method"),
    ],
)
def test_files_that_are_no_records(tmp_path, text, message):
    path = tmp_path / "r.json"
    path.write_text(text)
    with pytest.raises(BadInput, match=f"{path}: {message}"):
        records.read(path)


@pytest.mark.parametrize("suffix", [".csv", ".safetensors"])
def test_a_neighbour_of_a_record_names_the_record(record, suffix):
    with pytest.raises(BadInput, match=rf"r\{suffix}: a record ends in .json; give {record}$"):
        records.read(record.with_suffix(suffix))


def test_a_folder_above_may_be_hidden(record, tmp_path):
    """Work folders and other comparisons inside are not looked into, whatever stands above."""
    out = tmp_path / ".hidden" / "out"
    for folder in ("task/method", "task/.method", "task/method/a.work", "phantom/task/method"):
        records.write_json(out / folder / "r.json", json.loads(record.read_text()))
    found, problems = records.read_all(out)
    assert [one["path"] for one in found] == ["task/method/r.json"]
    assert not problems
