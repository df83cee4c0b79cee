"""Files that are written whole or not at all."""

import os
import stat

import pytest

from sfdabench.core.files import atomic


@pytest.mark.skipif(os.name != "posix", reason="a umask is POSIX's")
@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_a_file_is_as_open_as_the_users_umask_says(umask, tmp_path):
    before = os.umask(umask)
    try:
        with atomic(tmp_path / "a.json") as file:
            file.write("x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.json").stat().st_mode) == 0o666 & ~umask


def test_a_failure_leaves_the_old_file_and_no_other(tmp_path):
    (tmp_path / "a.json").write_text("old")

    def half_way():
        with atomic(tmp_path / "a.json") as file:
            file.write("ne")
            raise ValueError("half way")

    with pytest.raises(ValueError, match="half way"):
        half_way()
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert (tmp_path / "a.json").read_text() == "old"
