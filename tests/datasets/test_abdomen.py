import shutil
from collections import Counter
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK
from PIL import Image
from pydicom.uid import JPEG2000Lossless

from sfdabench.core.dataset import Case, Dataset
from sfdabench.core.errors import AbsentData, DataFault
from sfdabench.datasets.chaos import CHAOS
from sfdabench.datasets.malbcv import MALBCV, PHANTOM_AXES
from sfdabench.formats.volumes import coincide, save_over
from sfdabench.phantoms import abdomen as phantom

SEED = 3
LOOKS = {"t2spir": phantom.T2SPIR, "t1in": phantom.T1IN, "t1out": phantom.T1OUT, "ct": phantom.CT}


def chaos() -> CHAOS:
    dataset = CHAOS()
    dataset.phantom_mr, dataset.phantom_t1, dataset.phantom_ct = (1, 2, 3), (1, 2), (1,)
    return dataset


def malbcv() -> MALBCV:
    dataset = MALBCV()
    dataset.phantom_numbers = (1, 2, 3, 4, 9)  # one of each axis order
    return dataset


@pytest.fixture(scope="session")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    roots = {}
    for name, dataset in (("chaos", chaos()), ("malbcv", malbcv())):
        roots[name] = tmp_path_factory.mktemp(name)
        dataset.phantom(roots[name], seed=SEED)
    return roots


@pytest.fixture
def whole(originals: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of the CHAOS phantom that a test may damage."""
    return Path(shutil.copytree(originals["chaos"], tmp_path / "whole"))


@pytest.fixture
def mr(originals: dict[str, Path], tmp_path: Path) -> Path:
    """The same, but T2-SPIR of patients 1 and 2 only."""
    ignore = shutil.ignore_patterns("3", "CT", "T1DUAL")
    return Path(shutil.copytree(originals["chaos"], tmp_path / "mr", ignore=ignore))


@pytest.fixture
def ct(originals: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of the MALBCV phantom that a test may damage."""
    return Path(shutil.copytree(originals["malbcv"], tmp_path / "ct"))


def only_fault(dataset: Dataset, root: Path) -> str:
    (fault,) = dataset.scan(root).faults
    return fault


def case_of(dataset: Dataset, root: Path, name: str) -> Case:
    (case,) = (case for case in dataset.cases(root) if case.id == name)
    return case


def broken(dataset: Dataset, root: Path, name: str = "mr-t2spir-2") -> str:
    """What reading this case says is wrong."""
    with pytest.raises(DataFault) as caught:
        dataset.read_label(case_of(dataset, root, name))
    return str(caught.value)


def series(root: Path, name: str = "MR/2/T2SPIR") -> tuple[list[Path], list[Path]]:
    folder = root / "Train_Sets" / name
    return sorted((folder / "DICOM_anon").glob("*.dcm")), sorted((folder / "Ground").glob("*.png"))


def change(path: Path, **header: object) -> None:
    """Rewrite fields of a DICOM file; None deletes one."""
    file = pydicom.dcmread(path)
    for field, value in header.items():
        if value is None:
            delattr(file, field)
        else:
            setattr(file, field, value)
    file.save_as(path)


# --- CHAOS


def test_chaos_round_trips(originals: dict[str, Path]) -> None:
    dataset = chaos()
    cases = dataset.cases(originals["chaos"])
    assert {case.id: case.split for case in cases} == {
        "mr-t2spir-1": "t2spir-test",
        "mr-t2spir-2": "t2spir-train",
        "mr-t2spir-3": "t2spir-train",
        "mr-t1in-1": "t1in-test",
        "mr-t1in-2": "t1in-train",
        "mr-t1out-1": "t1out-test",
        "mr-t1out-2": "t1out-train",
        "ct-1": "ct-train",
    }
    for case in cases:
        look, number = LOOKS[case.split.partition("-")[0]], int(case.id.rpartition("-")[2])
        kind, grid = ("CT", phantom.CT_GRID) if look.hounsfield else ("MR", phantom.MR_GRID)
        patient = phantom.patient(grid, "chaos", kind, SEED, number)
        image, spacing = dataset.read_image(case)
        label = dataset.read_label(case)
        truth = np.rint(phantom.render(look, patient, "chaos", kind, SEED, number))
        assert image.dtype == np.float32
        assert label.dtype == np.uint8
        assert np.array_equal(image[0], truth)
        drawn = np.where(patient.label > 1, 0, patient.label) if kind == "CT" else patient.label
        assert np.array_equal(label, drawn)
        assert np.allclose(spacing, patient.spacing, rtol=1e-4)


def test_files_do_not_run_in_the_order_of_slices(originals: dict[str, Path]) -> None:
    for name in ("MR/1/T2SPIR", "MR/2/T2SPIR", "CT/1"):
        files, _ = series(originals["chaos"], name)
        heights = [pydicom.dcmread(f).ImagePositionPatient[2] for f in files]
        assert len({np.sign(step) for step in np.diff(heights)}) == 2


def test_both_orientations_occur(originals: dict[str, Path]) -> None:
    first = {series(originals["chaos"], f"MR/{n}/T2SPIR")[0][0] for n in (1, 2)}
    assert {round(pydicom.dcmread(f).ImageOrientationPatient[0]) for f in first} == {-1, 1}


def names_only(root: Path, *folders: str) -> None:
    """A slice and a mask in each folder, of contents that only a reader would mind."""
    for i, folder in enumerate(folders):
        for name in ("DICOM_anon/a.dcm", "Ground/a.png"):
            path = root / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(bytes(i))


def test_official_splits(tmp_path: Path) -> None:
    patients = (1, 2, 3, 5, 8, 10, 13, 15, 19, 20, 21, 22, 31, 32, 33, 34, 36, 37, 38, 39)
    scans = [f"Train_Sets/MR/{number}/T2SPIR" for number in patients]
    names_only(tmp_path, *scans, *(f"Train_Sets/CT/{number}" for number in range(1, 21)))
    found = Counter(case.split for case in chaos().cases(tmp_path))
    assert found == {"t2spir-train": 16, "t2spir-test": 4, "ct-train": 20}
    assert found.items() <= chaos().counts["official"].items()


def test_a_mask_lies_over_the_series_in_any_viewer(
    originals: dict[str, Path], tmp_path: Path
) -> None:
    """SimpleITK's own reader of series places the voxels; the written mask must agree."""
    dataset = chaos()
    for name in ("mr-t2spir-1", "mr-t2spir-2", "mr-t1out-1", "ct-1"):
        case = case_of(dataset, originals["chaos"], name)
        label = dataset.read_label(case)
        path = dataset.write_mask(case, label, tmp_path / "new" / name)
        assert path == tmp_path / "new" / f"{name}.nii.gz"
        mask = SimpleITK.ReadImage(str(path))
        reader = SimpleITK.ImageSeriesReader()
        files = reader.GetGDCMSeriesFileNames(str(case.image[0].parent))
        reader.SetFileNames(files)
        volume = reader.Execute()
        assert mask.GetSize() == volume.GetSize()
        nearest = SimpleITK.Transform(), SimpleITK.sitkNearestNeighbor
        over = SimpleITK.Resample(mask, volume, *nearest)
        written, values = (SimpleITK.GetArrayFromImage(x) for x in (over, volume))
        image, _ = dataset.read_image(case)
        for organ in np.unique(label):
            assert (written == organ).sum() == (label == organ).sum()
            assert values[written == organ].mean() == pytest.approx(image[0][label == organ].mean())


def test_hounsfield_units_are_rescaled(whole: Path) -> None:
    dataset = chaos()
    case = case_of(dataset, whole, "ct-1")
    before, _ = dataset.read_image(case)
    for path in case.image:
        file = pydicom.dcmread(path)
        file.RescaleIntercept, file.RescaleSlope = -1024, 1
        file.PixelData = (file.pixel_array + 1024).astype(np.int16).tobytes()
        file.save_as(path)
    after, _ = dataset.read_image(case)
    assert np.array_equal(before, after)


@pytest.mark.parametrize(
    "place",
    [
        "",
        "CHAOS",
        "chaos",
        "CHAOS_Train_Sets",
        "Abdomen",
        "abdomen/CHAOS",
        "CHAOS/CHAOS_Train_Sets",
    ],
)
def test_chaos_places(place: str, tmp_path: Path) -> None:
    names_only(tmp_path / place / "Train_Sets", "CT/1", "CT/2")
    assert [case.id for case in chaos().cases(tmp_path)] == ["ct-1", "ct-2"]


def test_chaos_without_t1_or_mr(whole: Path) -> None:
    for number in (1, 2):
        shutil.rmtree(whole / "Train_Sets" / "MR" / str(number) / "T1DUAL")
    assert len(chaos().cases(whole)) == 4
    shutil.rmtree(whole / "Train_Sets" / "MR")
    assert [case.id for case in chaos().cases(whole)] == ["ct-1"]


def test_litter_is_ignored(mr: Path) -> None:
    for name in ("DICOM_anon/._IMG.dcm", "Ground/._IMG.png", "DICOM_anon/notes.txt"):
        (mr / "Train_Sets/MR/2/T2SPIR" / name).write_bytes(b"x")
    (mr / "Train_Sets/MR/.DS_Store").write_bytes(b"x")
    assert len(chaos().cases(mr)) == 2


def test_numbers_in_names_are_numbers(whole: Path) -> None:
    """CT masks go with their files by rank; s10 comes after s9, and the first numbers differ."""
    dataset = chaos()
    before = dataset.read_label(case_of(dataset, whole, "ct-1"))
    for k, (file, mask) in enumerate(zip(*series(whole, "CT/1"), strict=True)):
        file.rename(file.with_name(f"s{k + 1}.dcm"))
        mask.rename(mask.with_name(f"liver_{k}.png"))
    assert np.array_equal(dataset.read_label(case_of(dataset, whole, "ct-1")), before)


def test_missing_root(tmp_path: Path) -> None:
    for dataset in (chaos(), malbcv()):
        with pytest.raises(DataFault, match="absent: no such folder"):
            dataset.cases(tmp_path / "absent")
        with pytest.raises(AbsentData, match=f"{tmp_path}: no {dataset.card.title[:5]}"):
            dataset.cases(tmp_path)


def test_found_twice(whole: Path, ct: Path) -> None:
    shutil.copytree(whole / "Train_Sets/CT", whole / "CHAOS/Train_Sets/CT")
    shutil.copytree(ct / "RawData", ct / "BTCV/RawData")
    for dataset, root in ((chaos(), whole), (malbcv(), ct)):
        with pytest.raises(DataFault, match="found twice"):
            dataset.cases(root)


def test_neither_mr_nor_ct(tmp_path: Path) -> None:
    (tmp_path / "Train_Sets" / "US").mkdir(parents=True)
    with pytest.raises(DataFault, match="Train_Sets: holds neither MR nor CT"):
        chaos().cases(tmp_path)


def test_missing_sequence(mr: Path) -> None:
    shutil.rmtree(mr / "Train_Sets/MR/2/T2SPIR")
    slices, masks = chaos().scan(mr).faults
    assert "MR/2/T2SPIR/DICOM_anon: missing folder" in slices
    assert "MR/2/T2SPIR/Ground: missing folder" in masks


def test_an_empty_folder(mr: Path) -> None:
    for path in series(mr)[1]:
        path.unlink()
    assert "MR/2/T2SPIR/Ground: holds no .png file" in only_fault(chaos(), mr)


def test_missing_mask(mr: Path) -> None:
    files, masks = series(mr)
    masks[4].unlink()
    assert f"{files[4]}: slice without mask" in only_fault(chaos(), mr)


def test_mask_too_many(mr: Path) -> None:
    _, masks = series(mr)
    extra = shutil.copy(masks[0], masks[0].with_name("IMG-0002-00099.png"))
    assert f"{extra}: mask without slice" in only_fault(chaos(), mr)


def test_missing_ct_mask(whole: Path) -> None:
    files, masks = series(whole, "CT/1")
    masks[4].unlink()
    fault = only_fault(chaos(), whole)
    assert f"CT/1/Ground: {len(masks) - 1} masks for the {len(files)} files" in fault


@pytest.mark.parametrize(
    ("folder", "name", "value"),
    [
        ("MR/2/T2SPIR", "mr-t2spir-2", 100),
        ("MR/2/T2SPIR", "mr-t2spir-2", 1),
        ("CT/1", "ct-1", 63),
    ],
)
def test_unknown_grey(folder: str, name: str, value: int, whole: Path) -> None:
    path = series(whole, folder)[1][3]
    pixels = np.asarray(Image.open(path)).copy()
    pixels[0, 0] = value
    Image.fromarray(pixels).save(path)
    assert f"{path}: unknown grey values {value};" in broken(chaos(), whole, name)


@pytest.mark.parametrize("value", [55, 63, 70])
def test_greys_have_a_range(value: int, mr: Path) -> None:
    dataset = chaos()
    case = case_of(dataset, mr, "mr-t2spir-2")
    before = dataset.read_label(case)
    for path in case.label:
        pixels = np.asarray(Image.open(path))
        Image.fromarray(np.where(pixels == 63, np.uint8(value), pixels)).save(path)
    assert np.array_equal(dataset.read_label(case), before)


def test_one_bit_masks(whole: Path) -> None:
    dataset = chaos()
    case = case_of(dataset, whole, "ct-1")
    before = dataset.read_label(case)
    for path in case.label:
        Image.open(path).convert("1").save(path)
    assert np.array_equal(dataset.read_label(case), before)


def test_a_mask_of_another_size(mr: Path) -> None:
    path = series(mr)[1][3]
    Image.fromarray(np.zeros((96, 64), np.uint8)).save(path)
    fault = broken(chaos(), mr)
    assert f"{path}: the mask is 64x96, its slice 96x96" in fault


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_truncated_dicom(share: float, mr: Path) -> None:
    path = series(mr)[0][3]
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    fault = broken(chaos(), mr)
    assert f"{path}: not a whole DICOM file" in fault


def test_text_called_dicom(mr: Path) -> None:
    path = series(mr)[0][3]
    path.write_text("no image\n" * 999)
    fault = broken(chaos(), mr)
    assert f"{path}: not a whole DICOM file" in fault


def test_a_file_that_went_away(mr: Path) -> None:
    dataset = chaos()
    case = case_of(dataset, mr, "mr-t2spir-2")
    case.image[3].unlink()
    with pytest.raises(DataFault, match=f"{case.image[3]}: missing file"):
        dataset.read_image(case)


def test_pixels_that_cannot_be_decoded(mr: Path) -> None:
    path = series(mr)[0][3]
    file = pydicom.dcmread(path)
    file.file_meta.TransferSyntaxUID = JPEG2000Lossless
    file.PixelData = pydicom.encaps.encapsulate([b"no image" * 9])
    file["PixelData"].is_undefined_length = True
    file.save_as(path, implicit_vr=False, little_endian=True)
    dataset = chaos()
    with pytest.raises(DataFault, match=str(path)):
        dataset.read_image(case_of(dataset, mr, "mr-t2spir-2"))


def test_a_colour_picture_among_the_slices(mr: Path) -> None:
    path = series(mr)[0][3]
    change(
        path,
        SamplesPerPixel=3,
        PhotometricInterpretation="RGB",
        PlanarConfiguration=0,
        BitsAllocated=8,
        BitsStored=8,
        HighBit=7,
        PixelData=bytes(96 * 96 * 3),
    )
    fault = broken(chaos(), mr)
    assert f"{path}: not a single grey slice" in fault


@pytest.mark.parametrize(
    ("field", "name"),
    [
        ("ImagePositionPatient", "position"),
        ("ImageOrientationPatient", "orientation"),
        ("PixelSpacing", "spacing"),
    ],
)
def test_a_slice_that_lies_nowhere(field: str, name: str, mr: Path) -> None:
    path = series(mr)[0][3]
    change(path, **{field: None})
    fault = broken(chaos(), mr)
    assert f"{path}: its header has no {name}" in fault


@pytest.mark.parametrize(
    ("tag", "text", "name"),
    [
        ("28003000", b"1,5\\1,5", "spacing (tag 0028,0030) is '1,5"),
        ("28003000", b"0\\0", "spacing (tag 0028,0030) is '0"),
        ("28003000", b"1.5", "spacing (tag 0028,0030) is '1.5'"),
        ("20003200", b"1\\2\\x", "position (tag 0020,0032) is"),
    ],
)
def test_numbers_that_are_none(tag: str, text: bytes, name: str, mr: Path) -> None:
    """Decimal commas and zeros, which the library would make a guess of."""
    path = series(mr)[0][3]
    content, mark = path.read_bytes(), bytes.fromhex(tag)
    start = content.index(mark)
    length = int.from_bytes(content[start + 4 : start + 8], "little")
    assert 0 < length < 100
    value = text.ljust(length)[:length]
    path.write_bytes(content[: start + 8] + value + content[start + 8 + length :])
    assert f"{path}: its {name}" in broken(chaos(), mr)


def test_a_tilted_gantry(mr: Path) -> None:
    for path in series(mr)[0]:
        x, y, z = pydicom.dcmread(path).ImagePositionPatient
        moved = [x + 0.4 * y, y, z]  # the slices go along y
        change(path, ImagePositionPatient=moved)
    assert "its axes are not at right angles" in broken(chaos(), mr)


@pytest.mark.parametrize(
    ("field", "value", "name"),
    [
        ("SeriesInstanceUID", "2.25.7", "SeriesInstanceUID"),
        ("ImageOrientationPatient", [0, 1, 0, 0, 0, -1], "orientation"),
        ("PixelSpacing", [1.5, 1.5], "pixel spacing"),
    ],
)
def test_two_series_in_one_folder(field: str, value: object, name: str, mr: Path) -> None:
    path = series(mr)[0][3]
    change(path, **{field: value})
    fault = broken(chaos(), mr)
    assert f"{path}: {name} differs from" in fault


def test_two_sizes_in_one_folder(mr: Path) -> None:
    path = series(mr)[0][3]
    change(path, Rows=48, PixelData=bytes(48 * 96 * 2))
    fault = broken(chaos(), mr)
    assert f"{path}: size differs from" in fault


def test_a_missing_slice(mr: Path) -> None:
    files, masks = series(mr)
    heights = [pydicom.dcmread(path).ImagePositionPatient[2] for path in files]
    lost = int(np.argsort(heights)[8])
    files[lost].unlink()
    masks[lost].unlink()
    fault = broken(chaos(), mr)
    below = files[int(np.argsort(heights)[7])]
    above = files[int(np.argsort(heights)[9])]
    assert str(below) in fault
    assert above.name in fault
    assert "a slice is missing or doubled" in fault


def test_a_doubled_slice(mr: Path) -> None:
    files, _ = series(mr)
    change(files[3], ImagePositionPatient=pydicom.dcmread(files[4]).ImagePositionPatient)
    fault = broken(chaos(), mr)
    assert "a slice is missing or doubled" in fault


def test_all_slices_in_one_place(mr: Path) -> None:
    files, _ = series(mr)
    for path in files:
        change(path, ImagePositionPatient=[0, 0, 0])
    fault = broken(chaos(), mr)
    assert "a slice is missing or doubled" in fault


def test_a_single_slice(mr: Path) -> None:
    files, masks = series(mr)
    for path in (*files[1:], *masks[1:]):
        path.unlink()
    fault = broken(chaos(), mr)
    assert f"{files[0]}: the only slice" in fault


def test_one_patient_twice(mr: Path) -> None:
    folder = mr / "Train_Sets" / "MR"
    shutil.copytree(folder / "2", folder / "02")
    assert f"{folder / '2'}: patient 2 twice, also {folder / '02'}" in only_fault(chaos(), mr)


def test_one_patient_in_both_sets(mr: Path) -> None:
    again = Path(shutil.copytree(mr / "Train_Sets/MR/2", mr / "Test_Sets/MR/2"))
    assert f"{again}: patient 2 twice" in only_fault(chaos(), mr)


def test_the_test_set_is_left_alone(mr: Path) -> None:
    (mr / "Test_Sets/MR/4").mkdir(parents=True)
    assert len(chaos().cases(mr)) == 2


def test_one_patient_under_two_numbers(mr: Path) -> None:
    """A copy of a training patient as a test patient leaks."""
    folder = mr / "Train_Sets" / "MR"
    shutil.copytree(folder / "2", folder / "38")
    fault = only_fault(chaos(), mr)
    assert f"{folder / '38'}" in fault
    assert f"the same scan as {folder / '2'}" in fault


def test_a_folder_that_is_no_patient(mr: Path) -> None:
    (mr / "Train_Sets/MR/copy of 2").mkdir()
    assert "copy of 2: not a patient's number" in only_fault(chaos(), mr)


def test_an_empty_chaos_split(whole: Path) -> None:
    shutil.rmtree(whole / "Train_Sets/MR/1")
    faults = chaos().scan(whole).faults
    assert [fault.split("split ")[1][:13] for fault in faults] == [
        "'t2spir-test'",
        "'t1in-test' i",
        "'t1out-test' ",
    ]


def test_echoes_of_unlike_number(whole: Path) -> None:
    folder = whole / "Train_Sets/MR/2/T1DUAL/DICOM_anon"
    sorted((folder / "OutPhase").iterdir())[3].unlink()
    assert f"{folder / 'OutPhase'}: " in only_fault(chaos(), whole)


def test_a_missing_echo(whole: Path) -> None:
    folder = whole / "Train_Sets/MR/2/T1DUAL/DICOM_anon/OutPhase"
    shutil.rmtree(folder)
    assert f"{folder}: missing folder" in only_fault(chaos(), whole)


def test_echoes_that_do_not_coincide(whole: Path) -> None:
    for path in (whole / "Train_Sets/MR/2/T1DUAL/DICOM_anon/OutPhase").iterdir():
        x, y, z = pydicom.dcmread(path).ImagePositionPatient
        change(path, ImagePositionPatient=[x, y + 8, z])
    fault = broken(chaos(), whole, "mr-t1out-2")
    assert "OutPhase: does not lie where InPhase does" in fault


def test_out_of_phase_files_may_run_in_another_order(whole: Path) -> None:
    dataset = chaos()
    case = case_of(dataset, whole, "mr-t1out-2")
    image, label = dataset.read_image(case)[0], dataset.read_label(case)
    for i, path in enumerate(case.image):
        path.rename(path.with_name(f"x{len(case.image) - i}.dcm"))
    case = case_of(dataset, whole, "mr-t1out-2")
    assert np.array_equal(dataset.read_image(case)[0], image)
    assert np.array_equal(dataset.read_label(case), label)


def test_masks_that_were_mirrored(mr: Path) -> None:
    folder = mr / "Train_Sets/MR/2/T2SPIR/Ground"
    for path in folder.iterdir():
        Image.fromarray(np.asarray(Image.open(path))[:, ::-1]).save(path)
    fault = broken(chaos(), mr)
    assert f"{folder}: its header says that the organs lie the other way round" in fault


# --- MALBCV


def test_malbcv_round_trips(originals: dict[str, Path]) -> None:
    dataset = malbcv()
    cases = dataset.cases(originals["malbcv"])
    assert [(case.id, case.split) for case in cases] == [
        ("0001", "test"),
        ("0002", "train"),
        ("0003", "train"),
        ("0004", "train"),
        ("0009", "test"),
        ("0061", "unlabelled"),
    ]
    for case in cases:
        patient = phantom.patient(phantom.CT_GRID, "malbcv", SEED, int(case.id))
        image, spacing = dataset.read_image(case)
        truth = phantom.render(phantom.CT, patient, "malbcv", SEED, int(case.id))
        assert image.dtype == np.float32
        assert np.array_equal(image[0], np.rint(truth))
        assert np.allclose(spacing, patient.spacing)
        if case.label:
            label = dataset.read_label(case)
            assert label.dtype == np.uint8
            assert np.array_equal(label, patient.label)
    with pytest.raises(DataFault, match=r"img0061\.nii\.gz: this case has no mask"):
        dataset.read_label(cases[-1])


def test_axes_differ_from_file_to_file(originals: dict[str, Path]) -> None:
    files = sorted((originals["malbcv"] / "RawData/Training/img").iterdir())
    axes = {"".join(nibabel.aff2axcodes(nibabel.load(path).affine)) for path in files}
    assert axes == set(PHANTOM_AXES)


def test_masks_bear_the_authors_values(originals: dict[str, Path], tmp_path: Path) -> None:
    dataset = malbcv()
    for case in dataset.cases(originals["malbcv"])[:5]:
        path = dataset.write_mask(case, dataset.read_label(case), tmp_path / case.id)
        written, truth = nibabel.load(path), nibabel.load(case.label[0])
        theirs = np.asarray(truth.dataobj)
        assert set(np.unique(theirs)) > {1, 2, 3, 6}
        assert np.array_equal(
            np.asarray(written.dataobj), np.where(np.isin(theirs, (1, 2, 3, 6)), theirs, 0)
        )
        assert np.allclose(written.affine, truth.affine)


@pytest.mark.parametrize("place", ["BTCV", "MALBCV", "btcv", "malbcv", "Abdomen", "abdomen/BTCV"])
def test_malbcv_places(place: str, ct: Path, tmp_path: Path) -> None:
    shutil.copytree(ct, tmp_path / "root" / place)
    assert len(malbcv().cases(tmp_path / "root")) == 6


def test_official_numbers(tmp_path: Path) -> None:
    for number in (*range(1, 11), *range(21, 41)):
        for kind in ("img", "label"):
            path = tmp_path / "RawData" / "Training" / kind / f"{kind}{number:04d}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(bytes(number))
    scan = malbcv().scan(tmp_path)
    assert not scan.faults
    assert Counter(case.split for case in scan.cases) == {"train": 24, "test": 6}


def paths(root: Path, number: int = 2) -> tuple[Path, Path]:
    training = root / "RawData" / "Training"
    return training / f"img/img{number:04d}.nii.gz", training / f"label/label{number:04d}.nii.gz"


def test_image_without_label(ct: Path) -> None:
    image, label = paths(ct)
    label.unlink()
    assert f"{image}: image without mask" in only_fault(malbcv(), ct)


def test_label_without_image(ct: Path) -> None:
    image, label = paths(ct)
    image.unlink()
    assert f"{label}: mask without image" in only_fault(malbcv(), ct)


def test_no_label_folder(ct: Path) -> None:
    folder = ct / "RawData/Training/label"
    shutil.rmtree(folder)
    assert f"{folder}: missing folder" in malbcv().scan(ct).faults


def test_two_files_for_one_number(ct: Path) -> None:
    image, _ = paths(ct)
    nibabel.save(nibabel.load(image), image.with_suffix(""))
    assert "img0002.nii.gz: id '0002' twice, also" in only_fault(malbcv(), ct)


def test_training_image_among_the_unlabelled(ct: Path) -> None:
    image, _ = paths(ct)
    again = shutil.copy(image, ct / "RawData/Testing/img")
    assert f"{again}: also a training image, {image}" in only_fault(malbcv(), ct)


def test_one_scan_under_two_numbers(ct: Path) -> None:
    image, label = paths(ct)
    for path, other in ((image, "img0030"), (label, "label0030")):
        shutil.copy(path, path.with_name(f"{other}.nii.gz"))
    fault = only_fault(malbcv(), ct)
    assert "img0030.nii.gz: the same scan as" in fault
    assert str(image) in fault


def test_an_empty_malbcv_split(ct: Path) -> None:
    for number in (1, 9):
        for path in paths(ct, number):
            path.unlink()
    assert "RawData: split 'test' is empty" in only_fault(malbcv(), ct)


def test_without_the_unlabelled(ct: Path) -> None:
    shutil.rmtree(ct / "RawData/Testing")
    assert len(malbcv().cases(ct)) == 5


def relabel(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> None:
    old = nibabel.load(path)
    nibabel.save(nibabel.Nifti1Image(array, old.affine if affine is None else affine), path)


@pytest.mark.parametrize("value", [14, -1, 1.5, np.nan])
def test_unknown_label(value: float, ct: Path) -> None:
    _, label = paths(ct)
    array = np.asarray(nibabel.load(label).dataobj).astype(np.float32)
    array[0, 0, 0] = value
    relabel(label, array)
    fault = broken(malbcv(), ct, "0002")
    finite = f"unknown label values {value:g};"
    assert f"{label}: {finite if np.isfinite(value) else '1 voxels are NaN or infinite;'}" in fault


def test_whole_numbers_may_be_stored_as_floats(ct: Path) -> None:
    dataset = malbcv()
    _, label = paths(ct)
    case = case_of(dataset, ct, "0002")
    before = dataset.read_label(case)
    relabel(label, np.asarray(nibabel.load(label).dataobj).astype(np.float32))
    after = dataset.read_label(case)
    assert after.dtype == np.uint8
    assert np.array_equal(before, after)


def test_label_of_another_shape(ct: Path) -> None:
    _, label = paths(ct)
    relabel(label, np.asarray(nibabel.load(label).dataobj)[:-1])
    fault = broken(malbcv(), ct, "0002")
    assert f"{label}: shape (" in fault


@pytest.mark.parametrize(("share", "faulty"), [(0.1, False), (1.0, True)])
def test_label_in_another_place(share: float, faulty: bool, ct: Path) -> None:
    _, label = paths(ct)
    file = nibabel.load(label)
    affine = file.affine.copy()
    affine[0, 3] += share * 3.5  # mm, about a voxel
    relabel(label, np.asarray(file.dataobj), affine)
    if faulty:
        assert f"{label}: its affine differs from that of img0002" in broken(malbcv(), ct, "0002")
    else:
        assert malbcv().read_label(case_of(malbcv(), ct, "0002")).any()


@pytest.mark.parametrize("kind", [0, 1], ids=["image", "label"])
@pytest.mark.parametrize("damage", ["truncated", "text"])
def test_broken_nifti(kind: int, damage: str, ct: Path) -> None:
    path = paths(ct)[kind]
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if damage == "truncated" else b"no image\n" * 99)
    case = case_of(malbcv(), ct, "0002")
    read = (malbcv().read_image, malbcv().read_label)[kind]
    with pytest.raises(DataFault, match=f"{path}: not a whole NIfTI file"):
        read(case)


@pytest.mark.parametrize(
    ("axis", "name"), [(0, "feet to head"), (1, "front to back"), (2, "right to left")]
)
def test_an_array_flipped_without_its_header(axis: int, name: str, ct: Path) -> None:
    for path in paths(ct):  # image and label alike, as copies of the release have it
        file = nibabel.load(path)
        world = ("IS", "AP", "LR")[axis]
        along = next(i for i, c in enumerate(nibabel.aff2axcodes(file.affine)) if c in world)
        relabel(path, np.flip(np.asarray(file.dataobj), along))
    fault = broken(malbcv(), ct, "0002")
    assert f"the other way round from {name}" in fault


# --- what both share


def test_classes_mean_the_same_in_both() -> None:
    assert CHAOS.labels == MALBCV.labels
    assert list(CHAOS.labels) == ["background", "liver", "right_kidney", "left_kidney", "spleen"]


def test_volumes_that_coincide() -> None:
    affine = np.diag([1.0, 2, 3, 1])
    for shift, same in ((0.0, True), (0.4, True), (0.6, False)):
        other = affine.copy()
        other[2, 3] += shift
        assert coincide((9, 9, 9), affine, other) == same
    turned = affine.copy()
    turned[1, 0] = 0.2  # none at the first corner, 1.6 mm at the last
    assert not coincide((9, 9, 9), affine, turned)


def test_a_label_of_another_image_is_not_saved(tmp_path: Path) -> None:
    image, label = tmp_path / "img.nii", np.zeros((2, 3, 4), np.uint8)
    with pytest.raises(ValueError, match=r"img.nii: the image is \(2, 3, 4\), the mask to save"):
        save_over(image, (2, 3, 4), np.eye(4), label=label, stem=tmp_path / "a")
