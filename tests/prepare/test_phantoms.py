"""Phantoms in the cache: drawn once, checked on every use."""

import importlib
import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from sfdabench.core import registry
from sfdabench.core.dataset import Dataset
from sfdabench.core.files import hashed, held, remove, sha256_file
from sfdabench.prepare import phantoms
from sfdabench.prepare.phantoms import phantom_root

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


def test_a_phantom_is_drawn_anew_when_a_writer_of_images_changes(tmp_path, monkeypatch):
    import sfdabench.formats

    class Drawing(Dataset):
        def phantom(self, root, seed):
            root.joinpath("drawn").write_text("drawn")

    copy = tmp_path / "formats"
    shutil.copytree(next(iter(sfdabench.formats.__path__)), copy)
    monkeypatch.setattr(sfdabench.formats, "__path__", [str(copy)])
    first = phantom_root("drawing", Drawing(), tmp_path / "cache", print)
    assert phantom_root("drawing", Drawing(), tmp_path / "cache", print) == first
    pictures = copy / "pictures.py"
    pictures.write_text(pictures.read_text() + "# changed")
    assert phantom_root("drawing", Drawing(), tmp_path / "cache", print) != first


def changed(path):
    """Another content of the same size; the clock of the disk may not have moved on since."""
    path.write_bytes(path.read_bytes()[::-1])
    os.utime(path, ns=(1, 1))


def edited(index):
    """Another content hash of one file in the index."""
    whole = json.loads(index.read_text())
    whole["body"]["files"]["a.jpg"]["sha256"] = "0" * 64
    index.write_text(json.dumps(whole))


class Sketch(registry.load("datasets", "tiny_target")):
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
        (lambda root: Path(f"{root}.json").write_text(hashed({"files": []})), "its index cannot"),
        (lambda root: Path(f"{root}.json").write_text("null"), "its index cannot"),
        (lambda root: Path(f"{root}.json").write_text('{"a.jp'), "its index cannot"),
        (lambda root: edited(Path(f"{root}.json")), "its index cannot"),
        (lambda root: (Path(f"{root}.json").unlink(), Path(f"{root}.json").mkdir()), "its index"),
        (lambda root: (shutil.rmtree(root), root.write_text("x")), "a.jpg is missing"),
    ],
    ids=[
        *("cut", "changed", "removed", "added", "no index", "odd index", "null", "cut index"),
        *("edited index", "folder", "file"),
    ],
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


def test_a_sound_phantom_is_answered_while_another_process_holds_it(sketch):
    root, ask, said = sketch
    with held(root, lambda line: None):
        assert ask() == root
    assert said == []


def test_a_phantom_that_is_taken_away_during_a_look_is_drawn_anew(sketch, monkeypatch):
    root, ask, said = sketch
    stamp = phantoms.stamp

    def too_late(path):
        remove(root)
        return stamp(path)

    monkeypatch.setattr(phantoms, "stamp", too_late)
    assert ask() == root
    assert (root / "a.jpg").read_bytes() == b"image"
    assert said == []


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


def test_what_killed_processes_left_is_removed(sketch):
    root, ask, said = sketch
    (root.parent / f".{root.name}.1a2b3c4d" / "masks").mkdir(parents=True)
    (root.parent / f".{root.name}.json.1a2b3c4d.tmp").write_text("half")
    (root.parent / f".{root.name}-of-another.1a2b3c4d").mkdir()
    ask()
    left = [path.name for path in root.parent.glob(".*")]
    assert left == [f".{root.name}-of-another.1a2b3c4d"]
    assert said == []
