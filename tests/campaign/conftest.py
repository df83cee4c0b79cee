"""Workers that need no torch: they write the record, or die, as a test tells them."""

import json
import sys

import pytest

from sfdabench.campaign.workers import Flags

WORKER = """
import json, os, sys
from pathlib import Path
template, told, path, method, seed = sys.argv[1:]
told = json.loads(Path(told).read_text()).get(f"{method} {seed}", {})
if "signal" in told:
    print("adaptation: 3/20", file=sys.stderr, flush=True)
    os.kill(os.getpid(), told["signal"])
record = json.loads(Path(template).read_text()) | {"method": method, "seed": int(seed)}
record |= {name: {part: {} for part in method.split("+")} for name in ("fields", "overrides")}
record |= {"unadapted": None if method == "source_only" else "0" * 64} | told
Path(path).parent.mkdir(parents=True, exist_ok=True)
Path(path).write_text(json.dumps(record))
print(json.dumps({"status": record["status"], "reason": record["reason"]}))
"""


@pytest.fixture
def tell(monkeypatch, tmp_path, make_record):
    """tell({"cbmt 0": {"signal": 9}}): what the worker of this method and seed does or records."""
    template = make_record.keep(tmp_path / "template", make_record("cbmt"))
    told = tmp_path / "told.json"
    told.write_text("{}")

    def command(self, run):
        words = (template, told, run.record_path, run.method_name, run.seed)
        return (sys.executable, "-c", WORKER, *map(str, words))

    monkeypatch.setattr(Flags, "command", command)
    return lambda what: told.write_text(json.dumps(what))
