"""`kill -9`, then the same command: the same weights. Two processes: one works, the other waits."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PLUGINS = Path(__file__).parent.parent / "plugins"


def command(out, *more):
    return [
        *(sys.executable, "-m", "sfdabench", "run", "--method", "adabn+tiny_guided"),
        *("--task", "tiny"),
        *("--plugins", str(PLUGINS), "--out", str(out), "--device", "cpu", "--json", *more),
    ]


@pytest.fixture(scope="module")
def start(drawings):
    """start(out, cache, flag, ...): the command in a process, whose cache holds the phantoms."""

    def call(out, cache, *more):
        drawings.fill(cache, "tiny_source", "tiny_target")
        return launch(out, cache, *more)

    return call


def launch(out, cache, *more):
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


CHAIN = ("--set", "tiny_guided.epochs=6", "--set", "tiny_side.epochs=6", "--source-set", "epochs=4")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, start):
    folder = tmp_path_factory.mktemp("undisturbed")
    return finish(start(folder / "out", folder / "cache", *CHAIN))[0]


def test_killed_in_each_stage_of_a_chain_with_a_source_side_stage(tmp_path, start, undisturbed):
    """Every stage goes on where it was killed, and what was finished is not made again."""
    out, cache = tmp_path / "out", tmp_path / "cache"

    def saved(name):
        return any(cache.glob(f"stages/{name}-*.work/open/stage-0.safetensors"))

    for name in ("source_training", "tiny_side", "tiny_guided"):
        kill_when(start(out, cache, *CHAIN), lambda name=name: saved(name))
        assert saved(name), f"{name} was finished before it could be killed"
        assert sum(map(saved, ("source_training", "tiny_side", "tiny_guided"))) == 1, (
            "a finished stage leaves no work folder"
        )
    result, _ = finish(start(out, cache, *CHAIN))
    assert result["source_sha256"] == undisturbed["source_sha256"]
    assert result["deployed_sha256"] == undisturbed["deployed_sha256"]
    assert result["scores"] == undisturbed["scores"]
    assert not list(cache.glob("stages/*.work"))
    assert not list(out.rglob("*.work"))


def test_two_processes_given_the_same_run(tmp_path, start, undisturbed):
    both = [start(tmp_path / "out", tmp_path / "cache", *CHAIN) for _ in range(2)]
    results = [finish(process) for process in both]
    assert {result["deployed_sha256"] for result, _ in results} == {undisturbed["deployed_sha256"]}
    assert any("is held by process" in stderr for _, stderr in results)
    assert sum("found" in stderr for _, stderr in results) == 1
    made = {path.parent.name for path in (tmp_path / "out").rglob("*.json")}
    assert made == {"source_only", "adabn+tiny_guided"}
    assert len(list((tmp_path / "out").rglob("*.json"))) == 2


def family(cache):
    """Process -> its parent, of those that use this cache: a command, its server, its children."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended since
            if f"SFDABENCH_CACHE={cache}\0".encode() in (folder / "environ").read_bytes():
                stat = (folder / "stat").read_text().rpartition(")")[2].split()
                if stat[0] != "Z":
                    parents[int(folder.name)] = int(stat[1])
    return parents


def victim(cache, command, kind):
    """A process of the family, None where there is none of that kind."""
    parents = family(cache)
    servers = [pid for pid, parent in parents.items() if parent == command]
    children = [pid for pid, parent in parents.items() if parent in servers]
    candidates = {"parent": [command], "server": servers, "child": children}[kind]
    return candidates[-1] if candidates else None


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
@pytest.mark.parametrize("seed", range(2))
def test_killed_at_random_moments(tmp_path, start, seed):
    """Whichever process is killed, the same command goes on to the same weights; none is left."""
    begun = time.monotonic()
    whole, _ = finish(start(tmp_path / "one" / "out", tmp_path / "one" / "cache", *CHAIN))
    seconds = time.monotonic() - begun
    out, cache = tmp_path / "two" / "out", tmp_path / "two" / "cache"
    moments, killed = random.Random(seed), []
    while len(killed) < 9:
        kind = ("parent", "server", "child")[len(killed) % 3]
        process = start(out, cache, *CHAIN)
        time.sleep(moments.uniform(0.1, seconds * 0.7))
        pid = None
        while process.poll() is None and pid is None:
            pid = victim(cache, process.pid, kind)
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        _, stderr = process.communicate(timeout=100)
        if process.returncode == 0:
            break  # it was over before
        killed.append((kind, process.returncode))
        if process.returncode > 0:
            assert process.returncode == 1, stderr
            assert "the same command goes on" in stderr, stderr
        deadline = time.monotonic() + 20
        while family(cache) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not family(cache), f"{kind} was killed, and processes were left"
    assert killed, "it was over before it could be killed"
    result, _ = finish(start(out, cache, *CHAIN))
    assert result["deployed_sha256"] == whole["deployed_sha256"]
    assert result["scores"] == whole["scores"]
    assert not list(cache.glob("stages/*.work"))
    assert not list(out.glob("tiny/*/*.work"))
