import shutil
from collections import Counter
from pathlib import Path

import nibabel
import numpy as np
import pytest

from sfdabench.core.dataset import Case
from sfdabench.core.errors import AbsentData, BadInput, DataFault
from sfdabench.datasets.brats2018 import BraTS2018, _patient, splits
from sfdabench.formats.volumes import original, read_nifti, write_nifti
from sfdabench.phantoms import brain
from sfdabench.prepare.verify import verify

PATIENTS = 11  # of each grade: the fewest that fill all splits
SHAPE, SPACING = (6, 24, 20), (12.0, 7.0, 8.0)
NEW = {"_t1": "-t1n", "_t1ce": "-t1c", "_t2": "-t2w", "_flair": "-t2f", "_seg": "-seg"}


@pytest.fixture
def dataset() -> BraTS2018:
    return BraTS2018()


@pytest.fixture(scope="session")
def original_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The layout of 2018 in little."""
    root = tmp_path_factory.mktemp("brats")
    affine = np.diag((*SPACING[::-1], 1.0))
    for grade in ("HGG", "LGG"):
        for i in range(PATIENTS):
            images, label = brain.patient(grade, SHAPE, 0, i, spacing=SPACING)
            label[1, 2, :3] = (1, 2, 4)
            name = f"Brats18_{grade}_{i:02d}_1"
            for suffix, volume in zip(NEW, (*images.astype(np.int16), label), strict=True):
                path = root / grade / name / f"{name}{suffix}.nii.gz"
                write_nifti(path, original(volume, affine), affine)
    return root


@pytest.fixture
def tree(original_tree: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original_tree, tmp_path / "data"))


def fault(root: Path) -> str:
    (only,) = BraTS2018().scan(root).faults
    return only


def change(path: Path, edit) -> None:
    array, affine = read_nifti(path)
    write_nifti(path, edit(np.array(array)), affine)


def as_of_2023(tree: Path, *, values: dict[int, int]) -> None:
    """Rename and recode every case, in its grade folder."""
    for path in sorted(tree.rglob("*.nii.gz")):
        for old, new in NEW.items():
            if path.name.endswith(f"{old}.nii.gz"):
                renamed = path.with_name(path.name.replace(f"{old}.nii.gz", f"{new}.nii.gz"))
                path.rename(renamed)
                if new == "-seg":
                    change(renamed, lambda a: np.vectorize(lambda v: values.get(v, v))(a))


def flatten(tree: Path) -> None:
    """The layout of 2020: no folders for the grades."""
    for grade in ("HGG", "LGG"):
        for folder in sorted((tree / grade).iterdir()):
            folder.rename(tree / folder.name)
        (tree / grade).rmdir()


def test_a_case(dataset: BraTS2018, original_tree: Path) -> None:
    cases = dataset.cases(original_tree)
    case = next(case for case in cases if case.id == "Brats18_HGG_03_1")
    images, label = brain.patient("HGG", SHAPE, 0, 3, spacing=SPACING)
    label[1, 2, :3] = (1, 2, 4)
    image, spacing = dataset.read_image(case)
    assert image.dtype == np.float32
    assert spacing == SPACING
    assert np.array_equal(image, images.astype(np.int16))
    read = dataset.read_label(case)
    assert read.dtype == np.uint8
    assert np.array_equal(read, label)


def test_only_the_channels_asked_for(dataset: BraTS2018, tree: Path) -> None:
    case = dataset.cases(tree)[0]
    whole, _ = dataset.read_image(case)
    part, _ = dataset.read_image(case, ("flair", "t1"))
    assert np.array_equal(part, whole[[3, 0]])
    case.image[1].write_bytes(b"broken")
    assert dataset.read_image(case, ("t2",))[0].shape == (1, *SHAPE)
    with pytest.raises(BadInput, match="unknown channel 't1c': did you mean t1ce"):
        dataset.read_image(case, ("t1c",))


def test_our_rule() -> None:
    assert Counter(splits(210)) == {"a-train": 84, "a-test": 21, "b-train": 84, "b-test": 21}
    assert Counter(splits(75)) == {"a-train": 30, "a-test": 8, "b-train": 30, "b-test": 7}
    assert Counter(splits(20)) == {"a-train": 8, "a-test": 2, "b-train": 8, "b-test": 2}
    assert BraTS2018.counts["2018"]["hgg-a-train"] == 84
    assert sum(BraTS2018.counts["2018"].values()) == 285
    assert sum(BraTS2018.counts["2020"].values()) == 369


def test_splits_follow_the_sorted_ids(dataset: BraTS2018, original_tree: Path) -> None:
    cases = dataset.cases(original_tree)
    found = {case.id: case.split for case in cases}
    assert list(found) == sorted(found)
    expected = [f"hgg-{split}" for split in splits(PATIENTS)]
    assert [split for name, split in found.items() if "HGG" in name] == expected
    assert len(set(found.values())) == 8


@pytest.mark.parametrize(
    ("case", "patient"),
    [
        ("Brats18_2013_10_1", "Brats18_2013_10"),
        ("BraTS19_CBICA_AAB_2", "BraTS19_CBICA_AAB"),
        ("BraTS20_Training_001", "BraTS20_Training_001"),
        ("BraTS2021_00042", "BraTS2021_00042"),
        ("BraTS-GLI-00005-101", "BraTS-GLI-00005"),
    ],
)
def test_the_patient_of_a_case(case: str, patient: str) -> None:
    assert _patient(case) == patient


def test_visits_of_a_patient_share_a_split(dataset: BraTS2018, tree: Path) -> None:
    before = {case.id: case.split for case in dataset.cases(tree)}
    old = tree / "LGG" / "Brats18_LGG_04_1"
    new = Path(shutil.copytree(old, old.with_name("Brats18_LGG_04_2")))
    for path in new.iterdir():
        path.rename(new / path.name.replace("04_1_", "04_2_"))
    change(new / "Brats18_LGG_04_2_t1.nii.gz", lambda a: a + (a > 0))  # another scan of hers
    after = {case.id: case.split for case in dataset.cases(tree)}
    assert after.pop("Brats18_LGG_04_2") == before["Brats18_LGG_04_1"] == "lgg-a-test"
    assert after == before


@pytest.mark.parametrize("grade", ["HGG", "LGG"])
def test_one_scan_under_two_names(grade: str, tree: Path) -> None:
    """A copy, in the same grade or as a patient of source and target."""
    old = tree / "HGG" / "Brats18_HGG_03_1"
    name = f"Brats18_{grade}_99_1"
    new = Path(shutil.copytree(old, tree / grade / name))
    for path in new.iterdir():
        path.rename(new / path.name.replace(old.name, name))
    found = fault(tree)
    assert f"{name}_t1.nii.gz: the same scan as" in found
    assert f"{old.name}_t1.nii.gz; one patient may count once only" in found


def test_scans_that_differ_in_a_voxel_are_two(tree: Path) -> None:
    """Uncompressed, they are of one size, and agree in their middle."""
    for i in (0, 1):
        path = tree / "HGG" / f"Brats18_HGG_0{i}_1" / f"Brats18_HGG_0{i}_1_t1.nii.gz"
        flat = np.zeros(read_nifti(path)[0].shape, np.int16)
        flat[0, 0, 0] = i
        write_nifti(path.with_suffix(""), flat, read_nifti(path)[1])
        path.unlink()
    assert not BraTS2018().scan(tree).faults


@pytest.mark.parametrize("place", [".", "BraTS2018", "MICCAI_BraTS_2018_Data_Training"])
def test_places(place: str, dataset: BraTS2018, original_tree: Path, tmp_path: Path) -> None:
    shutil.copytree(original_tree, tmp_path / place, dirs_exist_ok=True)
    assert len(dataset.cases(tmp_path)) == 2 * PATIENTS
    assert dataset.scan(tmp_path).layout == (
        "22 cases named as in 2018 to 2021; grades from the folders HGG and LGG"
    )


def test_uncompressed_files(dataset: BraTS2018, tree: Path) -> None:
    case = dataset.cases(tree)[0]
    for path in (*case.image, *case.label):
        nibabel.save(nibabel.load(path), path.with_suffix(""))
        path.unlink()
    plain = dataset.cases(tree)[0]
    assert plain.image[0].name.endswith("_t1.nii")
    assert dataset.read_image(plain)[0].shape == (4, *SHAPE)
    assert dataset.write_mask(plain, dataset.read_label(plain), tree / "out").is_file()


def test_the_naming_of_2023(dataset: BraTS2018, tree: Path) -> None:
    before = dataset.read_label(dataset.cases(tree)[0])
    as_of_2023(tree, values={4: 3})
    case = dataset.cases(tree)[0]
    assert [path.name[-11:-7] for path in case.image] == ["-t1n", "-t1c", "-t2w", "-t2f"]
    assert np.array_equal(dataset.read_label(case), before)
    assert "22 cases named as in 2023 onward" in dataset.scan(tree).layout
    saved = dataset.write_mask(case, before, tree / "out" / "mask")
    assert set(np.unique(read_nifti(saved)[0])) == {0, 1, 2, 3}


@pytest.mark.parametrize("axes", ["LPS", "RAS", "PIR"])
def test_a_saved_mask_lies_over_the_image(
    axes: str, dataset: BraTS2018, tree: Path, tmp_path: Path
) -> None:
    case = dataset.cases(tree)[0]
    turn = nibabel.orientations.axcodes2ornt(axes)
    for path in (*case.image, *case.label):
        image = nibabel.load(path)
        start = nibabel.io_orientation(image.affine)
        moved = image.as_reoriented(nibabel.orientations.ornt_transform(start, turn))
        nibabel.save(nibabel.Nifti1Image(np.asarray(moved.dataobj), moved.affine), path)
    label = dataset.read_label(case)
    assert np.array_equal(label, dataset.read_label(case))
    path = dataset.write_mask(case, label, tmp_path / "new" / "case.v1")
    assert path == tmp_path / "new" / "case.v1.nii.gz"
    (saved, affine), (array, place) = read_nifti(path), read_nifti(case.label[0])
    assert np.array_equal(saved, array)
    assert np.allclose(affine, place)


def test_a_mask_of_another_shape_is_not_saved(
    dataset: BraTS2018, original_tree: Path, tmp_path: Path
) -> None:
    case = dataset.cases(original_tree)[0]
    with pytest.raises(ValueError, match="the mask to save"):
        dataset.write_mask(case, np.zeros((3, 4, 5), np.uint8), tmp_path / "mask")


def test_grades_from_a_mapping(dataset: BraTS2018, tree: Path) -> None:
    before = {case.id: case.split for case in dataset.cases(tree)}
    flatten(tree)
    rows = ["Grade,BraTS_2019_subject_ID,BraTS_2020_subject_ID"]
    rows += [f"{name.split('_')[1]},NA,{name}" for name in before]
    (tree / "name_mapping.csv").write_text("\n".join(rows), encoding="utf-8")
    (tree / "name_mapping_validation_data.csv").write_text("A,B\n1,2\n", encoding="utf-8")
    assert {case.id: case.split for case in dataset.cases(tree)} == before
    assert dataset.scan(tree).layout.endswith("grades from name_mapping*.csv")


def test_no_grades(dataset: BraTS2018, tree: Path) -> None:
    flatten(tree)
    message = fault(tree)
    assert message.startswith(f"{tree}: 22 cases, and nothing tells their grades")
    assert "take the release of 2018, 2019 or 2020, or write such a file" in message


def test_a_mapping_that_lacks_a_case(dataset: BraTS2018, tree: Path) -> None:
    names = [case.id for case in dataset.cases(tree)]
    flatten(tree)
    rows = ["Grade,id", *(f"{name.split('_')[1]},{name}" for name in names[2:]), f"GBM,{names[1]}"]
    (tree / "name_mapping.csv").write_text("\n".join(rows), encoding="utf-8")
    first, second = dataset.scan(tree).faults
    assert first == f"{tree / names[0]}: name_mapping*.csv does not name it; expected HGG or LGG"
    assert "says grade 'GBM' of it" in second


def test_a_mapping_that_says_two_grades_of_a_case(dataset: BraTS2018, tree: Path) -> None:
    """In one file or in two; the last one must not win."""
    names = [case.id for case in dataset.cases(tree)]
    flatten(tree)
    rows = ["Grade,id", *(f"{name.split('_')[1]},{name}" for name in names)]
    (tree / "name_mapping.csv").write_text("\n".join(rows), encoding="utf-8")
    other = {"HGG": "LGG", "LGG": "HGG"}[names[0].split("_")[1]]
    (tree / "name_mapping_2.csv").write_text(f"Grade,id\n{other},{names[0]}", encoding="utf-8")
    (only,) = dataset.scan(tree).faults
    assert only.startswith(f"{tree / names[0]}: name_mapping*.csv says of it HGG and LGG")


def test_a_mapping_that_is_no_text(dataset: BraTS2018, tree: Path) -> None:
    flatten(tree)
    (tree / "name_mapping.csv").write_bytes(b"\xff\xfe\x00Grade")
    faults = dataset.scan(tree).faults
    assert faults[0].startswith(f"{tree / 'name_mapping.csv'}: not a CSV file")
    assert "nothing tells their grades" in faults[1]


def test_missing_root(dataset: BraTS2018, tmp_path: Path) -> None:
    with pytest.raises(DataFault, match="nowhere: no such folder; register"):
        dataset.scan(tmp_path / "nowhere")
    with pytest.raises(AbsentData, match=r"no BraTS 2018 there: looked for HGG/, LGG/"):
        dataset.scan(tmp_path)


def test_found_twice(dataset: BraTS2018, tree: Path) -> None:
    shutil.copytree(tree / "HGG", tree / "BraTS2018" / "HGG")
    with pytest.raises(DataFault, match=r"BraTS 2018 found twice: .*; give one of them"):
        dataset.scan(tree)


def test_a_case_beside_the_grades(dataset: BraTS2018, tree: Path) -> None:
    shutil.copytree(tree / "HGG" / "Brats18_HGG_00_1", tree / "Brats18_HGG_00_1")
    assert "a case beside the folders HGG and LGG" in fault(tree)


def test_a_missing_modality(dataset: BraTS2018, tree: Path) -> None:
    before = {case.id: case.split for case in dataset.cases(tree)}
    folder = tree / "HGG" / "Brats18_HGG_00_1"
    (folder / "Brats18_HGG_00_1_t1ce.nii.gz").unlink()
    message = fault(tree)
    assert message.startswith(f"{folder / 'Brats18_HGG_00_1_t1ce.nii.gz'}: missing file")
    with pytest.raises(DataFault, match="1 fault"):
        dataset.cases(tree)
    del before[folder.name]
    assert {case.id: case.split for case in dataset.scan(tree).cases} == before


def test_a_missing_mask(dataset: BraTS2018, tree: Path) -> None:
    folder = tree / "LGG" / "Brats18_LGG_00_1"
    (folder / "Brats18_LGG_00_1_seg.nii.gz").unlink()
    message = fault(tree)
    assert message.startswith(f"{folder}: no mask, while other LGG cases have one")
    for path in (tree / "LGG").rglob("*_seg.nii.gz"):
        path.unlink()
    cases = dataset.cases(tree)
    assert {case.split[:3] for case in cases if case.label} == {"hgg"}
    with pytest.raises(DataFault, match="this case has no mask"):
        dataset.read_label(cases[-1])


def test_a_folder_without_its_files(dataset: BraTS2018, tree: Path) -> None:
    (tree / "HGG" / "Brats18_XYZ_1").mkdir()
    assert "Brats18_XYZ_1: no file of a case: Brats18_XYZ_1_t1.nii.gz (2018 to 2021)" in fault(tree)


def test_two_namings_in_one_folder(dataset: BraTS2018, tree: Path) -> None:
    path = tree / "HGG" / "Brats18_HGG_00_1" / "Brats18_HGG_00_1_t1.nii.gz"
    shutil.copy(path, path.with_name("Brats18_HGG_00_1-t1n.nii.gz"))
    assert "Brats18_HGG_00_1: two namings in one folder" in fault(tree)


def test_the_same_volume_twice(dataset: BraTS2018, tree: Path) -> None:
    path = tree / "HGG" / "Brats18_HGG_00_1" / "Brats18_HGG_00_1_t2.nii.gz"
    nibabel.save(nibabel.load(path), path.with_suffix(""))
    assert fault(tree) == f"{path}: twice, also {path.stem}; remove one of them"


@pytest.mark.parametrize("visit", [1, 2])
def test_a_patient_of_both_grades(visit: int, dataset: BraTS2018, tree: Path) -> None:
    old, name = tree / "HGG" / "Brats18_HGG_00_1", f"Brats18_HGG_00_{visit}"
    new = Path(shutil.copytree(old, tree / "LGG" / name))
    for path in new.iterdir():
        path.rename(new / path.name.replace(old.name, name))
    change(new / f"{name}_t1.nii.gz", lambda a: a + (a > 0))  # another scan of hers
    message = fault(tree)
    assert message.startswith(f"{new}: patient 'Brats18_HGG_00' twice, also {old}")


def test_too_few_patients(dataset: BraTS2018, tree: Path) -> None:
    for folder in sorted((tree / "LGG").iterdir())[3:]:
        shutil.rmtree(folder)
    faults = dataset.scan(tree).faults
    assert len(faults) == 2
    assert f"{tree}: split 'lgg-a-test' is empty: only 3 cases of its grade" in faults[0]


def first(tree: Path) -> Case:
    return BraTS2018().cases(tree)[0]


@pytest.mark.parametrize("part", [1, 3])
def test_a_modality_of_another_shape(part: int, dataset: BraTS2018, tree: Path) -> None:
    case = first(tree)
    change(case.image[part], lambda array: array[:-1])
    with pytest.raises(
        DataFault, match=r"shape \(19, 24, 6\), but .*_t1.nii.gz \(20, 24, 6\)"
    ) as e:
        dataset.read_image(case, (dataset.channels[part],))
    assert str(e.value).startswith(str(case.image[part]))


def test_a_modality_in_another_place(dataset: BraTS2018, tree: Path) -> None:
    case = first(tree)
    array, affine = read_nifti(case.image[2])
    affine[0, 3] += 1
    write_nifti(case.image[2], array, affine)
    with pytest.raises(DataFault, match=r"_t2.nii.gz: its affine differs from that of .*_t1.nii"):
        dataset.read_image(case)


def test_a_mask_of_another_shape_or_place(dataset: BraTS2018, tree: Path) -> None:
    case = first(tree)
    array, affine = read_nifti(case.label[0])
    write_nifti(case.label[0], array[:, 1:], affine)
    with pytest.raises(DataFault, match=r"_seg.nii.gz: shape \(20, 23, 6\), but"):
        dataset.read_label(case)
    write_nifti(case.label[0], array, np.diag((-1, 1, 1, 1)) @ affine)
    with pytest.raises(DataFault, match=r"_seg.nii.gz: its affine differs"):
        dataset.read_label(case)


def test_the_coding_of_2015(dataset: BraTS2018, tree: Path) -> None:
    case = first(tree)
    change(case.label[0], lambda array: np.where(array == 1, 3, array))
    with pytest.raises(DataFault, match=r"unknown label values 3; .* 3 is in use in BraTS 2015"):
        dataset.read_label(case)


def test_the_coding_of_2024(dataset: BraTS2018, tree: Path) -> None:
    as_of_2023(tree, values={})
    with pytest.raises(DataFault, match=r"unknown label values 4; .* resection cavity of BraTS"):
        dataset.read_label(first(tree))


def test_values_between_the_labels(dataset: BraTS2018, tree: Path) -> None:
    case = first(tree)
    change(case.label[0], lambda array: array * np.float32(0.25))
    with pytest.raises(DataFault, match=r"unknown label values 0.25, 0.5; .* take another release"):
        dataset.read_label(case)


@pytest.mark.parametrize("content", [None, b"404: not found\n", b""])
def test_broken_files(content: bytes | None, dataset: BraTS2018, tree: Path) -> None:
    case = first(tree)
    for path, reader in ((case.image[3], dataset.read_image), (case.label[0], dataset.read_label)):
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2] if content is None else content)
        with pytest.raises(DataFault, match="get this file again") as caught:
            reader(case)
        assert str(caught.value).startswith(str(path))
        path.unlink()
        with pytest.raises(DataFault, match="missing file"):
            reader(case)
        path.write_bytes(whole)


def test_the_phantom(dataset: BraTS2018, tmp_path: Path) -> None:
    dataset.phantom_patients = 11
    dataset.phantom(tmp_path, seed=0)
    report = verify(dataset, tmp_path)
    assert report.ok, str(report)
    assert set(report.cases) == set(dataset.counts["2018"])
    axes = {
        "".join(nibabel.aff2axcodes(nibabel.load(case.image[0]).affine))
        for case in dataset.cases(tmp_path)
    }
    assert axes == {"LPS", "RAS"}
    size = sum(path.stat().st_size for path in tmp_path.rglob("*.nii.gz"))
    assert size < 30e6 * 22 / 40
