"""On real images at SFDABENCH_DATA (fundus crops, CHAOS, BTCV), with a short schedule."""

import os
from pathlib import Path

import pytest

from sfdabench.core import registry
from sfdabench.core.errors import AbsentData
from sfdabench.prepare.verify import verify

pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(not os.environ.get("SFDABENCH_DATA"), reason="SFDABENCH_DATA is not set"),
]


@pytest.fixture
def root():
    return Path(os.environ["SFDABENCH_DATA"])


def cases(name, root):
    try:
        return registry.load("datasets", name)().cases(root)
    except AbsentData:
        pytest.skip(f"{name} is not there")


@pytest.mark.parametrize(
    ("name", "splits"),
    [
        ("refuge", {"train", "test"}),
        ("drishti", {"train", "test"}),
        ("chaos", {"t2spir-train", "t2spir-test"}),
        ("malbcv", {"train", "test"}),
    ],
)
def test_the_tree_has_no_fault(name, splits, root):
    cases(name, root)
    report = verify(registry.load("datasets", name)(), root)
    assert not report.faults
    assert splits <= set(report.cases)


@pytest.mark.parametrize(("task", "name"), [("refuge2drishti", "disc"), ("chaos2malbcv", "liver")])
def test_adabn_runs_on_real_images(task, name, root, tmp_path):
    for domain in (*registry.load("tasks", task).source, registry.load("tasks", task).target):
        cases(domain.dataset, root)
    from sfdabench.core.progress import Progress
    from sfdabench.run.plan import resolve
    from sfdabench.run.runner import execute

    run = resolve(
        method="adabn",
        task=task,
        seed=0,
        data=root,
        out=tmp_path,
        profile="phantom",
        source_settings=["epochs=2", "validate_every=1"],
    )
    record = execute(run, Progress(quiet=True))
    assert record.done, record.traceback
    assert record.data == "real"
    assert record.scores["strict"][name]["dice"].mean > 0.3
    assert [stage.name for stage in record.stages] == ["source_training", "adabn"]
