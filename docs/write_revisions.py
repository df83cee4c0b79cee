"""Write sfdabench/core/revisions.json: the revision and the digests of every entry and group.

python docs/write_revisions.py

Run it after every edit of their code. Raise the revision first where numbers change: `revision`
of the class for an entry, GROUPS in sfdabench/core/code.py for a group.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable

from sfdabench.core import registry
from sfdabench.core.code import (
    GROUPS,
    bytes_digest,
    changed,
    released,
    released_path,
    tree_digest,
    units,
)
from sfdabench.core.files import atomic


def revision(unit: str) -> int:
    """The revision that the code says it has."""
    if unit in GROUPS:
        return GROUPS[unit].revision
    return int(registry.load(*unit.split("/")).revision)


def main(say: Callable[[str], None] = print) -> None:
    """Write the file, and list what is accepted; refuse a revision that went down."""
    before = released() if released_path().is_file() else {}
    now = {unit: revision(unit) for unit in units()}
    down = [u for u in now if u in before and now[u] < before[u].revision]
    for unit in down:
        say(f"{unit}: revision {now[unit]} is lower than {before[unit].revision}; raise it")
    if down:
        sys.exit(1)
    for unit in now:
        if unit not in before:
            say(f"{unit}: new, revision {now[unit]}")
        elif now[unit] > before[unit].revision:
            say(f"{unit}: revision {before[unit].revision} -> {now[unit]}")
        elif files := changed(unit):
            say(f"{unit}: revision {now[unit]} as before, so no number moves: {', '.join(files)}")
    for unit in before.keys() - now.keys():
        say(f"{unit}: gone")
    written = {}
    for unit, paths in units().items():
        contents = {p.relative_to(registry.PACKAGE).as_posix(): p.read_bytes() for p in paths}
        files = {name: f"{tree_digest(c)} {bytes_digest(c)}" for name, c in contents.items()}
        written[unit] = {"revision": now[unit], "files": files}
    with atomic(released_path()) as file:
        file.write(json.dumps(written, indent=1) + "\n")


if __name__ == "__main__":
    main()
