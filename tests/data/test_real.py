"""On real crops at SFDABENCH_DATA (Domain1 and Domain3), with a short schedule."""

import os
from pathlib import Path

import pytest

from sfdabench.core import registry
from sfdabench.prepare.verify import verify

pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(not os.environ.get("SFDABENCH_DATA"), reason="SFDABENCH_DATA is not set"),
]


@pytest.mark.parametrize("name", ["refuge", "drishti"])
def test_the_tree_has_no_fault(name):
    report = verify(registry.load("datasets", name)(), Path(os.environ["SFDABENCH_DATA"]))
    assert not report.faults
    assert {"train", "test"} <= set(report.cases)


def test_adabn_runs_on_real_crops(tmp_path):
    from sfdabench.core.progress import Progress
    from sfdabench.run.plan import resolve
    from sfdabench.run.runner import execute

    run = resolve(
        method="adabn",
        task="refuge2drishti",
        seed=0,
        data=Path(os.environ["SFDABENCH_DATA"]),
        out=tmp_path,
        profile="phantom",
        source_settings=["epochs=2", "validate_every=1"],
    )
    record = execute(run, Progress(quiet=True))
    assert record["status"] == "done", record.get("traceback")
    assert record["data"] == "real"
    assert record["scores"]["strict"]["disc"]["dice"]["mean"] > 0.3
