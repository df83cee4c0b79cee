"""Workers that need no torch: they write the record, or die, as a test tells them."""

import json

import pytest

from sfdabench.run import artefacts
from sfdabench.run.artefacts import CARD, Card
from sfdabench.store import records

STAND_IN = "sfdabench_plugins.workers:main"  # runs the first word as Python
WORKER = """
import json, os, shutil, sys
from pathlib import Path
told, record, path, card, source = sys.argv[1:]
told = json.loads(told)
if "signal" in told:
    print("adaptation: 3/20", file=sys.stderr, flush=True)
    os.kill(os.getpid(), told["signal"])
for made, place in ((card, source), (record, path)):
    Path(place).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(made, place)
record = json.loads(Path(record).read_text())
print(json.dumps({"status": record["status"], "reason": record["reason"]}))
"""


@pytest.fixture
def python_workers(monkeypatch):
    """Workers run the first word of their command as Python, in place of `sfdabench`.

    They need nothing loaded.
    """
    monkeypatch.setattr("sfdabench.campaign.workers.CALL", STAND_IN)
    monkeypatch.setattr("sfdabench.campaign.workers.PRELOADED", ())
    monkeypatch.setattr("sfdabench.confine.client.PRELOADED", ())


@pytest.fixture
def record_of(make_record):
    """record_of(run): a finished record of this run; `changes` of any key."""

    def record(run, **changes):
        known = {
            **{"key": run.key, "task": run.task_name, "data": run.data, "profile": run.profile},
            **{"fields": {name: method.fields for name, method in run.chain}},
            **{"overrides": run.overrides, "recipe": run.recipe_inputs, "device": run.device},
            **{"source_key": run.source.key, "source_overrides": run.source_overrides},
        }
        if run.unadapted is not None:
            known["unadapted"] = run.unadapted.key
        return make_record(run.method_name, run.seed, **known | changes)

    return record


@pytest.fixture
def tell(monkeypatch, tmp_path, record_of, python_workers):
    """tell({"cbmt 0": {"signal": 9}}): what the worker of this method and seed does or records.

    It leaves the card of its source stage too, as a worker does that trained it.
    """
    told = {}

    def command(request, run):
        of_run = told.get(f"{run.method_name} {run.seed}", {})
        changes = {name: value for name, value in of_run.items() if name != "signal"}
        record, card = tmp_path / "told" / run.record_path.name, tmp_path / "told" / run.source.key
        records.write(record, record_of(run, **changes))
        artefacts.write_card(
            card, Card(key=run.source.key, stage=run.source.plain(), sha256="0" * 64, files={})
        )
        source = artefacts.place(run.cache, run.source) / CARD
        words = (json.dumps(of_run), record, run.record_path, card / CARD, source)
        return (WORKER, *map(str, words))

    def tell(what):
        told.clear()
        told.update(what)

    monkeypatch.setattr("sfdabench.campaign.workers.command", command)
    return tell
