"""CSV files of known columns."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from sfdabench.core.errors import BadInput


def read(path: Path, columns: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    """Every row with the number of the line that it ends in, from 1.

    Raises BadInput that names the file where it cannot be read or has other columns.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            header = tuple(reader.fieldnames or ())
            found = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadInput(f"{path}: cannot be read ({error})") from error
    if header != tuple(columns):
        raise BadInput(f"{path}: columns must be {','.join(columns)}")
    return found
