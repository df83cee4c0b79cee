"""Scores for the terminal: of a run beside its source model's, and of saved masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfdabench.core.paths import from_here
from sfdabench.report import terminal, units

if TYPE_CHECKING:
    from sfdabench.store.records import Means, Metrics, Record


def summary(record: Record, before: Record | None, path: Path) -> dict[str, Any]:
    """A run in short, as JSON types.

    before: the record of the source model. path: of the record.
    """
    names = {"status", "task", "method", "seed", "data", "source_sha256", "deployed_sha256"}
    result = record.model_dump(include=names) | {
        "record": str(path),
        "seconds": record.seconds.total,
        "scores": _means(record.scores),
        "source_only": _means(before.scores) if before else {},
    }
    return result if record.done else result | {"reason": record.reason}


def _means(scores: Means) -> dict[str, Any]:
    return {
        protocol: {
            name: {metric: value.mean for metric, value in metrics.items()}
            for name, metrics in classes.items()
        }
        for protocol, classes in scores.items()
    }


def failure(record: Record, path: Path) -> str:
    """Why a run failed, and where its record is."""
    return f"failed: {record.reason}\nrecord: {from_here(path)}"


def comparison(record: Record, before: Record | None, path: Path) -> str:
    """A table a protocol of a finished run, and what its selection audit says.

    before: the record of the source model. path: of the record.
    """
    label = "PHANTOM" if record.data == "phantom" else "real"
    parts = [f"{record.method} on {record.task} ({label} data)"]
    known = before.scores if before else {}
    parts += [
        _protocol(protocol, classes, known.get(protocol, {}), record.spacing_unit)
        for protocol, classes in record.scores.items()
    ]
    audit = record.audit
    if audit:
        for protocol, gap in audit.gap.items():
            parts.append(
                f"selection audit ({protocol}): the best epoch on test labels (oracle, never "
                f"deployed) is {audit.epochs[audit.best.epoch[protocol]] + 1} of "
                f"{audit.epochs[audit.last.epoch] + 1}, {100 * gap:.2f} Dice points above the last"
            )
    parts.append(f"record: {from_here(path)}")
    return "\n".join(parts)


def _protocol(
    protocol: str,
    classes: Mapping[str, Metrics],
    before: Mapping[str, Metrics],
    spacing_unit: str,
) -> str:
    """One table, without the method's name: a terminal has 80 columns."""
    rows: list[tuple[str, ...]] = []
    for name, metrics in classes.items():
        for metric, value in metrics.items():
            unadapted = before.get(name, {}).get(metric)
            old, new = unadapted.mean if unadapted else None, value.mean
            scale = units.scale(metric)
            row = (
                name,
                f"{metric} {units.unit(metric, protocol, spacing_unit)}",
                "-" if old is None else f"{old * scale:.2f}",
                "-" if new is None else f"{new * scale:.2f}",
                "-" if old is None or new is None else f"{(new - old) * scale:+.2f}",
                str(value.undefined),
            )
            rows.append(row)
    right = ("source only", "adapted", "change", "undefined")
    return terminal.grid(f"protocol {protocol}", ("class", "metric"), right, rows)


def saved(rows: Sequence[Mapping[str, Any]], protocol: str) -> str:
    """The scores of saved masks, a row a case and class, and the mean of each class.

    rows: of `evaluate.saved.score_saved`.
    """
    from rich.table import Table

    metrics = [key for key in rows[0] if key not in ("case", "label", "undefined")]
    table = Table(title=f"{protocol}: distances in mm where the files say so, else pixels")
    for column in ("case", "label", *metrics, "undefined"):
        table.add_column(column, overflow="fold")
    for row in rows:
        values = ["-" if row[m] is None else f"{row[m]:.4f}" for m in metrics]
        table.add_row(row["case"], str(row["label"]), *values, ", ".join(row["undefined"]))
    table.add_section()
    for label in dict.fromkeys(row["label"] for row in rows):
        columns = [
            [row[m] for row in rows if row["label"] == label and row[m] is not None]
            for m in metrics
        ]
        means = [f"{sum(values) / len(values):.4f}" if values else "-" for values in columns]
        table.add_row("mean", str(label), *means, "")
    return terminal.text(table, at_least=100)
