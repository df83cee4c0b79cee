"""Scores of records in their printed units."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sfdabench.core.errors import BadInput
from sfdabench.core.near import unknown
from sfdabench.report.runs import Record
from sfdabench.report.units import scale
from sfdabench.store import records

Cases = dict[str, dict[str, float | None]]  # class -> case -> value, None where dropped


def scored(record: Record, protocol: str) -> Mapping[str, Any]:
    """The scores of a run under a protocol. Raises BadInput where it was not scored by it."""
    if protocol not in record["scores"]:
        raise BadInput(
            f"{record['path']}: {unknown('protocol of this record', protocol, record['scores'])}; "
            f"`sfdabench run ... --protocol {protocol}` scores by it too"
        )
    return record["scores"][protocol]


def mean_dice(scores: Mapping[str, Any]) -> float:
    """Mean over classes in percent, as the audit takes it: 0 where no class has a Dice."""
    known = [one["dice"]["mean"] for one in scores.values() if one["dice"]["mean"] is not None]
    return 100 * statistics.fmean(known or [0.0])


def unadapted(runs: Iterable[Record], protocol: str) -> float:
    """Mean Dice of the source models in percent, one a seed, however many runs start from it."""
    by_seed = {run["seed"]: mean_dice(run["source_only"]["scores"][protocol]) for run in runs}
    return statistics.fmean(by_seed.values())


def by_case(path: Path, protocol: str, metric: str, model: str = "deployed") -> Cases:
    """Scores beside the record at `path`, in their printed unit.

    Raises BadInput where the file is missing, holds no such protocol or metric, or text for a
    number.
    """
    rows, where = records.read_cases(path), path.with_suffix(".csv")
    for column, wanted in (("protocol", protocol), ("model", model), ("metric", metric)):
        known = {row[column] for row in rows}
        if wanted not in known:
            raise BadInput(f"{where}: {unknown(f'{column} of these scores', wanted, known)}")
        rows = [row for row in rows if row[column] == wanted]
    found: Cases = {}
    for row in rows:
        try:
            value = float(row["value"]) * scale(metric) if row["value"] else None
        except ValueError:
            raise BadInput(
                f"{where}: {row['case']}, {row['class']}, {metric}: '{row['value']}' is no number; "
                "run again with --force"
            ) from None
        found.setdefault(row["class"], {})[row["case"]] = value
    return found
