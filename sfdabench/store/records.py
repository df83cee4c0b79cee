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
    """The rows that `write_cases` left beside a record.

    Raises BadInput naming the file where it is missing or of other columns.
    """
    try:
        return [row for _, row in rows.read(record.with_suffix(".csv"), CASE_COLUMNS)]
    except BadInput as error:
        raise BadInput(f"{error}; put the file back, or run again with --force") from error


def read(path: Path) -> dict[str, Any]:
    """One record. Raises BadInput naming the file where it is cut short or of another schema."""
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
    """Every record below `out` in path order, and a message for each that cannot be read.

    Each record gains `path`, its file relative to `out`. Work folders of unfinished runs are
    passed over.
    """
    records, problems = [], []
    for path in sorted(out.rglob("*.json")):
        if any(part.startswith(".") or part.endswith(".work") for part in path.parts):
            continue
        try:
            record = read(path)
        except BadInput as error:
            problems.append(str(error))
            continue
        record["path"] = str(path.relative_to(out))
        records.append(record)
    return records, problems
