"""`kill -9`, then the same command: the same weights. Two processes: one works, the other waits."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PLUGINS = Path(__file__).parent.parent / "plugins"


def command(out, *more):
    return [
        *(sys.executable, "-m", "sfdabench", "run", "--method", "cbmt", "--task", "tiny"),
        *("--plugins", str(PLUGINS), "--out", str(out), "--device", "cpu", "--json", *more),
    ]


def start(out, cache, *more):
    environment = os.environ | {"SFDABENCH_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command(out, *more),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def finish(process):
    stdout, stderr = process.communicate(timeout=200)
    assert process.returncode == 0, stderr
    return json.loads(stdout), stderr


def kill_when(process, condition):
    while process.poll() is None and not condition():
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "it was over before it could be killed"


LONG = ("--set", "epochs=6", "--source-set", "epochs=8")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    return finish(start(folder / "out", folder / "cache", *LONG))[0]


def test_killed_while_training_and_while_adapting(tmp_path, undisturbed):
    out, cache = tmp_path / "out", tmp_path / "cache"

    def training():
        return any(cache.glob("sources/*.work/stage-0.safetensors"))

    def adapting():
        return any(out.glob("tiny/cbmt/*.work/0-cbmt/stage-0.safetensors"))

    kill_when(start(out, cache, *LONG), training)
    assert training()
    kill_when(start(out, cache, *LONG), adapting)
    assert not training(), "a finished source model leaves no work folder"
    result, _ = finish(start(out, cache, *LONG))
    assert result["source_sha256"] == undisturbed["source_sha256"]
    assert result["deployed_sha256"] == undisturbed["deployed_sha256"]
    assert result["scores"] == undisturbed["scores"]
    assert not adapting()


def test_two_processes_given_the_same_run(tmp_path, undisturbed):
    both = [start(tmp_path / "out", tmp_path / "cache", *LONG) for _ in range(2)]
    results = [finish(process) for process in both]
    assert {result["deployed_sha256"] for result, _ in results} == {undisturbed["deployed_sha256"]}
    assert any("is held by process" in stderr for _, stderr in results)
    assert sum("cbmt" in stderr.partition("found ")[2] for _, stderr in results) == 1
    written = (tmp_path / "out").rglob("*.json")
    assert {path.parent.name for path in written} == {"source_only", "cbmt"}
