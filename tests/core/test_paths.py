"""Folders are looked at before anything is computed, and left as they were."""

import os
import shutil

import pytest

from sfdabench.core.errors import BadInput
from sfdabench.core.paths import check_writable


def test_a_check_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in (tmp_path / "a" / "b", type(tmp_path)("a"), tmp_path):
        assert check_writable(folder, "--out") <= shutil.disk_usage(tmp_path).total
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "absent")
    for name in ("file", "file/below", "link", "link/below"):
        with pytest.raises(BadInput, match=f"--out {tmp_path / name}: cannot be written"):
            check_writable(tmp_path / name, "--out")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_above_that_is_closed(tmp_path):
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(BadInput, match="cannot be written"):
        check_writable(tmp_path / "closed" / "new", "--out")


def test_room_is_that_of_the_disk_it_would_lie_on(tmp_path):
    with pytest.raises(BadInput, match="needed; free some"):
        check_writable(tmp_path / "new", "--out", need_bytes=2**70)
