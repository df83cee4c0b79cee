import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from sfdabench.datasets.brats2018 import BraTS2018
from sfdabench.datasets.drishti import Drishti
from sfdabench.datasets.refuge import Refuge
from sfdabench.prepare.verify import official, verify


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("drishti")
    dataset = Drishti()
    dataset.phantom_cases = 11
    dataset.phantom(root, seed=0)
    return root


@pytest.fixture
def tree(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "tree"))


def test_a_sound_tree(tree: Path) -> None:
    report = verify(Drishti(), tree)
    assert report.ok
    assert report.cases == report.labelled == {"train": 6, "test": 5}
    assert report.expected == {"train": 50, "test": 51}
    assert "split 'train' has 6 cases, the official release 50" in report.notes
    assert f"layout: official layout in {tree / 'Drishti-GS1_files'}" in report.notes
    assert "no faults" in str(report)
    assert "train: 6 cases, 6 with masks" in str(report)


def test_all_faults_at_once(tree: Path) -> None:
    cases = Drishti().cases(tree)
    cases[0].image[0].write_text("not found")
    cases[1].label[0].write_bytes(cases[1].label[0].read_bytes()[:200])
    Image.new("RGB", (256, 220), (9, 9, 9)).save(cases[2].image[0])
    cases[3].label[1].unlink()
    Image.new("L", (256, 220), 3).save(cases[4].label[0])
    cases[5].image[0].unlink()
    report = verify(Drishti(), tree)
    assert not report.ok
    wanted = [
        (cases[3].image[0], "image without mask"),
        (cases[5].label[0], "mask without image"),
        (cases[5].label[1], "mask without image"),
        (cases[0].image[0], "not an image"),
        (cases[1].label[0], "broken image file"),
        (cases[2].image[0], "one value everywhere"),
        (cases[4].label[0], "unknown grey values 3"),
    ]
    for path, text in wanted:
        assert sum(str(path) in fault and text in fault for fault in report.faults) == 1, text
    assert len(report.faults) == len(wanted)
    assert all(fault in str(report) for fault in report.faults)


def test_absent_classes_are_noted(tree: Path) -> None:
    case = Drishti().cases(tree)[0]
    Image.fromarray(np.zeros((220, 256), np.uint8)).save(case.label[1])
    report = verify(Drishti(), tree)
    assert report.ok
    assert "1 of 11 masks hold no cup" in report.notes


def test_a_missing_root_is_a_fault(tmp_path: Path) -> None:
    report = verify(Drishti(), tmp_path / "nowhere")
    assert not report.ok
    assert "no such folder" in report.faults[0]
    assert report.cases == {}


def test_unlabelled_cases_are_noted(tmp_path: Path) -> None:
    dataset = Refuge()
    dataset.phantom_cases = 10
    dataset.phantom(tmp_path, seed=0)
    image = next((tmp_path / "Training400" / "Glaucoma").glob("*.jpg"))
    (tmp_path / "Test400").mkdir()
    shutil.copy(image, tmp_path / "Test400" / "T0001.jpg")
    report = verify(dataset, tmp_path)
    assert report.ok
    assert report.labelled["train"] == report.cases["train"]
    assert "split 'test400': 1 of 1 cases have no mask" in report.notes


def test_the_nearest_release_counts() -> None:
    counts = {"a": {"train": 5, "test": 5}, "b": {"train": 9, "test": 9, "more": 1}}
    assert official(counts, {"train": 8, "test": 8}) == {"train": 9, "test": 9}
    assert official(counts, {"train": 5}) == {"train": 5}
    assert official(counts, {"other": 5}) == {}


def test_it_says_after_each_case_how_far_it_is(tree: Path) -> None:
    seen = []
    verify(Drishti(), tree, advance=lambda done, total: seen.append((done, total)))
    assert seen == [(done, 11) for done in range(1, 12)]


def test_crops_that_are_not_square_are_all_named(tmp_path: Path) -> None:
    """A run stops at the first of them."""
    pixels = np.random.default_rng(0).integers(0, 255, (40, 30, 3), np.uint8)
    for split in ("train", "test"):
        for i in range(2):
            for kind, array in (("image", pixels), ("mask", np.full((40, 30), 255, np.uint8))):
                folder = tmp_path / "Domain1" / split / "ROIs" / kind
                folder.mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(folder / f"{split}{i}.png")
    faults = verify(Drishti(), tmp_path).faults
    assert sum("40x30 is not square" in fault for fault in faults) == 4


def test_each_file_of_a_case_is_looked_at(tmp_path: Path) -> None:
    dataset = BraTS2018()
    dataset.phantom(tmp_path, seed=0)
    case, other = dataset.cases(tmp_path)[:2]
    _, t1, *_, last = case.image
    for path in (t1, last):
        file = nibabel.load(path)
        nibabel.save(nibabel.Nifti1Image(np.zeros(file.shape, np.int16), file.affine), path)
    file = nibabel.load(other.image[2])
    broken = np.asarray(file.dataobj).astype(np.float32)
    broken[3, 4, 5] = np.nan
    nibabel.save(nibabel.Nifti1Image(broken, file.affine), other.image[2])
    faults = verify(dataset, tmp_path).faults
    assert {fault.partition(":")[0] for fault in faults} == {
        str(path) for path in (t1, last, other.image[2])
    }


def test_images_of_no_case_are_named(tree: Path) -> None:
    """A name that the data set does not know, a suffix that it does not, a broken-off download."""
    assert not [note for note in verify(Drishti(), tree).notes if "not read" in note]
    folder = Drishti().cases(tree)[0].image[0].parent
    for name in ("case7.png", "drishtiGS_002.tif", "drishtiGS_003.png.part", "b.nii.gz_1"):
        (folder / name).write_bytes(b"x")
    for name in (".hidden.png", "Thumbs.db", "notes.txt", "pngs.csv"):
        (folder / name).write_bytes(b"x")
    (note,) = [note for note in verify(Drishti(), tree).notes if "not read" in note]
    assert note == (
        f"{folder}: not read, since no such name is looked for: b.nii.gz_1, case7.png, "
        "drishtiGS_002.tif, drishtiGS_003.png.part"
    )
    for i in range(30):
        (folder / f"extra{i:02}.png").write_bytes(b"x")
    (note,) = [note for note in verify(Drishti(), tree).notes if "not read" in note]
    assert note.endswith("extra15.png and 14 more")
