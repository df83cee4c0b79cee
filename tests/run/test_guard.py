import contextlib
import os
import subprocess
import sys

import numpy as np
import pytest

from sfdabench.core.errors import ContractBreach
from sfdabench.run.guard import closed


@pytest.fixture
def secret(tmp_path):
    folder = tmp_path / "labels"
    folder.mkdir()
    np.save(folder / "labels.npy", np.arange(3))
    return folder / "labels.npy"


@pytest.mark.parametrize(
    "read",
    [
        lambda p: p.read_bytes(),
        lambda p: p.open("rb"),
        lambda p: os.open(p, os.O_RDONLY),
        lambda p: np.load(p, mmap_mode="r"),
        lambda p: p.rename(p.with_name("other")),
        lambda p: os.link(p, p.with_name("link")),
        lambda p: p.with_name("soft").symlink_to(p),
        lambda p: subprocess.run(["cat", str(p)], check=False),
        lambda p: os.system(f"cat {p}"),
    ],
    ids=["read", "open", "os.open", "numpy", "rename", "link", "symlink", "process", "system"],
)
def test_a_closed_file_is_refused(secret, read):
    with pytest.raises(ContractBreach, match="while adapting"), closed([secret]):
        read(secret)


def test_a_folder_closes_what_is_below_it(secret):
    with pytest.raises(ContractBreach, match=r"labels\.npy"), closed([secret.parent]):
        secret.read_bytes()


def test_what_is_granted_stays_open_below_a_closed_folder(secret):
    granted = secret.parent / "granted"
    granted.mkdir()
    (granted / "images.bin").write_bytes(b"x")
    with closed([secret.parent], [granted]):
        assert (granted / "images.bin").read_bytes() == b"x"
    with pytest.raises(ContractBreach, match=r"labels\.npy"), closed([secret.parent], [granted]):
        secret.read_bytes()
    (granted / "link").symlink_to(secret)
    with pytest.raises(ContractBreach), closed([secret.parent], [granted]):
        (granted / "link").read_bytes()


def test_another_name_for_the_file_is_refused(secret, tmp_path):
    (tmp_path / "alias.npy").symlink_to(secret)
    with pytest.raises(ContractBreach), closed([secret]):
        (tmp_path / "alias.npy").read_bytes()


def test_a_swallowed_breach_still_fails_the_run(secret):
    def sly():
        with contextlib.suppress(ContractBreach):
            secret.read_bytes()

    with pytest.raises(ContractBreach, match="labels"), closed([secret]):
        sly()


def test_other_files_stay_open_and_so_does_this_one_afterwards(secret, tmp_path):
    (tmp_path / "open.txt").write_text("x")
    with closed([secret]):
        assert (tmp_path / "open.txt").read_text() == "x"
    assert secret.read_bytes()
    subprocess.run([sys.executable, "-c", ""], check=True)
