"""Errors of the operating system name the file and the cure."""

import errno
import fcntl
import os

import pytest

from sfdabench.core.errors import BadInput, DataFault
from sfdabench.core.files import held
from sfdabench.core.system_errors import CURES, explain
from sfdabench.formats import pictures, volumes


def system_error(number, *where):
    return OSError(number, os.strerror(number), *where)


@pytest.mark.parametrize("number", CURES)
def test_each_names_the_file_the_reason_and_the_cure(number):
    line = explain(system_error(number, "a/b.bin"))
    assert line == f"a/b.bin: {os.strerror(number)}; {CURES[number]}"
    assert explain(system_error(number), "c.bin").startswith("c.bin: ")


def test_others_name_what_they_can():
    assert explain(MemoryError(), "a.nii") == (
        "a.nii: memory is used up; lower --jobs, or close other programs"
    )
    assert explain(OSError("image file is truncated")) == "image file is truncated"


@pytest.mark.parametrize("name", ["a.png", "a.nii", "a.nii.gz"])
@pytest.mark.parametrize("number", [errno.EMFILE, errno.ESTALE, errno.EIO])
def test_a_file_that_cannot_be_opened_is_not_called_broken(tmp_path, monkeypatch, name, number):
    (tmp_path / name).write_bytes(bytes(4096))

    def refuse(*_, **__):
        raise system_error(number)

    monkeypatch.setattr("builtins.open", refuse)
    monkeypatch.setattr("pathlib.Path.open", refuse)
    read = pictures.read if name == "a.png" else volumes.read_nifti
    with pytest.raises(DataFault) as fault:
        read(tmp_path / name)
    assert str(fault.value) == f"{tmp_path / name}: {os.strerror(number)}; {CURES[number]}"


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK])
def test_a_file_system_without_locks_is_no_endless_wait(tmp_path, monkeypatch, number):
    """A lock file of an earlier run lies there, which nobody holds."""
    (tmp_path / "x.lock").write_text("")

    def refuse(*_):
        raise system_error(number)

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(BadInput, match="has no locks"), held(tmp_path / "x", pytest.fail):
        pytest.fail("it has no lock")


def test_the_command_says_it_in_one_line(sfdabench, monkeypatch):
    monkeypatch.setattr("sfdabench.core.registry.names", lambda kind: fail(system_error(28, "/x")))
    code, _, err = sfdabench("list", "methods")
    assert code == 1
    assert err == f"sfdabench: /x: {os.strerror(28)}; {CURES[errno.ENOSPC]}\n"
    monkeypatch.setattr("sfdabench.core.registry.names", lambda kind: fail(MemoryError()))
    assert sfdabench("list", "methods")[2].startswith("sfdabench: memory is used up; lower")


def fail(error):
    raise error
