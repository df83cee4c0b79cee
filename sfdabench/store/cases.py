"""The scores of runs, case by case: a CSV beside each record, or one file for a whole set."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from sfdabench.core.errors import BadInput
from sfdabench.core.files import atomic
from sfdabench.store import records, rows
from sfdabench.store.records import Record

Score = tuple[str, str, str]  # protocol, class, metric
Rows = list[dict[str, str]]
COLUMNS = ("protocol", "case", "class", "metric", "value", "undefined")
PACKED = "cases.csv.gz"
DIGITS = 16  # of a key, as in the names of records


def write(path: Path, scores: Iterable[Mapping[str, Any]]) -> None:
    """Write the scores of the deployed model, one score a row, columns COLUMNS."""
    with atomic(path) as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(scores)


def read(path: Path) -> Rows:
    """Read the rows that belong to the finished record at `path`.

    They are in the CSV beside it, else in the one file of its set. Raises BadInput that names the
    file where it is missing, of other columns, or holds another number of scores than the record's
    means are over.
    """
    record, where = records.read(path), path.with_suffix(".csv")
    packed = packed_file(path.parent.parent.parent)
    try:
        if packed.exists() and not where.exists():
            where, state = packed, packed.stat()
            by_record = _unpacked(packed, state.st_mtime_ns, state.st_size)
            found = by_record.get(record.key[:DIGITS], [])
        else:
            found = [row for _, row in rows.read(where, COLUMNS)]
    except (BadInput, OSError) as error:
        raise BadInput(f"{error}; put the file back, or run again with --force") from error
    if _counted(found) != _stated(record):
        raise BadInput(f"{where}: cut short, or not of the record {path}; run again with --force")
    return found


def packed_file(out: Path) -> Path:
    """Return the path of the file that may hold the rows of all records in folder `out`."""
    return out / PACKED


@lru_cache(maxsize=4)
def _unpacked(path: Path, _mtime: int, _size: int) -> dict[str, Rows]:
    """The rows of each record; read again where the file has changed."""
    found: dict[str, Rows] = {}
    for _, row in rows.read(path, ("record", *COLUMNS)):
        found.setdefault(row.pop("record"), []).append(row)
    return found


def pack(out: Path) -> Path:
    """Gather the case scores of all finished records in folder `out` into its one file.

    The CSVs beside the records are removed. The same rows give the same bytes. Raises BadInput, and
    changes nothing, where a record cannot be read or lacks its rows.
    """
    stored, problems = records.read_all(out)
    if problems:
        raise BadInput("; ".join(problems))
    paths = {record.key[:DIGITS]: out / record.path for record in stored if record.done}
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, ("record", *COLUMNS), lineterminator="\n")
    writer.writeheader()
    for key, path in paths.items():
        writer.writerows({"record": key} | row for row in read(path))
    with (
        atomic(packed_file(out), "wb") as file,
        gzip.GzipFile("", "wb", 9, file, mtime=0) as compressed,
    ):
        compressed.write(text.getvalue().encode())
    for record in stored:
        (out / record.path).with_suffix(".csv").unlink(missing_ok=True)
    return packed_file(out)


def _stated(record: Record) -> dict[Score, tuple[int, int]]:
    """How many scores a record's means are over, and how many of its scores were undefined."""
    return {
        (protocol, name, metric): (score.n, score.undefined)
        for protocol, classes in record.scores.items()
        for name, metrics in classes.items()
        for metric, score in metrics.items()
    }


def _counted(cases: Rows) -> dict[Score, tuple[int, int]]:
    """The same of the rows of cases; one that ends before its last column does not count."""
    found: dict[Score, tuple[int, int]] = {}
    for row in cases:
        if row["undefined"] not in ("0", "1"):
            continue
        key = (row["protocol"], row["class"], row["metric"])
        n, undefined = found.get(key, (0, 0))
        found[key] = (n + (row["value"] != ""), undefined + (row["undefined"] == "1"))
    return found
