"""What a process reads from the cache is noted as long as it lives, and no longer."""

import os
import signal
import subprocess
import sys

from sfdabench.core.in_use import FOLDER, in_use, note, users

READER = """
import sys
from pathlib import Path
from sfdabench.core.in_use import in_use, note
with in_use():
    note(Path(sys.argv[1]))
    print("noted", flush=True)
    sys.stdin.read()
"""


def reader(thing):
    """A process that has noted a thing, and ends with its standard input."""
    process = subprocess.Popen(
        [sys.executable, "-c", READER, str(thing)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout.readline() == b"noted\n"
    return process


def test_a_scope_notes_what_it_is_given_until_it_ends(tmp_path):
    with in_use():
        assert not (tmp_path / FOLDER).exists()
        note(tmp_path / "prepared" / "a")
        note(tmp_path / "stages" / "b")
        assert users(tmp_path).keys() == {"prepared/a", "stages/b"}
        assert f"process {os.getpid()} on " in users(tmp_path)["stages/b"]
    assert users(tmp_path) == {}
    assert list((tmp_path / FOLDER).iterdir()) == []


def test_an_error_ends_a_scope_too(tmp_path):
    try:
        with in_use():
            note(tmp_path / "prepared" / "a")
            raise RuntimeError
    except RuntimeError:
        assert users(tmp_path) == {}


def test_scopes_inside_each_other_and_none(tmp_path):
    note(tmp_path / "prepared" / "outside")
    assert not (tmp_path / FOLDER).exists()
    with in_use():
        note(tmp_path / "prepared" / "outer")
        with in_use():
            note(tmp_path / "prepared" / "inner")
        assert users(tmp_path).keys() == {"prepared/outer"}


def test_another_process_is_named_while_it_lives(tmp_path):
    process = reader(tmp_path / "prepared" / "a")
    assert f"process {process.pid} on " in users(tmp_path)["prepared/a"]
    process.communicate()
    assert users(tmp_path) == {}


def test_a_killed_process_uses_nothing_at_once(tmp_path):
    process = reader(tmp_path / "prepared" / "a")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert list((tmp_path / FOLDER).glob("*.txt"))
    assert users(tmp_path) == {}
    assert list((tmp_path / FOLDER).iterdir()) == []
