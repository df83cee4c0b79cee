"""What the code that makes something is, so that no key outlives an edit of it."""

from __future__ import annotations

import hashlib
import inspect
import sys
from collections.abc import Iterable
from pathlib import Path

from sfdabench.core import registry


def entry_code(kind: str, name: str) -> str:
    """A digest of an entry's file, of its bases', and of the helpers (`_*.py`) beside them."""
    entry = registry.load(kind, name)
    classes = entry.__mro__ if isinstance(entry, type) else type(entry).__mro__
    own = [Path(inspect.getfile(sys.modules[c.__module__])) for c in classes if c is not object]
    return _digest({*own, *(helper for path in own for helper in path.parent.glob("_*.py"))})


def shared_code(*groups: str) -> dict[str, str]:
    """A digest of all files of each group, a folder of the package."""
    return {group: _digest((registry.PACKAGE / group).glob("*.py")) for group in groups}


def _digest(paths: Iterable[Path]) -> str:
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(paths))).hexdigest()
