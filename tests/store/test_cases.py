"""The scores of cases: beside a record, or packed for a whole set."""

import gzip
import os

import pytest

from sfdabench.core.errors import BadInput
from sfdabench.store import cases, records

# A mean over raters' slices: more scores than test cases, one dropped, one penalised.
ROWS = [
    ("self_ensembling", "c1/rater1/0", "0.5", 0),
    ("self_ensembling", "c1/rater2/0", "", 1),
    ("self_ensembling", "c1/rater2/1", "0.75", 0),
    ("strict", "c1", "0.0", 1),
]


def write(path):
    names = ("protocol", "case", "value", "undefined")
    same = {"class": "cord", "metric": "dice"}
    cases.write(path, [dict(zip(names, row, strict=True)) | same for row in ROWS])


@pytest.fixture
def keep(make_record, tmp_path):
    """keep(method) -> the path of a record with its rows beside it."""

    def put(method="cbmt", **changes):
        scores = {
            "self_ensembling": {"cord": {"dice": make_record.score(0.625, n=2, undefined=1)}},
            "strict": {"cord": {"dice": make_record.score(0.0, n=1, undefined=1)}},
        }
        path = make_record.keep(tmp_path, make_record(method, scores=scores, **changes))
        write(path.with_suffix(".csv"))
        return path

    return put


def test_whole_rows_are_read(keep):
    assert [row["case"] for row in cases.read(keep())] == [row[1] for row in ROWS]


def test_rows_cut_short_anywhere_are_refused(keep):
    """After any byte but the last line's end, which says nothing."""
    path = keep()
    file = path.with_suffix(".csv")
    whole = file.read_text()
    for size in range(whole.index("\n"), len(whole) - 1):
        file.write_text(whole[:size])
        with pytest.raises(BadInput, match=f"{file}: cut short, or not of the record.*--force"):
            cases.read(path)
    file.write_text(whole[:-1])
    assert len(cases.read(path)) == 4


def test_rows_of_another_record_are_refused(keep):
    path = keep()
    file = path.with_suffix(".csv")
    first, second, *rest = file.read_text().splitlines(keepends=True)
    for lines in ([first, second.replace("cord", "canal")], [first, second, second]):
        file.write_text("".join([*lines, *rest]))
        with pytest.raises(BadInput, match="not of the record"):
            cases.read(path)


def test_rows_that_are_missing_or_no_file(keep):
    path = keep()
    path.with_suffix(".csv").unlink()
    with pytest.raises(BadInput, match=r"\.csv: cannot be read .*put the file back, or run again"):
        cases.read(path)
    os.mkfifo(path.with_suffix(".csv"))
    with pytest.raises(BadInput, match=r"\.csv: cannot be read \(no file\)"):
        cases.read(path)


def test_a_packed_set_reads_as_before(keep, make_record, tmp_path):
    paths = [keep("cbmt"), keep("adabn"), keep("cbmt", seed=1)]
    make_record.keep(tmp_path, make_record("tent", status="failed"))
    whole = [cases.read(path) for path in paths]
    packed = cases.pack(tmp_path)
    assert packed == tmp_path / "cases.csv.gz"
    assert list(tmp_path.rglob("*.csv")) == []
    assert [cases.read(path) for path in paths] == whole
    content = packed.read_bytes()
    assert cases.pack(tmp_path).read_bytes() == content, "packed again, and it says no time"
    text = gzip.decompress(content).decode()
    assert text.splitlines()[0] == "record,protocol,case,class,metric,value,undefined"
    key = records.read(paths[0]).key[:16]
    assert text.count(f"{key},strict,c1,cord,dice,0.0,1\n") == 1

    write(paths[0].with_suffix(".csv"))  # what lies beside a record counts
    more = keep("tent_online")
    assert len(cases.read(more)) == 4
    cases.pack(tmp_path)
    assert [cases.read(path) for path in paths] == whole


def test_nothing_is_packed_where_rows_are_missing(keep, tmp_path):
    first, second = keep("cbmt"), keep("adabn")
    second.with_suffix(".csv").unlink()
    with pytest.raises(BadInput, match="cannot be read"):
        cases.pack(tmp_path)
    assert first.with_suffix(".csv").exists()
    write(second.with_suffix(".csv"))
    second.write_text("[]")
    with pytest.raises(BadInput, match="not a record of sfdabench"):
        cases.pack(tmp_path)
    assert first.with_suffix(".csv").exists()
    assert not (tmp_path / "cases.csv.gz").exists()


def test_a_packed_file_that_is_damaged_is_named(keep, tmp_path):
    path = keep()
    packed = cases.pack(tmp_path)
    whole = packed.read_bytes()
    text = gzip.decompress(whole)
    for content in (
        whole[:-9],
        whole[: len(whole) // 2],
        b"",
        b"no gzip",
        whole[:20] + b"\x00" + whole[21:],
        gzip.compress(text[: len(text) // 2]),
        gzip.compress(text.replace(b"record,", b"key,")),
        gzip.compress(b"\xff" + text),
    ):
        packed.write_bytes(content)
        with pytest.raises(BadInput, match=f"{packed}: "):
            cases.read(path)
