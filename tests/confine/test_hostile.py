"""Attacks on the lock: each succeeds without one, and fails in a confined process."""

import contextlib
import ctypes
import json
import os
import secrets
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from pathlib import Path

import numpy as np
import pytest

from sfdabench.confine import client, lock
from sfdabench.confine.grant import Grant
from sfdabench.core import registry
from sfdabench.core.errors import ContractBreach

HOSTILE = Path(__file__).parent / "hostile"
ATTACKS = HOSTILE / "attacks.py"
SECRET = f"SFDA-SECRET-{secrets.token_hex(8)}"

landlock = pytest.mark.skipif(lock.best() != "landlock", reason="this system has no Landlock")


def names(table, namespace={}):  # noqa: B006  # read once
    if not namespace:
        exec(compile(ATTACKS.read_text(encoding="utf-8"), ATTACKS, "exec"), namespace)
    return sorted(namespace[table])


@pytest.fixture(autouse=True, scope="module")
def plugins():
    known = list(registry._plugins)
    registry.add_plugins(HOSTILE)
    yield
    registry._plugins[:] = known


@pytest.fixture
def places(tmp_path):
    """What an attacker wants and where it is, with all that a strong one would know."""
    granted, work = tmp_path / "granted", tmp_path / "work"
    closed, outside = tmp_path / "closed", tmp_path / "outside"
    for folder in (granted, work, closed, outside / "results"):
        folder.mkdir(parents=True)
    secret = closed / "labels.bin"
    secret.write_text(SECRET)
    (closed / SECRET).touch()
    np.save(closed / "labels.npy", np.frombuffer(SECRET.encode(), np.uint8))
    with contextlib.closing(sqlite3.connect(closed / "labels.db")) as database:
        database.execute("create table secrets (text)")
        database.execute("insert into secrets values (?)", [SECRET])
        database.commit()
    (granted / "link").symlink_to(secret)
    (outside / "record.json").write_text('{"dice": 0.5}')
    (outside / "planted.py").write_text("X = 1\n")
    buffer, score = ctypes.create_string_buffer(SECRET.encode(), 48), ctypes.c_double(0.5)
    unique = f"sfdabench-{uuid.uuid4().hex}"
    mailboxes = {
        "shared": Path("/dev/shm", unique),
        "temporary": Path("/tmp", unique),
        "home": Path.home() / unique,
    }
    with (
        open(secret, "rb") as file,
        telling(socket.AF_INET, ("127.0.0.1", 0)) as port,
        telling(socket.AF_UNIX, f"\0{unique}"),
        tempfile.TemporaryDirectory() as short,  # the name of a socket has 107 bytes at most
        telling(socket.AF_UNIX, f"{short}/service") as service,
    ):
        yield {
            "secret": str(secret),
            "array": str(closed / "labels.npy"),
            "database": str(closed / "labels.db"),
            "link": str(granted / "link"),
            "granted": str(granted),
            "work": str(work),
            "outside": str(outside),
            "parent": os.getpid(),
            "parent_folder": os.getcwd(),
            "descriptor": file.fileno(),
            "address": ctypes.addressof(buffer),
            "size": len(buffer),
            "score": ctypes.addressof(score),
            "port": port[1],
            "abstract": unique,
            "service": service,
            **{name: str(path) for name, path in mailboxes.items()},
        }
    del buffer, score
    for path in mailboxes.values():
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def telling(family, address):
    """A server that tells the secret to whoever connects."""

    def serve():
        with contextlib.suppress(OSError):  # it was shut down
            while True:
                connection, _ = server.accept()
                with connection:
                    connection.sendall(SECRET.encode())

    with socket.socket(family) as server:
        server.bind(address)
        server.listen()
        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


def without_lock(name, places):
    """The reply to an attack in a process that nothing confines."""
    command = [sys.executable, "-I", str(ATTACKS)]
    with open(places["secret"], "rb") as inherited:
        process = subprocess.run(
            command,
            input=json.dumps([name, places]),
            pass_fds=[inherited.fileno()],
            capture_output=True,
            text=True,
            cwd=places["work"],
            timeout=60,
        )
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


def confined(name, places, by="landlock"):
    """The reply to the same attack in a confined process, granted what a stage is granted."""
    grant = Grant(read=(Path(places["granted"]),), write=(Path(places["work"]),))
    arguments = {"name": name, "places": places}
    with open(places["secret"], "rb") as inherited:
        os.set_inheritable(inherited.fileno(), True)
        job = "sfdabench_plugins.attacks:attempt"
        with client.process(job, arguments, grant, lock=by) as process:
            return process.result()


def has_loot(reply, places):
    work = [path for path in Path(places["work"]).rglob("*") if path.is_file()]
    return SECRET in (reply["loot"] or "") or any(SECRET.encode() in p.read_bytes() for p in work)


def only_root(name):
    if name in names("ROOT") and os.geteuid() != 0:
        pytest.skip("only root can try it")


@contextlib.contextmanager
def opened_again_and_again(path):
    over = threading.Event()

    def keep_opening():
        while not over.wait(0.02):
            Path(path).read_bytes()

    thread = threading.Thread(target=keep_opening)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@landlock
@pytest.mark.parametrize("name", names("READS"))
def test_nothing_closed_is_read(name, places):
    only_root(name)
    watched = name == "watch_what_others_open"
    with opened_again_and_again(places["secret"]) if watched else contextlib.nullcontext():
        reply = confined(name, places)
        assert not has_loot(reply, places), reply
        reply = without_lock(name, places)
    deadline = time.monotonic() + 10
    while not has_loot(reply, places) and time.monotonic() < deadline:
        time.sleep(0.05)  # a daemon may still be at it
    assert has_loot(reply, places), f"the attack proves nothing: {reply}"


@landlock
@pytest.mark.parametrize("name", names("REACHES"))
def test_no_other_process_is_reached(name, places):
    only_root(name)
    received = []
    before = signal.signal(signal.SIGUSR1, lambda *_: received.append(1))
    try:
        reply = confined(name, places)
        assert reply["loot"] is None
        assert not received
        reply = without_lock(name, places)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert reply["loot"] is not None, f"the attack proves nothing: {reply}"


def state(places):
    """All that an attacker must not change."""
    outside = Path(places["outside"])
    files = {
        str(path.relative_to(outside)): path.read_bytes() if path.is_file() else None
        for path in outside.rglob("*")
    }
    mailboxes = [Path(places[name]).exists() for name in ("shared", "temporary", "home")]
    return files, mailboxes, ctypes.c_double.from_address(places["score"]).value


@landlock
@pytest.mark.parametrize("name", names("WRITES"))
def test_nothing_outside_is_changed(name, places):
    before = state(places)
    reply = confined(name, places)
    assert state(places) == before, reply
    reply = without_lock(name, places)
    assert state(places) != before, f"the attack proves nothing: {reply}"


@landlock
@pytest.mark.skipif(lock.abi() > 7, reason="a newer interface may cover more")
@pytest.mark.parametrize("name", names("NOT_COVERED"))
def test_what_the_readme_says_is_not_covered(name, places):
    assert confined(name, places)["loot"]


@pytest.mark.parametrize("name", [*names("READS"), *names("REACHES"), *names("WRITES")])
def test_the_audit_hook_stops_it_as_well(name, places):
    """As far as it goes through Python; it is a fence, and native code can step over it."""
    before = state(places)
    received = []
    handler = signal.signal(signal.SIGUSR1, lambda *_: received.append(1))
    try:
        reply = confined(name, places, by="audit hook")
    except ContractBreach:
        reply = {"loot": None}
    finally:
        signal.signal(signal.SIGUSR1, handler)
    assert not has_loot(reply, places)
    assert name in names("READS") or reply["loot"] is None
    assert state(places) == before
    assert not received


def test_no_secret_is_in_the_memory_that_it_was_forked_with():
    """The parent holds one, and so did each parent of a job before."""
    here = {}
    exec(compile(ATTACKS.read_text(encoding="utf-8"), ATTACKS, "exec"), here)
    assert here["own_memory"](None), "the search finds what is there"
    assert client.call("sfdabench_plugins.attacks:own_memory", {}, Grant()) == []


def test_enough_of_them():
    tables = [names(table) for table in ("READS", "WRITES", "REACHES")]
    assert sum(map(len, tables)) >= 60
