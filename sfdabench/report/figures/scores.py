"""Scores of records in their printed units."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from sfdabench.core.errors import BadInput
from sfdabench.core.near import unknown
from sfdabench.report.runs import Comparison
from sfdabench.report.units import scale
from sfdabench.store import cases
from sfdabench.store.records import Metrics, Record, Stored

LARGEST = 1e60  # as in records
Cases = dict[str, dict[str, float | None]]  # class -> case -> value, None where dropped


def scored(record: Record, protocol: str) -> Mapping[str, Metrics]:
    """The scores of a run under a protocol. Raises BadInput where it was not scored by it."""
    if protocol not in record.scores:
        where = record.path if isinstance(record, Stored) else f"record {record.key[:16]}"
        raise BadInput(
            f"{where}: {unknown('protocol of this record', protocol, record.scores)}; "
            f"`sfdabench run ... --protocol {protocol}` scores by it too"
        )
    return record.scores[protocol]


def mean_dice(scores: Mapping[str, Metrics]) -> float:
    """Mean over classes in percent, as the audit takes it: 0 where no class has a Dice."""
    known = [mean for one in scores.values() if (mean := one["dice"].mean) is not None]
    return 100 * statistics.fmean(known or [0.0])


def unadapted(compared: Comparison, run: Stored, protocol: str) -> float:
    """Mean Dice of the source model of a run, in percent. Raises BadInput where it has none."""
    return mean_dice(scored(compared.unadapted(run), protocol))


def unadapted_mean(compared: Comparison, runs: Sequence[Stored], protocol: str) -> float:
    """The same over the seeds of several runs, one source model a seed."""
    by_seed = {run.seed: run for run in runs}
    return statistics.fmean(unadapted(compared, run, protocol) for run in by_seed.values())


def by_case(path: Path, protocol: str, metric: str) -> Cases:
    """Scores of the record at `path` case by case, in their printed unit.

    Raises BadInput where they are missing, of no such protocol or metric, or no numbers.
    """
    rows, where = cases.read(path), path.with_suffix(".csv")
    for column, wanted in (("protocol", protocol), ("metric", metric)):
        known = {row[column] for row in rows}
        if wanted not in known:
            raise BadInput(f"{where}: {unknown(f'{column} of these scores', wanted, known)}")
        rows = [row for row in rows if row[column] == wanted]
    found: Cases = {}
    for row in rows:
        value = None if not row["value"] else _number(row["value"])
        if row["value"] and value is None:
            raise BadInput(
                f"{where}: {row['case']}, {row['class']}, {metric}: '{row['value']}' is no number; "
                "run again with --force"
            )
        found.setdefault(row["class"], {})[row["case"]] = value and value * scale(metric)
    return found


def _number(text: str) -> float | None:
    """None where it is none, or so large that sums of it are not finite."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if abs(value) <= LARGEST else None
