"""Output streams that no terminal, pipe or encoding can take the work along with."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import Any

STDERR = 2  # its descriptor


class _Lasting(io.FileIO):
    """A descriptor that takes whatever is written, also when nobody reads it any more."""

    def write(self, data: Any) -> int:
        """Write, or say that it is written."""
        try:
            return super().write(data) or 0
        except BrokenPipeError:
            return len(data)


def make_lasting() -> None:
    """Make the process's streams last: what they cannot show is replaced, and progress is optional.

    A stream that was closed before the process began goes nowhere, and its descriptor is taken, so
    that no file that is opened later gets what was meant for it. Standard error may lose its
    reader. Where standard output does, nobody wants the result, and the command stops.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= STDERR:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    if sys.stderr is sys.__stderr__ and sys.stderr is not None:
        lasting = io.BufferedWriter(_Lasting(STDERR, "w", closefd=False))
        encoding = sys.stderr.encoding
        sys.stderr = io.TextIOWrapper(lasting, encoding, "replace", line_buffering=True)
