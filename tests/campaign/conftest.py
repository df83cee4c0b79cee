"""Workers that need no torch: they write the record, or die, as a test tells them."""

import json
import sys

import pytest

from sfdabench.core.paths import shipped
from sfdabench.store import records

WORKER = """
import json, os, sys
from pathlib import Path
template, told, path, method, seed = sys.argv[1:]
told = json.loads(Path(told).read_text()).get(f"{method} {seed}", {})
if "signal" in told:
    print("adaptation: 3/20", file=sys.stderr, flush=True)
    os.kill(os.getpid(), told["signal"])
record = json.loads(Path(template).read_text()) | {"method": method, "seed": int(seed)} | told
Path(path).parent.mkdir(parents=True, exist_ok=True)
Path(path).write_text(json.dumps(record))
print(json.dumps({"status": record["status"], "reason": record["reason"]}))
"""


@pytest.fixture
def tell(monkeypatch, tmp_path):
    """tell({"cbmt 0": {"signal": 9}}): what the worker of this method and seed does or records."""
    template = next(shipped("results").glob("phantom/refuge2rimone/source_only/*.json"))
    told = tmp_path / "told.json"
    told.write_text("{}")

    def command(request, run):
        words = (template, told, run.record_path, run.method_name, run.seed)
        return (sys.executable, "-c", WORKER, *map(str, words))

    monkeypatch.setattr("sfdabench.campaign.workers.command", command)
    return lambda what: told.write_text(json.dumps(what))


@pytest.fixture(scope="session")
def recorded():
    """The shipped records of the phantom."""
    return records.read_all(shipped("results") / "phantom")[0]
