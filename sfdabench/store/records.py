"""One JSON a run and one CSV of per-case scores, written whole or not at all."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sfdabench.core.errors import BadInput
from sfdabench.core.files import atomic
from sfdabench.store import rows

SCHEMA = 1
Score = tuple[str, str, str, str]  # protocol, model, class, metric
CASE_COLUMNS = ("protocol", "model", "case", "class", "metric", "value", "undefined")
REQUIRED = (
    *("schema", "status", "task", "method", "fields", "overrides", "seed", "profile", "data"),
    *("recipe", "scores", "source_only", "source_sha256", "deployed_sha256", "device"),
    "precision",
)


def digest(inputs: Mapping[str, Any]) -> str:
    """Hash of a run's inputs: its name on disk."""
    text = json.dumps(inputs, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Readable JSON, atomically; a NaN in it is an error, not a file no parser accepts."""
    with atomic(path) as file:
        json.dump(value, file, indent=1, allow_nan=False)
        file.write("\n")


def record_path(out: Path, task: str, method: str, key: str) -> Path:
    """`out`/task/method/first 16 digits of the input hash.json."""
    return out / task / method / f"{key[:16]}.json"


def write_cases(path: Path, scores: Iterable[Mapping[str, Any]]) -> None:
    """Per-case scores, one score a row, columns CASE_COLUMNS."""
    with atomic(path) as file:
        writer = csv.DictWriter(file, CASE_COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(scores)


def read_cases(record: Path) -> list[dict[str, str]]:
    """The rows that `write_cases` left beside a finished record.

    Raises BadInput naming the file where it is missing, of other columns, or holds another number
    of scores than the record's means are over.
    """
    path = record.with_suffix(".csv")
    try:
        found = [row for _, row in rows.read(path, CASE_COLUMNS)]
    except BadInput as error:
        raise BadInput(f"{error}; put the file back, or run again with --force") from error
    if _counted(found) != _stated(read(record)):
        raise BadInput(f"{path}: cut short, or not of the record beside it; run again with --force")
    return found


def _stated(record: Mapping[str, Any]) -> dict[Score, tuple[int, int]]:
    """How many scores a record's means are over, and how many of its scores were undefined."""
    models = {"deployed": record["scores"], "source_only": record["source_only"]["scores"]}
    return {
        (protocol, model, name, metric): (score["n"], score["undefined"])
        for model, protocols in models.items()
        for protocol, classes in protocols.items()
        for name, metrics in classes.items()
        for metric, score in metrics.items()
    }


def _counted(cases: Iterable[Mapping[str, str]]) -> dict[Score, tuple[int, int]]:
    """The same of the rows of cases; one that ends before its last column does not count."""
    found: dict[Score, tuple[int, int]] = {}
    for row in cases:
        if row["undefined"] not in ("0", "1"):
            continue
        key = (row["protocol"], row["model"], row["class"], row["metric"])
        n, undefined = found.get(key, (0, 0))
        found[key] = (n + (row["value"] != ""), undefined + (row["undefined"] == "1"))
    return found


def read(path: Path) -> dict[str, Any]:
    """One record. Raises BadInput naming the file where it is cut short or of another schema."""
    if path.suffix != ".json":
        raise BadInput(f"{path}: a record ends in .json; give {path.with_suffix('.json')}")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: not a whole record ({error}); delete it and run again") from error
    if not isinstance(record, dict) or "schema" not in record:
        raise BadInput(f"{path}: not a record of sfdabench; move it out of the results folder")
    if record["schema"] != SCHEMA:
        raise BadInput(
            f"{path}: record schema {record['schema']}, this version reads {SCHEMA}; run again"
        )
    missing = [name for name in REQUIRED if name not in record]
    if missing:
        raise BadInput(f"{path}: record lacks {', '.join(missing)}; delete it and run again")
    return record


def read_all(out: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """Every record `out`/task/method/*.json in path order, and a message for each that cannot be
    read.

    Each record gains `path`, its file relative to `out`. Folders of results inside `out` are other
    comparisons, such as those that a checkout ships in the folder that runs go to by default.
    """
    records, problems = [], []
    for path in sorted(out.glob("*/*/*.json")):
        inside = path.relative_to(out)
        if any(part.startswith(".") for part in inside.parts):
            continue
        try:
            record = read(path)
        except BadInput as error:
            problems.append(str(error))
            continue
        record["path"] = str(inside)
        records.append(record)
    return records, problems
