"""Confined processes as their parent sees them: grants, the channel, errors, deaths."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sfdabench.confine import client, lock
from sfdabench.confine.channel import LONGEST, Channel, Closed
from sfdabench.confine.child import JobFailed
from sfdabench.confine.grant import Grant, without
from sfdabench.core import registry
from sfdabench.core.errors import BadInput, ContractBreach, RunFailed

JOBS = "sfdabench_plugins.jobs:"
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


@pytest.fixture(autouse=True, scope="module")
def plugins():
    known = list(registry._plugins)
    registry.add_plugins(Path(__file__).parent / "plugins")
    yield
    registry._plugins[:] = known


@pytest.fixture(params=["forked", "spawned"])
def started(request, monkeypatch):
    """How a process starts: forked from the server, or anew, as on macOS and Windows."""
    if request.param == "forked" and not client.forks():
        pytest.skip("this system cannot fork safely")
    if request.param == "spawned":
        monkeypatch.setattr(client, "forks", lambda: False)


def call(job, grant=Grant(), **arguments):  # noqa: B008  # a frozen value
    return client.call(JOBS + job, arguments, grant)


# The channel.


def channel_of(text):
    return Channel(io.BytesIO(text), io.BytesIO())


def test_a_message_is_a_line():
    channel = channel_of(b'{"a": 1}\n[2]\n')
    assert [channel.receive(), channel.receive()] == [{"a": 1}, [2]]
    with pytest.raises(Closed):
        channel.receive()
    channel.send({"b": "\n"})
    assert channel.outgoing.getvalue() == b'{"b": "\\n"}\n'


@pytest.mark.parametrize("text", [b"nonsense\n", b"\xff\n", b"[" * 100_000 + b"\n"])
def test_what_is_no_message(text):
    with pytest.raises((ValueError, RecursionError)):
        channel_of(text).receive()


def test_a_message_that_was_cut_off_is_the_end():
    with pytest.raises(Closed):
        channel_of(b'{"a": 1').receive()


def test_a_message_that_is_too_long():
    class Endless(io.RawIOBase):
        def readline(self, size=-1):
            return b" " * size

    with pytest.raises(ValueError, match=f"longer than {LONGEST}"):
        Channel(Endless(), io.BytesIO()).receive()


# What is granted.


def test_a_folder_without_what_is_closed_in_it(tmp_path):
    for name in ("a/b/c", "a/d", "e"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "a" / "b" / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "a" / "b")
    parts = set(without(tmp_path, [tmp_path / "a" / "b" / "c"]))
    assert parts == {tmp_path / name for name in ("a/b/file", "a/d", "e")}
    assert list(without(tmp_path, [tmp_path])) == []
    assert list(without(tmp_path, [tmp_path.parent / "other"])) == [tmp_path]


def test_a_grant_as_json():
    grant = Grant(read=(Path("/a b"),), write=(Path("/ü"),), closed=(Path("/c"),))
    assert Grant.of(json.loads(json.dumps(grant.plain()))) == grant


@pytest.mark.parametrize("by", [lock.best(), "audit hook"])
def test_only_what_is_granted_can_be_read(tmp_path, by):
    """Also with names that are hard to spell, and what is closed inside a folder of plug-ins."""
    granted = tmp_path / "with a space, ü and 脳"
    granted.mkdir()
    (granted / "image").write_bytes(b"12")
    (tmp_path / "label").write_bytes(b"3")
    plugins = Path(__file__).parent / "plugins"
    closed = plugins / "methods" / ".gitkeep"
    paths = [granted / "image", tmp_path / "label", plugins / "jobs.py", closed]
    grant = Grant(read=(granted,), closed=(closed,))
    job, arguments = JOBS + "sizes", {"paths": [*map(str, paths)]}
    with client.process(job, arguments, grant, lock=by) as process:
        if by == "audit hook":
            with pytest.raises(ContractBreach, match=f"opened {tmp_path / 'label'}"):
                process.result()
        else:
            assert process.result() == [2, None, (plugins / "jobs.py").stat().st_size, None]


def test_a_breach_that_is_hidden_fails_the_job(tmp_path):
    secret = tmp_path / "label"
    secret.touch()
    arguments = {"path": str(secret)}
    with (
        client.process(JOBS + "swallow", arguments, Grant(), lock="audit hook") as process,
        pytest.raises(ContractBreach, match=f"opened {secret}"),
    ):
        process.result()


def test_its_folder_is_the_first_that_it_may_write(tmp_path, started):
    reply = call("surroundings", Grant(write=(tmp_path,)))
    assert {reply["folder"], reply["home"], reply["temporary"]} == {str(tmp_path)}


@LINUX
def test_it_inherits_no_descriptor_and_leads_a_session(tmp_path):
    with open(tmp_path / "label", "w") as file:
        os.set_inheritable(file.fileno(), True)
        reply = call("surroundings", Grant(write=(tmp_path,)))
    assert reply["session"]
    assert reply["descriptors"] <= 6  # three standard ones, two of the channel, and the listing's


def test_a_thread_that_runs_already_is_refused(monkeypatch, tmp_path):
    if lock.best() != "landlock":
        pytest.skip("only Landlock minds")
    command = (
        "import threading, time; from sfdabench.confine.lock import shut;"
        "from sfdabench.confine.grant import Grant;"
        "threading.Thread(target=time.sleep, args=[3], daemon=True).start();"
        "shut(Grant(), 'landlock')"
    )
    process = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True)
    assert "a thread was started before" in process.stderr


# Results and errors.


def test_a_result_and_a_dialogue(started):
    assert call("echo", a=1, b=["ü"]) == {"a": 1, "b": ["ü"]}
    with client.process(JOBS + "dialogue", {}, Grant()) as process:
        assert process.result(lambda message: [message["question"] + 1]) == [2]


def test_threads_are_those_that_were_asked_for(started):
    assert client.call(JOBS + "threads", {}, Grant(), threads=2) == 2


def test_a_question_that_nobody_answers():
    with (
        client.process(JOBS + "dialogue", {}, Grant()) as process,
        pytest.raises(RunFailed, match="asked for what nobody gives"),
    ):
        process.result()


@pytest.mark.parametrize(
    ("kind", "error", "message"),
    [
        ("bad input", BadInput, "^the field x is wrong$"),
        ("run failed", RunFailed, "^it did not go$"),
        ("value", JobFailed, r"^ValueError: not a number \(jobs.py, line \d+\)$"),
        ("disk", OSError, "No space left on device: 'a file'"),
        ("exit", JobFailed, "^SystemExit: 3"),
        ("key", JobFailed, "^KeyError: 'x'"),
    ],
)
def test_errors_come_back(kind, error, message):
    with pytest.raises(error, match=message):
        call("fail", kind=kind)


def test_the_traceback_comes_back():
    with pytest.raises(JobFailed) as failure:
        call("fail", kind="value")
    assert "jobs.py" in failure.value.trace


def test_what_a_job_prints_goes_to_standard_error(capfd, started):
    assert call("speak") == "spoken"
    out, err = capfd.readouterr()
    assert out == ""
    if not client.forks():  # a server may have been started before the capture
        assert {"printed", "written", "by another program"} <= set(err.splitlines())


# Deaths.


def test_a_process_that_is_killed(started):
    with pytest.raises(client.ProcessDied, match="was killed, as the system does"):
        call("die", number=signal.SIGKILL)


def test_a_process_that_crashes(started):
    with pytest.raises(RunFailed, match="died of SIGSEGV"):
        call("die", number=signal.SIGSEGV)


def test_a_process_that_leaves(started):
    with pytest.raises(RunFailed, match="exit code 7 and no result"):
        call("leave")


@LINUX
def test_nothing_that_it_started_outlives_it(tmp_path):
    file = tmp_path / "log"
    assert call("leave_others_behind", Grant(write=(tmp_path,)), file=str(file)) == "left"
    sizes = [path.stat().st_size for path in tmp_path.iterdir()]
    assert len(sizes) == 2
    assert all(sizes)
    time.sleep(0.2)
    assert [path.stat().st_size for path in tmp_path.iterdir()] == sizes


def test_a_process_ends_with_its_block():
    begun = time.monotonic()
    with client.process(JOBS + "slow", {}, Grant()) as process:
        process.receive()
    assert time.monotonic() - begun < 30


@LINUX
def test_the_server_is_killed():
    with client.process(JOBS + "slow", {}, Grant()) as process:
        server = process.receive()["begun"]
        os.kill(server, signal.SIGKILL)
        with pytest.raises(client.ProcessDied, match="the server of the confined processes"):
            process.result()
    assert call("echo", a=1) == {"a": 1}
    assert not Path(f"/proc/{server}").exists()


@LINUX
def test_the_parent_is_killed(tmp_path):
    """Server and child end with it."""
    code = (
        "import sys; from pathlib import Path; from sfdabench.core import registry;"
        "from sfdabench.confine import client; from sfdabench.confine.grant import Grant;"
        "client.server.preloaded = ();"
        f"registry.add_plugins(Path({str(Path(__file__).parent / 'plugins')!r}));"
        f"block = client.process({JOBS + 'slow'!r}, {{}}, Grant()); p = block.__enter__();"
        "print(p.receive()['begun'], flush=True); p.receive()"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    with parent:
        server = int(parent.stdout.readline())
        parent.kill()
    deadline = time.monotonic() + 20
    while Path(f"/proc/{server}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{server}").exists()
