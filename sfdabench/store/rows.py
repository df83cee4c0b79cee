"""CSV files of known columns, compressed where their name ends in .gz."""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Sequence
from pathlib import Path

from sfdabench.core.errors import BadInput


def read(path: Path, columns: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    """Return every row with the number of the line that it ends in, from 1.

    Raises BadInput that names the file where it cannot be read or has other columns.
    """
    try:
        if path.exists() and not path.is_file():  # reading a pipe would wait for ever
            raise BadInput(f"{path}: cannot be read (no file)")
        opened = gzip.open if path.suffix == ".gz" else open
        with opened(path, "rt", encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            header = tuple(reader.fieldnames or ())
            found = [(reader.line_num, row) for row in reader]
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error) as error:
        raise BadInput(f"{path}: cannot be read ({error})") from error
    if header != tuple(columns):
        raise BadInput(f"{path}: columns must be {','.join(columns)}")
    return found
