"""A preparation that is killed, damaged meanwhile, or too large for the disk."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from sfdabench.core.dataset import Case
from sfdabench.core.errors import BadInput
from sfdabench.core.files import sha256_file
from sfdabench.prepare import writer


class Killed(BaseException):
    pass


@pytest.fixture
def killed(fake, make, tmp_path, monkeypatch):
    """Six cases, the work folder of a preparation killed after three of them, a call that goes on
    (arrays, what was said, cases read), and the files of one that was never killed.
    """
    monkeypatch.setattr(writer, "MOST_WORKERS", 1)
    cases = []
    for i in range(6):
        (tmp_path / f"{i}.png").write_bytes(b"i")
        (tmp_path / f"{i}_mask.png").write_bytes(b"m")
        cases.append(Case(str(i), "train", (tmp_path / f"{i}.png",), (tmp_path / f"{i}_mask.png",)))
    read, real = [], fake.read_image

    def counting(self, case, channels=()):
        read.append(case.id)
        image, spacing = real(self, case)
        image[2] = int(case.id)
        return image, spacing

    monkeypatch.setattr(fake, "read_image", counting)
    undisturbed = make(cases)

    def kill(done, total):
        if done == 3:
            raise Killed

    with pytest.raises(Killed):
        make(cases, content="again", advance=kill)
    (work,) = (tmp_path / "cache" / "prepared").glob(".*.work")

    def go_on():
        said = []
        read.clear()
        return make(cases, said, content="again"), said, list(read)

    yield work, go_on
    again = make(cases, content="again")
    for old, new in zip(undisturbed.folders, again.folders, strict=True):
        for path in old.glob("*.bin"):
            assert sha256_file(new / path.name) == sha256_file(path)
    assert [case.id for case in again.cases] == [case.id for case in undisturbed.cases]
    assert not work.exists()


def test_it_goes_on_where_it_stopped(killed):
    work, go_on = killed
    with (work / "images" / "images.bin").open("ab") as file:
        file.write(b"half a case")
    with (work / "log.jsonl").open("a") as file:
        file.write('{"id": "3", "half')
    split, said, read = go_on()
    assert said == [f"{work.name}: goes on after 3 of 6 cases"]
    assert read == ["3", "4", "5"]
    assert split.original(5).shape == (40, 40)


@pytest.mark.parametrize(
    ("name", "size", "kept"),
    [
        ("images/images.bin", 2 * 1200 + 7, 2),
        ("labels/labels.bin", 1 * 400 + 399, 1),
        ("labels/originals.bin", 0, 0),
    ],
)
def test_a_short_file_is_not_filled_up_with_zeros(killed, name, size, kept):
    work, go_on = killed
    os.truncate(work / name, size)
    _, said, read = go_on()
    assert said[0] == f"{work.name}: case {kept} is not as it was written"
    assert said[1:] == [f"{work.name}: goes on after {kept} of 6 cases"] * (kept > 0)
    assert read == [str(i) for i in range(kept, 6)]


@pytest.mark.parametrize("name", ["images/images.bin", "labels/labels.bin"])
def test_a_damaged_case_and_all_after_it_are_made_again(killed, name):
    work, go_on = killed
    path = work / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    _, said, read = go_on()
    assert said[0] == f"{work.name}: case 1 is not as it was written"
    assert read == ["1", "2", "3", "4", "5"]


def other_box(line):
    whole = json.loads(line)
    whole["body"]["images"]["box"] = [0, 0, 40, 40]
    return json.dumps(whole)


@pytest.mark.parametrize(
    ("edit", "kept"),
    [
        (lambda lines: [lines[0], other_box(lines[1]), lines[2]], 1),
        (lambda lines: [lines[1], lines[0], lines[2]], 0),
        (lambda lines: [lines[0], lines[2]], 1),
        (lambda lines: ["[]", *lines], 0),
        (lambda lines: ["[" * 100_000], 0),
        (lambda lines: [*lines, "null"], 3),
    ],
    ids=["edited", "swapped", "left out", "odd", "deep", "odd end"],
)
def test_a_line_counts_only_as_it_was_written(killed, edit, kept):
    work, go_on = killed
    log = work / "log.jsonl"
    log.write_text("\n".join(edit(log.read_text().splitlines())) + "\n")
    _, _, read = go_on()
    assert read == [str(i) for i in range(kept, 6)]


def test_a_log_that_is_no_text_counts_for_nothing(killed):
    work, go_on = killed
    (work / "log.jsonl").write_bytes(b"\xff\xfe\x00" * 100)
    assert go_on()[2] == ["0", "1", "2", "3", "4", "5"]


def test_what_is_no_file_is_removed(killed):
    work, go_on = killed
    (work / "images" / "images.bin").unlink()
    (work / "images" / "images.bin").mkdir()
    (work / "log.jsonl").unlink()
    (work / "log.jsonl").mkdir()
    assert go_on()[2] == ["0", "1", "2", "3", "4", "5"]


def test_killed_while_it_closed(killed):
    work, go_on = killed
    (work / "images" / ".index.json.1a2b3c4d.tmp").write_text("half")
    (work / ".log.jsonl.1a2b3c4d.tmp").write_text("half")
    split, _, _ = go_on()
    assert {path.name for path in split.images_folder.iterdir()} == {"images.bin", "index.json"}


def test_killed_between_its_two_folders(killed):
    work, go_on = killed
    split, _, _ = go_on()
    shutil.copytree(split.images_folder, work / "images")
    shutil.rmtree(split.images_folder)
    again, said, read = go_on()
    assert read == ["0", "1", "2", "3", "4", "5"]
    assert said[0] == (f"cache {split.images_folder / 'index.json'}: missing file; made anew")
    assert again == split


def test_killed_when_all_was_in_place(killed):
    work, go_on = killed
    go_on()
    work.mkdir()
    (work / "log.jsonl").write_text("")
    assert go_on()[1:] == ([], [])


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="names files by Linux's /proc")
def test_bytes_are_on_the_disk_before_their_line_is_logged(cases, make, monkeypatch):
    seen, real = [], os.fsync

    def fsync(handle):
        path = Path(f"/proc/self/fd/{handle}").readlink()
        if path.suffix == ".bin":
            seen.append((path.name, (path.parent.parent / "log.jsonl").stat().st_size))
        real(handle)

    monkeypatch.setattr(writer, "SYNC_EVERY", 0)
    monkeypatch.setattr(os, "fsync", fsync)
    make(cases)
    names = [name for name, _ in seen]
    assert names[:3] == ["images.bin", "labels.bin", "originals.bin"]
    assert [size for _, size in seen[:3]] == [0, 0, 0]
    assert seen[3][1] > 0


def test_a_full_disk_is_said_before_much_is_written(cases, make, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(writer.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(BadInput, match="SFDABENCH_CACHE"):
        make(cases)


def test_a_killed_preparation_asks_the_disk_for_what_is_left(cases, make, tmp_path, monkeypatch):
    def kill(done, total):
        raise Killed

    with pytest.raises(Killed):
        make(cases, advance=kill)
    usage = shutil.disk_usage(tmp_path)

    def leave(free):
        monkeypatch.setattr(writer.shutil, "disk_usage", lambda path: usage._replace(free=free))

    leave(1000)
    with pytest.raises(BadInput, match="preparing 1 cases"):
        make(cases)
    # A case takes 1200 bytes of image, 400 of label, a few of its original; 1.2 times all that fits
    # once, not twice.
    leave(3000)
    assert make(cases).ids == ("a", "b")


def test_a_case_of_another_kind_is_named(cases, make, fake, monkeypatch):
    def image(self, case, channels=()):
        return np.zeros((3 if case.id == "a" else 1, 40, 40), np.float32), None

    monkeypatch.setattr(fake, "read_image", image)
    with pytest.raises(BadInput, match="b: 1 channels, the cases before it 3"):
        make(cases)
