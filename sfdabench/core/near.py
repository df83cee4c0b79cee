"""One wording for every unknown name: what was given, what is near, what exists."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """Message for a `name` that is no `kind`, with the near names first."""
    known = sorted(set(known))
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    return f"unknown {kind} '{name}': {hint}known: {', '.join(known) or 'none'}"
