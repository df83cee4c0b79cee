import shutil
from collections import Counter
from pathlib import Path

import nibabel
import numpy as np
import pytest

from sfdabench.core.errors import AbsentData, DataFault
from sfdabench.datasets.scgm import SCGM
from sfdabench.formats.volumes import read_nifti, write_nifti
from sfdabench.phantoms import spinal_cord
from sfdabench.prepare.verify import verify

SUBJECTS = (1, 2, 11)
TRAINING = "training-data-gm-sc-challenge-ismrm16-v20160302b"
TEST = "test-data-gm-sc-challenge-ismrm16-v20160302b"


@pytest.fixture
def dataset() -> SCGM:
    return SCGM()


@pytest.fixture(scope="session")
def original_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cords")
    dataset = SCGM()
    dataset.phantom_subjects = SUBJECTS
    dataset.phantom(root, seed=0)
    return root


@pytest.fixture
def tree(original_tree: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original_tree, tmp_path / "data"))


def fault(root: Path) -> str:
    (only,) = SCGM().scan(root).faults
    return only


def change(path: Path, edit) -> None:
    array, affine = read_nifti(path)
    write_nifti(path, edit(np.array(array)), affine)


def test_the_phantom_is_read(dataset: SCGM, original_tree: Path) -> None:
    report = verify(dataset, original_tree)
    assert report.ok, str(report)
    expected = {"labelled": 2, "unlabelled": 1}
    assert report.cases == {f"site{s}-{k}": n for s in (1, 2, 3, 4) for k, n in expected.items()}
    assert report.labelled == {f"site{s}-labelled": 2 for s in (1, 2, 3, 4)}


@pytest.mark.parametrize("site", [1, 2, 3, 4])
def test_a_case(site: int, dataset: SCGM, original_tree: Path) -> None:
    look = spinal_cord.SITES[site]
    case = next(c for c in dataset.cases(original_tree) if c.id == f"site{site}-sc02")
    drawn, masks = spinal_cord.subject(look, 0, 2)
    image, spacing = dataset.read_image(case)
    assert image.dtype == np.float32
    assert np.array_equal(image, np.rint(drawn)[None])
    assert spacing == pytest.approx(look.spacing)
    assert "".join(nibabel.aff2axcodes(nibabel.load(case.image[0]).affine)) == look.axes
    assert np.array_equal(dataset.read_raters(case), masks)
    label = dataset.read_label(case)
    assert label.dtype == np.uint8
    assert label.shape == look.shape
    assert set(np.unique(label)) == {0, 1, 2}


def test_a_strict_majority(dataset: SCGM, tree: Path) -> None:
    case = dataset.cases(tree)[0]
    votes = {  # voxel -> what the four raters say, the label
        0: ((1, 1, 1, 0), 1),
        1: ((1, 1, 0, 0), 0),
        2: ((2, 2, 1, 2), 2),
        3: ((1, 1, 2, 2), 0),
        4: ((2, 2, 2, 2), 2),
        5: ((0, 0, 0, 1), 0),
        6: ((1, 2, 1, 0), 0),
    }
    for rater, path in enumerate(case.label):
        array, affine = read_nifti(path)
        array = np.zeros_like(array)
        for voxel, (said, _) in votes.items():
            array[voxel, 0, 0] = said[rater]
        write_nifti(path, array, affine)
    views = dataset.read_raters(case)
    assert views.shape == (4, *spinal_cord.SITES[1].shape)
    assert views.dtype == np.uint8
    line = dataset.read_label(case)[0, 0, : len(votes)]  # the file's axes are LPS
    assert line.tolist() == [label for _, label in votes.values()]


@pytest.mark.parametrize("place", ["", "scgm", "SCGM"])
def test_places(place: str, dataset: SCGM, original_tree: Path, tmp_path: Path) -> None:
    shutil.copytree(original_tree, tmp_path / place, dirs_exist_ok=True)
    assert len(dataset.cases(tmp_path)) == 12


@pytest.mark.parametrize("nested", [False, True])
def test_files_in_the_root_or_in_site_folders(nested: bool, dataset: SCGM, tree: Path) -> None:
    before = [(case.id, case.split) for case in dataset.cases(tree)]
    for path in sorted(tree.rglob("*.nii.gz")):
        folder = path.parent / path.name[:5] if nested else tree
        folder.mkdir(exist_ok=True)
        path.rename(folder / path.name)
    (tree / "site1-sc01-levels.txt").write_text("not read", encoding="utf-8")
    assert [(case.id, case.split) for case in dataset.cases(tree)] == before


@pytest.mark.parametrize("site", [1, 3, 4])
def test_a_saved_mask_lies_over_the_image(
    site: int, dataset: SCGM, original_tree: Path, tmp_path: Path
) -> None:
    case = next(c for c in dataset.cases(original_tree) if c.id == f"site{site}-sc01")
    path = dataset.write_mask(case, dataset.read_raters(case)[0], tmp_path / "out" / "a.b")
    assert path == tmp_path / "out" / "a.b.nii.gz"
    (saved, affine), (array, place) = read_nifti(path), read_nifti(case.label[0])
    assert np.array_equal(saved, array)
    assert np.allclose(affine, place)
    with pytest.raises(ValueError, match="the mask to save"):
        dataset.write_mask(case, np.zeros((2, 3, 4), np.uint8), tmp_path / "mask")


def test_missing_root(dataset: SCGM, tmp_path: Path) -> None:
    with pytest.raises(DataFault, match="nowhere: no such folder; register"):
        dataset.scan(tmp_path / "nowhere")
    with pytest.raises(AbsentData, match="no SCGM challenge there: looked for site1-sc01-image"):
        dataset.scan(tmp_path)


def test_found_twice(dataset: SCGM, tree: Path) -> None:
    shutil.copytree(tree / TRAINING, tree / "scgm" / TRAINING)
    with pytest.raises(DataFault, match=r"SCGM challenge found twice: .*; give one of them"):
        dataset.scan(tree)


def test_an_empty_split(dataset: SCGM, tree: Path) -> None:
    shutil.rmtree(tree / TEST)
    faults = dataset.scan(tree).faults
    assert len(faults) == 4
    assert faults[2].startswith(f"{tree}: split 'site3-unlabelled' is empty")


@pytest.mark.parametrize("missing", [(3,), (1, 2, 3, 4)])
def test_a_missing_rater(missing: tuple[int, ...], dataset: SCGM, tree: Path) -> None:
    image = tree / TRAINING / "site2-sc01-image.nii.gz"
    for rater in missing:
        (tree / TRAINING / f"site2-sc01-mask-r{rater}.nii.gz").unlink()
    wanted = ", ".join(f"site2-sc01-mask-r{rater}.nii.gz" for rater in missing)
    assert fault(tree).startswith(f"{image}: missing masks {wanted}; get them")
    with pytest.raises(DataFault, match="missing masks"):
        dataset.cases(tree)


def test_a_mask_without_image(dataset: SCGM, tree: Path) -> None:
    (tree / TRAINING / "site2-sc01-image.nii.gz").unlink()
    assert dataset.scan(tree).faults == [
        f"{tree / TRAINING / f'site2-sc01-mask-r{rater}.nii.gz'}: mask without image"
        for rater in (1, 2, 3, 4)
    ]


def test_a_subject_in_both_folders(dataset: SCGM, tree: Path) -> None:
    old, new = (tree / half / "site3-sc11-image.nii.gz" for half in (TEST, TRAINING))
    shutil.copy(old, new)
    message = fault(tree)
    assert message.startswith(f"{new}: site 3 subject 11 twice, also {old}; remove one")


def test_the_same_volume_twice(dataset: SCGM, tree: Path) -> None:
    path = tree / TRAINING / "site1-sc01-image.nii.gz"
    nibabel.save(nibabel.load(path), path.with_suffix(""))
    assert "site 1 subject 01 twice" in fault(tree)


@pytest.mark.parametrize("name", ["site5-sc01-image", "site1-sc21-image", "site1-sc01-mask-r5"])
def test_what_the_challenge_does_not_have(name: str, dataset: SCGM, tree: Path) -> None:
    path = tree / TRAINING / f"{name}.nii.gz"
    shutil.copy(tree / TRAINING / "site1-sc01-image.nii.gz", path)
    assert fault(tree).startswith(f"{path}: the challenge has sites 1 to 4, subjects 01 to 20")


def test_a_mask_of_a_test_subject(dataset: SCGM, tree: Path) -> None:
    path = tree / TEST / "site1-sc11-mask-r1.nii.gz"
    shutil.copy(tree / TRAINING / "site1-sc01-mask-r1.nii.gz", path)
    assert fault(tree).startswith(f"{path}: a mask of a test subject")
    path.unlink()
    case = next(c for c in dataset.cases(tree) if c.id == "site1-sc11")
    with pytest.raises(DataFault, match="this case has no mask"):
        dataset.read_label(case)


def test_a_mask_of_another_shape_or_place(dataset: SCGM, tree: Path) -> None:
    case = dataset.cases(tree)[0]
    array, affine = read_nifti(case.label[2])
    write_nifti(case.label[2], array[1:], affine)
    with pytest.raises(
        DataFault, match=r"mask-r3.nii.gz: shape \(115, 116, 3\), but site1-sc01-image"
    ):
        dataset.read_label(case)
    affine[2, 3] += 5
    write_nifti(case.label[2], array, affine)
    with pytest.raises(DataFault, match=r"mask-r3.nii.gz: its affine differs from that of site1"):
        dataset.read_raters(case)


def test_unknown_values(dataset: SCGM, tree: Path) -> None:
    case = dataset.cases(tree)[0]
    change(case.label[0], lambda array: array * np.float32(1.5))
    with pytest.raises(DataFault, match=r"unknown label values 1.5, 3; .* was it resampled"):
        dataset.read_label(case)


@pytest.mark.parametrize("content", [None, b"404: not found\n", b""])
def test_broken_files(content: bytes | None, dataset: SCGM, tree: Path) -> None:
    case = dataset.cases(tree)[0]
    for path, reader in ((case.image[0], dataset.read_image), (case.label[3], dataset.read_label)):
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2] if content is None else content)
        with pytest.raises(DataFault, match="get this file again") as caught:
            reader(case)
        assert str(caught.value).startswith(str(path))
        path.unlink()
        with pytest.raises(DataFault, match="missing file"):
            reader(case)
        path.write_bytes(whole)


def test_official_numbers() -> None:
    assert sum(SCGM.counts["challenge"].values()) == 80
    assert Counter(SCGM.counts["challenge"].values()) == {10: 8}


def test_one_scan_as_two_subjects(tree: Path) -> None:
    """A copy of a test subject among those to adapt on leaks."""
    old, new = (next(tree.rglob(f"site3-sc{n}-image.nii.gz")) for n in ("01", "11"))
    shutil.copy(old, new)
    assert f"{new}: the same scan as {old}" in fault(tree)
