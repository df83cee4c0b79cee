"""Tables as files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from sfdabench.core.errors import BadInput
from sfdabench.core.files import atomic
from sfdabench.core.paths import check_writable
from sfdabench.report import render
from sfdabench.report.tables import Table


def write_tables(tables: Sequence[Table], out: Path, *, long: bool) -> Iterator[Path]:
    """Write every table in every format of `render.SUFFIXES` into the folder `out`, file by file.

    long: CSV with one cell a row. Raises BadInput where `out` cannot be written.
    """
    check_writable(out, "--out")
    for table in tables:
        for fmt, suffix in render.SUFFIXES.items():
            form = render.csv_long if long and fmt == "csv" else render.FORMATS[fmt]
            yield write_text(out / f"{table.name}{suffix}", form(table))


def write_text(path: Path, text: str) -> Path:
    """Write a text file, whole or not at all. Raises BadInput where `path` is a folder."""
    if path.is_dir():
        raise BadInput(f"--out {path}: a folder; name a file, or give --all")
    with atomic(path) as file:
        file.write(text if text.endswith("\n") else f"{text}\n")
    return path
