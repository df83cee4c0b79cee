import contextlib
import importlib
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from sfdabench.core import registry
from sfdabench.core.dataset import Case
from sfdabench.core.errors import BadInput, DataFault
from sfdabench.core.files import sha256_file
from sfdabench.prepare import arrays, phantoms
from sfdabench.prepare.arrays import prepare
from sfdabench.prepare.manifest import manifest
from sfdabench.prepare.phantoms import phantom_root
from sfdabench.prepare.planes import Preparation

CAMERA = registry.load("datasets", "tiny_target")


class Fake(CAMERA):
    """Two 40x40 frames whose pixels say where they are; the disc is off centre."""

    frame_crop = 0.5

    def read_image(self, case, channels=()):
        image = np.zeros((3, 40, 40), np.float32)
        image[0] = np.arange(40)[:, None]
        image[1] = np.arange(40)[None]
        return image, None

    def read_label(self, case):
        label = np.zeros((40, 40), np.uint8)
        label[20:30, 8:18] = 1
        label[23:27, 11:15] = 2
        return label


@pytest.fixture
def cases(tmp_path):
    files = []
    for name in ("a", "b"):
        (tmp_path / f"{name}.png").write_bytes(name.encode())
        (tmp_path / f"{name}_mask.png").write_bytes(b"mask")
        files.append(
            Case(name, "train", (tmp_path / f"{name}.png",), (tmp_path / f"{name}_mask.png",))
        )
    return files


def made(cases, tmp_path, said=None, **changes):
    values = {"content": "c", "dataset": Fake(), **changes}
    how = {"size": 20, "crop": "disc", "intensity": "symmetric", "by_label": True}
    how |= {name: value for name, value in values.items() if name not in ("content", "dataset")}
    return prepare(
        values["dataset"],
        "fake",
        cases,
        Preparation(**how),
        content=values["content"],
        cache=tmp_path / "cache",
        report=(said if said is not None else []).append,
    )


def test_a_source_frame_is_cut_around_its_disc(cases, tmp_path):
    split = made(cases, tmp_path)
    assert split.geometry[0].shape == (40, 40)
    top, left, height, width = split.geometry[0].box
    assert (height, width) == (20, 20)
    assert (top, left) == (14, 2)  # centroid (24.5, 12.5), 10 px to each side, half to even
    image = split.images()[0]
    assert image.dtype == np.uint8
    assert image[0, 0, 0] == top
    assert image[1, 0, 0] == left
    assert (split.labels()[0] == Fake().read_label(None)[14:34, 2:22]).all()
    assert split.original(0).shape == (40, 40)


def test_a_target_frame_is_cut_without_its_label(cases, tmp_path, monkeypatch):
    seen = []

    def locate(image):
        seen.append(image.shape)
        return 30.0, 30.0

    monkeypatch.setattr("sfdabench.prepare.disc_region.locate_disc", locate)
    split = made(cases, tmp_path, by_label=False)
    assert split.geometry[0].box == (20, 20, 20, 20)
    assert len(seen) == 2


def test_labels_are_resized_by_nearest_neighbour(cases, tmp_path):
    split = made(cases, tmp_path, size=33)
    assert set(np.unique(split.labels())) == {0, 1, 2}


def test_it_is_made_once_and_keyed_by_content(cases, tmp_path):
    one, again = made(cases, tmp_path), made(cases, tmp_path)
    assert one.folder == again.folder
    for changes in ({"content": "d"}, {"size": 16}, {"crop": "none"}):
        assert made(cases, tmp_path, **changes).folder != one.folder


@pytest.mark.parametrize("name", ["images.bin", "labels.bin", "originals.bin", "index.json"])
def test_a_corrupt_file_is_found_by_its_hash_and_made_anew(cases, tmp_path, name):
    split = made(cases, tmp_path)
    before = np.array(split.images())
    data = bytearray((split.folder / name).read_bytes())
    data[len(data) // 2] ^= 255
    (split.folder / name).write_bytes(data)
    said = []
    again = made(cases, tmp_path, said)
    assert any("made anew" in line for line in said)
    assert (again.images() == before).all()
    said.clear()
    made(cases, tmp_path, said)
    assert said == []


def test_a_missing_file_is_made_anew(cases, tmp_path):
    (made(cases, tmp_path).folder / "labels.bin").unlink()
    said = []
    made(cases, tmp_path, said)
    assert "labels.bin" in said[0]


def test_a_fault_leaves_nothing_half_made(cases, tmp_path, monkeypatch):
    def broken(self, case, channels=()):
        if case.id == "b":
            raise DataFault("b.png: broken")
        return np.zeros((3, 40, 40), np.float32), None

    monkeypatch.setattr(Fake, "read_image", broken)
    with pytest.raises(DataFault, match=r"b\.png"):
        made(cases, tmp_path)
    assert not [p for p in (tmp_path / "cache" / "prepared").iterdir() if p.is_dir()]


def test_unlabelled_cases_have_no_labels(cases, tmp_path, monkeypatch):
    monkeypatch.setattr("sfdabench.prepare.disc_region.locate_disc", lambda image: (20.0, 20.0))
    bare = [Case(c.id, c.split, c.image) for c in cases]
    split = made(bare, tmp_path, by_label=False)
    with pytest.raises(DataFault, match="without labels"):
        split.labels()


def test_an_uncropped_oblong_is_an_error(cases, tmp_path, monkeypatch):
    monkeypatch.setattr(
        Fake,
        "read_image",
        lambda self, case, channels=(): (np.zeros((3, 40, 50), np.float32), None),
    )
    with pytest.raises(DataFault, match="40x50 is not square"):
        made(cases, tmp_path, crop="none")


def test_manifest_follows_content_names_and_order(cases, tmp_path):
    def now():
        return manifest(cases, tmp_path, tmp_path / "cache")

    before = now()
    assert now() == before
    memo = next((tmp_path / "cache" / "manifests").iterdir())
    memo.write_text("{broken")
    assert now() == before
    (tmp_path / "a_mask.png").write_bytes(b"another mask")
    assert now() != before
    cases.reverse()
    assert now() != before


def test_a_manifest_says_how_far_it_is_where_it_has_files_to_read(cases, tmp_path):
    seen = []

    def now():
        stage = contextlib.nullcontext(lambda done, total: seen.append((done, total)))
        return manifest(cases, tmp_path, tmp_path / "cache", lambda: stage)

    assert now() == now()
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    seen.clear()
    (tmp_path / "a_mask.png").write_bytes(b"another mask")
    now()
    assert seen == [(1, 1)]


class Killed(BaseException):
    pass


def test_a_killed_preparation_goes_on_where_it_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "MOST_WORKERS", 1)
    cases = []
    for i in range(6):
        (tmp_path / f"{i}.png").write_bytes(b"i")
        (tmp_path / f"{i}_mask.png").write_bytes(b"m")
        cases.append(Case(str(i), "train", (tmp_path / f"{i}.png",), (tmp_path / f"{i}_mask.png",)))
    read, real = [], Fake.read_image

    def counting(self, case, channels=()):
        read.append(case.id)
        image, spacing = real(self, case)
        image[2] = int(case.id)
        return image, spacing

    monkeypatch.setattr(Fake, "read_image", counting)
    undisturbed = np.array(made(cases, tmp_path).images())

    def kill(done, total):
        if done == 3:
            raise Killed

    how = Preparation(size=20, crop="disc", intensity="symmetric", by_label=True)
    arguments = (Fake(), "fake", cases, how)
    again = {"content": "again", "cache": tmp_path / "cache", "report": read.append}
    with pytest.raises(Killed):
        prepare(*arguments, **again, advance=kill)
    work = next((tmp_path / "cache" / "prepared").glob(".*.work"))
    with (work / "images.bin").open("ab") as file:
        file.write(b"half a case")
    with (work / "log.jsonl").open("a") as file:
        file.write('{"id": "3", "half')
    read.clear()
    split = prepare(*arguments, **again)
    assert read == [f"{work.name}: goes on after 3 of 6 cases", "3", "4", "5"]
    assert (split.images() == undisturbed).all()
    assert split.original(5).shape == (40, 40)
    assert not work.exists()


def test_a_full_disk_is_said_before_much_is_written(cases, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(arrays.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(BadInput, match="SFDABENCH_CACHE"):
        made(cases, tmp_path)


def test_a_killed_preparation_asks_the_disk_for_what_is_left(cases, tmp_path, monkeypatch):
    def kill(done, total):
        raise Killed

    how = Preparation(size=20, crop="disc", intensity="symmetric", by_label=True)
    arguments = (Fake(), "fake", cases, how)
    settings = {"content": "c", "cache": tmp_path / "cache", "report": print}
    with pytest.raises(Killed):
        prepare(*arguments, **settings, advance=kill)
    usage = shutil.disk_usage(tmp_path)

    def leave(free):
        monkeypatch.setattr(arrays.shutil, "disk_usage", lambda path: usage._replace(free=free))

    leave(1000)
    with pytest.raises(BadInput, match="preparing 1 cases"):
        prepare(*arguments, **settings)
    # A case takes 1200 bytes of image, 400 of label, a few of its original; 1.2 times all that fits
    # once, not twice.
    leave(3000)
    assert prepare(*arguments, **settings).ids == ("a", "b")


ADAPTER = """
from sfdabench.core.dataset import Dataset

class {name}(Dataset):
    def phantom(self, root, seed):
        root.joinpath("drawn").write_text("by {name}")
"""


@pytest.mark.parametrize("changed", ["drawing_base.py", "drawing_heir.py", "_shared.py"])
def test_a_phantom_is_drawn_anew_when_code_it_depends_on_changes(changed, tmp_path, monkeypatch):
    folder = tmp_path / "adapters"
    folder.mkdir()
    (folder / "drawing_base.py").write_text(ADAPTER.format(name="Base"))
    (folder / "drawing_heir.py").write_text(
        "from drawing_base import Base\n\nclass Heir(Base):\n    pass\n"
    )
    (folder / "_shared.py").write_text("")
    (folder / "another.py").write_text("")
    monkeypatch.syspath_prepend(folder)
    for name in ("drawing_base", "drawing_heir"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    dataset = importlib.import_module("drawing_heir").Heir()

    def root():
        return phantom_root("heir", dataset, tmp_path / "cache", print)

    first = root()
    assert (first / "drawn").read_text() == "by Base"
    (folder / "another.py").write_text("# changed")
    assert root() == first
    (folder / changed).write_text((folder / changed).read_text() + "# changed")
    assert root() != first
    assert (root() / "drawn").exists()


def changed(path):
    """Another content of the same size; the clock of the disk may not have moved on since."""
    path.write_bytes(path.read_bytes()[::-1])
    os.utime(path, ns=(1, 1))


class Sketch(CAMERA):
    """Draws two files, the second in a folder."""

    def phantom(self, root, seed):
        (root / "masks").mkdir()
        (root / "a.jpg").write_bytes(b"image")
        (root / "masks" / "a.png").write_bytes(b"mask")


@pytest.fixture
def sketch(tmp_path):
    """The drawn phantom, a call that asks for it again, and what was said."""
    said = []

    def ask():
        return phantom_root("sketch", Sketch(), tmp_path / "cache", said.append)

    return ask(), ask, said


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda root: (root / "a.jpg").write_bytes(b"ima"), "a.jpg does not have"),
        (lambda root: changed(root / "a.jpg"), "a.jpg does not have"),
        (lambda root: (root / "masks" / "a.png").unlink(), "masks/a.png is missing"),
        (lambda root: (root / "b.jpg").write_bytes(b"image"), "b.jpg was not drawn"),
        (lambda root: Path(f"{root}.json").unlink(), "its index cannot be read"),
        (lambda root: Path(f"{root}.json").write_text('{"a.jpg": null}'), "its index cannot"),
        (lambda root: Path(f"{root}.json").write_text('{"a.jp'), "its index cannot"),
    ],
    ids=["cut", "changed", "removed", "added", "no index", "odd index", "cut index"],
)
def test_a_phantom_that_is_not_as_it_was_drawn_is_drawn_anew(sketch, spoil, why):
    root, ask, said = sketch
    spoil(root)
    assert ask() == root
    (line,) = said
    assert line.startswith(f"phantom {root.name}: {why}")
    assert line.endswith("drawn anew")
    files = {path.name: path.read_bytes() for path in root.rglob("*.*")}
    assert files == {"a.jpg": b"image", "a.png": b"mask"}
    assert ask() == root
    assert len(said) == 1
    assert not list(root.parent.glob(f".{root.name}.*"))


def test_a_sound_phantom_is_not_read_again_and_may_be_touched(sketch, monkeypatch):
    root, ask, said = sketch
    monkeypatch.setattr(Sketch, "phantom", None)
    read = []
    monkeypatch.setattr(
        phantoms, "sha256_file", lambda path: read.append(path) or sha256_file(path)
    )
    ask()
    assert read == []
    os.utime(root / "a.jpg", ns=(1, 1))
    ask()
    assert (read, said) == ([root / "a.jpg"], [])


def test_a_drawing_that_fails_keeps_what_was_there(sketch, monkeypatch):
    root, ask, _ = sketch
    (root / "a.jpg").write_bytes(b"ima")

    def fail(self, root, seed):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Sketch, "phantom", fail)
    with pytest.raises(OSError, match="No space"):
        ask()
    assert (root / "masks" / "a.png").exists()
    assert not list(root.parent.glob(f".{root.name}.*"))
