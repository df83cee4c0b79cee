"""Prepared arrays: what is in them, what a subset is, and that nothing false is read."""

import json
import os
import shutil

import numpy as np
import pytest

from sfdabench.core.dataset import Case
from sfdabench.core.errors import BadInput, DataFault
from sfdabench.core.files import hashed, read_hashed, write_hashed
from sfdabench.prepare.arrays import Prepared


def test_a_source_frame_is_cut_around_its_disc(cases, make, fake):
    split = make(cases)
    place = split.cases[0].geometry
    assert place.shape == (40, 40)
    top, left, height, width = place.box
    assert (height, width) == (20, 20)
    assert (top, left) == (14, 2)  # centroid (24.5, 12.5), 10 px to each side, half to even
    image = split.images()[0]
    assert image.dtype == np.uint8
    assert image[0, 0, 0] == top
    assert image[1, 0, 0] == left
    assert (split.labels()[0] == fake().read_label(None)[14:34, 2:22]).all()
    assert split.original(0).shape == (40, 40)


def test_a_target_frame_is_cut_without_its_label(cases, make, monkeypatch):
    seen = []

    def locate(image):
        seen.append(image.shape)
        return 30.0, 30.0

    monkeypatch.setattr("sfdabench.prepare.disc_region.locate_disc", locate)
    split = make(cases, by_label=False)
    assert split.cases[0].geometry.box == (20, 20, 20, 20)
    assert len(seen) == 2


def test_labels_are_resized_by_nearest_neighbour(cases, make):
    assert set(np.unique(make(cases, size=33).labels())) == {0, 1, 2}


def test_it_is_made_once_and_keyed_by_content_and_code(cases, make):
    split, again = make(cases), make(cases)
    assert split.folders == again.folders
    for changes in ({"content": "d"}, {"size": 16}, {"crop": "none"}, {"code": {"dataset": "r2"}}):
        assert not set(make(cases, **changes).folders) & set(split.folders)


def test_images_and_labels_lie_in_folders_of_their_own(cases, make):
    split = make(cases)
    there = [sorted(path.name for path in folder.iterdir()) for folder in split.folders]
    assert there == [["images.bin", "index.json"], ["index.json", "labels.bin", "originals.bin"]]
    assert split.images_folder.parent != split.labels_folder.parent
    shutil.rmtree(split.labels_folder)
    blind = Prepared.open(split.images_folder)
    assert (blind.images() == split.images()).all()
    assert blind.plane_ids == ("a", "b")
    for read in (blind.labels, lambda: blind.original(0), lambda: blind.case_labels(0)):
        with pytest.raises(DataFault, match="no labels are in reach"):
            read()


VOLUMES = {"a": 2, "b": 1, "c": 3}  # planes of each


@pytest.fixture
def volumes(fake, tmp_path, monkeypatch):
    """Three volumes of different depth, whose voxels and labels say which they are."""

    def deep(case):
        return np.full((VOLUMES[case.id], 40, 40), ord(case.id) - ord("a") + 1, np.uint8)

    monkeypatch.setattr(
        fake, "read_image", lambda self, case: (deep(case)[None].astype(np.float32), (3, 1, 1))
    )
    monkeypatch.setattr(fake, "read_label", lambda self, case: deep(case))
    return [Case(name, "train", (tmp_path / name,), (tmp_path / name,)) for name in VOLUMES]


@pytest.mark.parametrize("chosen", [[2], [1, 2], [2, 0], [0, 1, 2], [1, 1], []])
def test_a_subset_holds_the_planes_and_labels_of_its_own_cases(make, volumes, chosen):
    whole = make(volumes, crop="none")
    part = whole.subset(chosen)
    assert part.ids == tuple("abc"[i] for i in chosen)
    values = [i + 1 for i in chosen for _ in range(VOLUMES["abc"[i]])]
    assert part.planes == len(part.plane_ids) == len(values)
    assert part.images().shape == (len(values), 1, 20, 20)
    assert part.images().mean(axis=(1, 2, 3)).tolist() == values
    assert part.labels().mean(axis=(1, 2)).tolist() == values
    for k, i in enumerate(chosen):
        assert np.unique(part.original(k)) == [i + 1]
        assert part.original(k).shape == (VOLUMES["abc"[i]], 40, 40)
        assert np.unique(part.case_labels(k)) == [i + 1]
        assert part.case_labels(k).shape == (VOLUMES["abc"[i]], 20, 20)
    again = part.subset(range(len(chosen))[::-1])
    assert [np.unique(again.original(k)) for k in range(len(chosen))] == [
        [i + 1] for i in reversed(chosen)
    ]


def test_a_whole_split_stays_on_the_disk(make, volumes):
    assert isinstance(make(volumes, crop="none").images(), np.memmap)


@pytest.mark.parametrize("name", ["images.bin", "labels.bin", "originals.bin"])
@pytest.mark.parametrize("which", ["images", "labels"])
def test_a_corrupt_file_is_noticed_by_its_hash_and_made_anew(cases, make, name, which):
    split = make(cases)
    before = np.array(split.images())
    folder = split.images_folder if name == "images.bin" else split.labels_folder
    path = folder / ("index.json" if which == name.removesuffix(".bin") else name)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(BadInput, match=f"{path.name}: .*remove it, and it is made anew"):
        Prepared.open(*split.folders)
    said = []
    again = make(cases, said)
    assert len(said) == 1
    assert said[0].startswith(f"cache {path}: ")
    assert said[0].endswith("made anew")
    assert (again.images() == before).all()
    said.clear()
    make(cases, said)
    assert said == []


def of_folder(path):
    path.unlink()
    path.mkdir()
    (path / "inside").write_text("x")


def of_pipe(path):
    path.unlink()
    os.mkfifo(path)


DAMAGE = {
    "missing": lambda path: path.unlink(),
    "folder": of_folder,
    "pipe": pytest.param(
        of_pipe, marks=pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes are POSIX's")
    ),
    "empty": lambda path: path.write_bytes(b""),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"0"),
    "cut": lambda path: os.truncate(path, path.stat().st_size // 2),
    "loop": lambda path: (path.unlink(), path.symlink_to(path.name)),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
@pytest.mark.parametrize("name", ["images.bin", "labels.bin", "originals.bin", "index.json"])
def test_whatever_lies_in_place_of_a_file_is_made_anew(cases, make, name, damage):
    split = make(cases)
    for path in (folder / name for folder in split.folders if (folder / name).exists()):
        damage(path)
        said = []
        again = make(cases, said)
        assert [line.partition(": ")[0] for line in said] == [f"cache {path}"]
        assert said[0].endswith("made anew")
        assert again.original(1).shape == (40, 40)
        assert path.is_file()


@pytest.mark.parametrize("text", ["[]", "null", "[" * 100_000, "1" * 5000, "{}", "\ufeff{}", '"a'])
def test_an_index_that_is_none_is_made_anew(cases, make, text):
    split = make(cases)
    for folder in split.folders:
        (folder / "index.json").write_text(text, encoding="utf-8")
        said = []
        make(cases, said)
        assert len(said) == 1
        assert said[0].startswith(f"cache {folder / 'index.json'}: cannot be used (")


EDITS = {
    "spacing": lambda body: body["cases"][0].update(spacing=[1.0, 1.0]),
    "box": lambda body: body["cases"][0].update(box=[0, 0, 40, 40]),
    "shape": lambda body: body.update(shape=[1, 20, 60]),
    "dtype": lambda body: body.update(dtype="float16", shape=[3, 20, 10]),
    "order": lambda body: body["cases"].reverse(),
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_an_edited_index_is_made_anew(cases, make, edit):
    split = make(cases)
    path = split.images_folder / "index.json"
    whole = json.loads(path.read_text())
    edit(whole["body"])
    path.write_text(json.dumps(whole))
    with pytest.raises(BadInput, match=r"index\.json: .* does not have the hash"):
        Prepared.open(*split.folders)
    said = []
    assert make(cases, said) == split
    assert len(said) == 1
    assert said[0].endswith("; made anew")


@pytest.mark.parametrize(
    ("edit", "where"),
    [
        (lambda body: body.pop("cases"), "cases: Field required"),
        (lambda body: body.update(cases=[]), "cases: "),
        (lambda body: body.update(cases=None), "cases: "),
        (lambda body: body.update(more=1), "more: "),
        (lambda body: body.update(dtype="float64"), "dtype: "),
        (lambda body: body.update(shape=[3, 20]), r"shape\.2: "),
        (lambda body: body.update(shape=[3, 20, 21]), "not the labels of"),
        (lambda body: body["cases"][0].update(side=21), "images.bin has another length"),
        (lambda body: body["cases"][0].update(planes="1"), r"cases\.0\.planes: "),
        (lambda body: body["cases"][0].update(planes=True), r"cases\.0\.planes: "),
        (lambda body: body["cases"][0].update(planes=10**4000), r"cases\.0: "),
        (lambda body: body["cases"][0].update(planes=2), "more planes than its original"),
        (lambda body: body["cases"][0].update(box=[0, 0, 0, 5]), r"cases\.0\.box\.2: "),
        (lambda body: body["cases"][0].update(shape=[40]), r"cases\.0\.shape: "),
        (lambda body: body["cases"][0].update(spacing=[1.0, -1.0]), r"spacing\.1: "),
        (lambda body: body["cases"][0].update(spacing=[1.0, float("nan")]), r"spacing\.1: "),
        (lambda body: body["cases"][0].update(spacing=[1.0, 10**400]), r"spacing\.1: "),
        (lambda body: body["cases"][0].update(spacing=[1.0]), "spacing of another dimension"),
        (lambda body: body["images"].update(sha256="0"), r"images\.sha256: "),
        (lambda body: body["images"].update(sha256="0" * 64), r"images\.bin: .* recorded hash"),
        (lambda body: body["cases"].reverse(), "not the labels of"),
        (lambda body: body.update(key="0" * 64), "not the labels of"),
    ],
)
def test_an_index_with_a_hash_but_other_values_is_refused(cases, make, edit, where):
    split = make(cases)
    path = split.images_folder / "index.json"
    body = read_hashed(path)
    edit(body)
    path.write_text(hashed(body))
    with pytest.raises(BadInput, match=where):
        Prepared.open(*split.folders)
    said = []
    assert make(cases, said) == split
    assert len(said) == 1


def test_arrays_that_were_made_of_other_things_are_made_anew(cases, make):
    split, other = make(cases), make(cases, content="other")
    for old, new in zip(other.folders, split.folders, strict=True):
        shutil.rmtree(new)
        shutil.copytree(old, new)
    assert Prepared.open(*split.folders) == split
    said = []
    assert make(cases, said) == split
    assert len(said) == 1
    assert "it is that of other arrays; made anew" in said[0]


def test_labels_of_other_images_are_refused(cases, make):
    with pytest.raises(BadInput, match="these are not the labels of"):
        Prepared.open(make(cases).images_folder, make(cases, content="other").labels_folder)


def test_a_fault_leaves_nothing_half_done(cases, make, fake, tmp_path, monkeypatch):
    def broken(self, case, channels=()):
        if case.id == "b":
            raise DataFault("b.png: broken")
        return np.zeros((3, 40, 40), np.float32), None

    monkeypatch.setattr(fake, "read_image", broken)
    with pytest.raises(DataFault, match=r"b\.png"):
        make(cases)
    assert not [p for p in (tmp_path / "cache" / "prepared").iterdir() if p.is_dir()]


@pytest.mark.parametrize("spacing", [(0.0, 1.0), (1.0, float("inf")), (1.0, 1.0, 1.0)])
def test_a_spacing_that_cannot_be_right_names_the_file(cases, make, fake, monkeypatch, spacing):
    image = np.zeros((3, 40, 40), np.float32)
    monkeypatch.setattr(fake, "read_image", lambda self, case: (image, spacing))
    with pytest.raises(DataFault, match=r"a\.png: its .*spacing"):
        make(cases)


def test_unlabelled_cases_have_no_labels(cases, make, tmp_path, monkeypatch):
    monkeypatch.setattr("sfdabench.prepare.disc_region.locate_disc", lambda image: (20.0, 20.0))
    bare = [Case(c.id, c.split, c.image) for c in cases]
    split = make(bare, by_label=False)
    assert split.labels_folder is None
    assert not (tmp_path / "cache" / "prepared" / "labels").exists()
    with pytest.raises(DataFault, match="the cases have none"):
        split.labels()
    said = []
    assert make(bare, said, by_label=False) == split
    assert said == []


def test_an_uncropped_oblong_is_an_error(cases, make, fake, monkeypatch):
    monkeypatch.setattr(
        fake,
        "read_image",
        lambda self, case, channels=(): (np.zeros((3, 40, 50), np.float32), None),
    )
    with pytest.raises(DataFault, match="40x50 is not square"):
        make(cases, crop="none")


def test_an_index_may_be_formatted_anew(cases, make):
    split = make(cases)
    path = split.images_folder / "index.json"
    body = read_hashed(path)
    write_hashed(path, dict(reversed(body.items())))
    assert Prepared.open(*split.folders) == split
