import gzip
import os
import tracemalloc
import zlib
from itertools import permutations, product
from pathlib import Path

import nibabel
import numpy as np
import pytest

from sfdabench.core.errors import DataFault
from sfdabench.formats import pictures, volumes

STEPS = {"R": 2.0, "A": 3.0, "S": 5.0}  # mm along the world's axes
OPPOSITE = dict(zip("RASLPI", "LPIRAS", strict=True))
ORDERS = ["".join(axes) for pairs in permutations(("RL", "AP", "IS")) for axes in product(*pairs)]


def world(axes: str) -> np.ndarray:
    """Affine of a file whose axes run in these directions."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    for column, code in enumerate(axes):
        positive = code if code in STEPS else OPPOSITE[code]
        affine["RAS".index(positive), column] = STEPS[positive] * (1 if code in STEPS else -1)
    affine[:3, 3] = 11, -7, 23
    return affine


def turned(degrees: float) -> np.ndarray:
    """A rotation about the first and then the third axis."""
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    matrix = np.eye(4)
    about_x, about_z = [[1, 0, 0], [0, c, -s], [0, s, c]], [[c, -s, 0], [s, c, 0], [0, 0, 1]]
    matrix[:3, :3] = np.array(about_z) @ about_x
    return matrix


def test_there_are_48_orders() -> None:
    assert len(set(ORDERS)) == 48


@pytest.mark.parametrize("axes", ORDERS)
@pytest.mark.parametrize("degrees", [0, 12])
def test_every_order_comes_to_one_and_back(axes: str, degrees: float) -> None:
    """Each voxel knows its world place, so that no mix-up of axes or directions can hide."""
    affine = turned(degrees) @ world(axes)
    lengths = dict(zip("RAS", (4, 5, 6), strict=True))
    shape = [lengths[code if code in lengths else OPPOSITE[code]] for code in axes]
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    upright = world(axes)
    place = index @ upright[:3, :3].T + upright[:3, 3]
    left, back, up = (
        volumes.canonical(sign * place[..., i], affine) for i, sign in ((0, -1), (1, -1), (2, 1))
    )
    assert left.shape == (6, 5, 4)
    assert np.allclose(np.diff(up, axis=0), 5)
    assert np.allclose(np.diff(back, axis=1), 3)
    assert np.allclose(np.diff(left, axis=2), 2)
    assert np.allclose(volumes.canonical_spacing(affine), (5, 3, 2))
    number = np.arange(120).reshape(shape)
    assert np.array_equal(volumes.original(volumes.canonical(number, affine), affine), number)


def test_arrays_are_contiguous() -> None:
    array = np.zeros((2, 3, 4))
    for turn in (volumes.canonical, volumes.original):
        assert turn(array, world("RSP")).flags.c_contiguous


def test_a_sheared_stack_keeps_its_order() -> None:
    """Slices taken by a tilted gantry: the third axis is not at right angles to the others."""
    affine = world("LPS")
    affine[1, 2] = 2.5
    array = np.arange(24).reshape(2, 3, 4)
    assert np.array_equal(volumes.canonical(array, affine), array.transpose(2, 1, 0))
    assert volumes.canonical_spacing(affine) == pytest.approx((np.hypot(5, 2.5), 3, 2))


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_file_round_trips(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / "new" / f"a{suffix}"
    array = np.arange(24, dtype=np.int16).reshape(2, 3, 4) - 12
    volumes.write_nifti(path, array, world("PIR"))
    read, affine = volumes.read_nifti(path)
    assert np.array_equal(read, array)
    assert np.allclose(affine, world("PIR"))
    shape, again = volumes.read_nifti(path, header=True)
    assert shape == (2, 3, 4)
    assert np.array_equal(again, affine)
    assert nibabel.load(path).header.get_xyzt_units()[0] == "mm"


def test_stored_scales_are_applied(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.ones((2, 2, 2), np.int16), np.eye(4))
    image.header.set_slope_inter(2, -1024)
    image.to_filename(tmp_path / "a.nii")
    with (tmp_path / "a.nii").open("r+b") as file:  # nibabel takes the values for scaled ones
        file.seek(352)
        file.write(np.full(8, 3, "<i2").tobytes())
    array, _ = volumes.read_nifti(tmp_path / "a.nii")
    assert (array == 2 * 3 - 1024).all()


def saved(path: Path, shape: tuple[int, ...] = (8, 8, 8)) -> bytes:
    rng = np.random.default_rng(0)
    nibabel.save(nibabel.Nifti1Image(rng.integers(0, 99, shape, np.int16), np.eye(4)), path)
    return path.read_bytes()


@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 0.98])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_truncated_file_is_named(suffix: str, share: float, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    whole = saved(path)
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(DataFault, match=f"{path}: not a whole NIfTI file"):
        volumes.read_nifti(path)


def test_a_garbled_archive_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"
    whole = bytearray(saved(path))
    whole[len(whole) // 2 :] = bytes(len(whole) - len(whole) // 2)
    path.write_bytes(whole)
    with pytest.raises(DataFault, match=f"{path}: not a whole NIfTI file"):
        volumes.read_nifti(path)


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_a_text_file_is_named(name: str, packed: bool, tmp_path: Path) -> None:
    text = b"no image\n" * 99
    (tmp_path / name).write_bytes(gzip.compress(text) if packed else text)
    with pytest.raises(DataFault, match=f"{name}: not a whole NIfTI file"):
        volumes.read_nifti(tmp_path / name)


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataFault, match=r"a\.nii\.gz: missing file"):
        volumes.read_nifti(tmp_path / "a.nii.gz")


@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 4, 2)])
def test_other_than_three_axes(shape: tuple[int, ...], tmp_path: Path) -> None:
    saved(tmp_path / "a.nii", shape)
    with pytest.raises(DataFault, match="expected a volume of three axes"):
        volumes.read_nifti(tmp_path / "a.nii", header=True)


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_an_affine_that_places_nothing(value: float, tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.zeros((2, 2, 2), np.int16), np.eye(4))
    image.header["srow_x"] = value
    image.header["sform_code"] = 1
    with (tmp_path / "a.nii").open("wb") as file:
        image.header["magic"] = b"n+1"
        image.header["vox_offset"] = 352
        file.write(image.header.binaryblock + bytes(4 + 16))
    with pytest.raises(DataFault, match="its affine places the voxels nowhere"):
        volumes.read_nifti(tmp_path / "a.nii")


def test_a_header_that_cannot_be(tmp_path: Path) -> None:
    """A type of voxel that there is not; an axis beside which another has no length."""
    saved(tmp_path / "a.nii", (4, 4, 4))
    header = bytearray((tmp_path / "a.nii").read_bytes())
    header[70] = 99
    (tmp_path / "a.nii").write_bytes(header)
    with pytest.raises(DataFault, match=r"a\.nii: not a whole NIfTI"):
        volumes.read_nifti(tmp_path / "a.nii")
    image = nibabel.Nifti1Image(np.ones((4, 4, 4), np.uint8), None)
    affine = np.eye(4)
    affine[1, 0] = 1e20
    image.header.set_sform(affine, code=1)
    image.to_filename(tmp_path / "b.nii")
    with pytest.raises(DataFault, match="its affine places the voxels nowhere"):
        volumes.read_nifti(tmp_path / "b.nii")


def test_a_file_over_an_image(tmp_path: Path) -> None:
    """Half a millimetre on the shortest step of two: within half a voxel, not within rounding."""
    image, over = tmp_path / "image.nii.gz", tmp_path / "over.nii.gz"
    array, place = np.arange(24, dtype=np.int16).reshape(2, 3, 4), world("RAS")
    volumes.write_nifti(image, array, place)
    for shift, within in ((0.1, volumes.ROUNDING), (0.5, volumes.HALF)):
        moved = place.copy()
        moved[0, 3] += shift
        volumes.write_nifti(over, array, moved)
        read, affine = volumes.read_over(image, over, within=within)
        assert np.array_equal(read, array)
        assert affine == pytest.approx(moved)
    with pytest.raises(DataFault, match=f"{over}: its affine differs from that of image.nii.gz"):
        volumes.read_over(image, over)
    volumes.write_nifti(over, array[:, :2], place)
    with pytest.raises(DataFault, match=r"over.nii.gz: shape \(2, 2, 4\), but image.nii.gz \(2, 3"):
        volumes.read_over(image, over)


def test_a_packed_file_is_unpacked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.nii.gz"
    saved(path, (64, 64, 64))
    unpacked = []
    check = zlib.crc32  # of all that is unpacked

    def counted(data: bytes, value: int = 0) -> int:
        unpacked.append(len(data))
        return check(data, value)

    monkeypatch.setattr(zlib, "crc32", counted)
    array, _ = volumes.read_nifti(path)
    assert array.nbytes < sum(unpacked) < 1.5 * array.nbytes


def test_a_wrong_check_sum_is_named(tmp_path: Path) -> None:
    """All voxels unpack; only the last eight bytes, which no reader of voxels needs, are wrong."""
    path = tmp_path / "a.nii.gz"
    whole = bytearray(saved(path))
    whole[-8] ^= 1
    path.write_bytes(whole)
    with pytest.raises(DataFault, match=f"{path}: not a whole NIfTI file .*CRC"):
        volumes.read_nifti(path)


def save(path: Path, array: np.ndarray, affine: np.ndarray, unit: str = "mm") -> Path:
    image = nibabel.Nifti1Image(array, affine)
    image.header.set_xyzt_units(unit)
    nibabel.save(image, path)
    return path


@pytest.mark.parametrize(("unit", "factor"), [("mm", 1.0), ("meter", 1e-3), ("micron", 1e3)])
def test_units_of_a_header_become_millimetres(tmp_path: Path, unit: str, factor: float) -> None:
    affine = np.diag([1.5 * factor, 2 * factor, 3 * factor, 1])
    path = save(tmp_path / "v.nii.gz", np.zeros((4, 5, 6), np.uint8), affine, unit)
    assert volumes.read_volume(path)[1] == pytest.approx((3, 2, 1.5))


def test_colours_are_refused(tmp_path: Path) -> None:
    colours = np.zeros((4, 5, 6), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    nibabel.save(nibabel.Nifti1Image(colours, np.eye(4)), tmp_path / "rgb.nii")
    for header in (False, True):
        with pytest.raises(DataFault, match=r"rgb.nii: its values are colours or complex"):
            volumes.read_nifti(tmp_path / "rgb.nii", header=header)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_voxels_that_are_not_finite_are_refused(tmp_path: Path, value: float) -> None:
    array = np.zeros((4, 5, 6), np.float32)
    array[1, 2, 3] = value
    path = save(tmp_path / "v.nii.gz", array, np.eye(4))
    with pytest.raises(DataFault, match=r"v.nii.gz: 1 voxels are NaN or infinite"):
        volumes.read_volume(path)


def test_axes_without_right_angles_are_refused(tmp_path: Path) -> None:
    affine = np.eye(4)
    affine[1, 2] = 0.4
    path = save(tmp_path / "tilted.nii.gz", np.zeros((4, 5, 6), np.uint8), affine)
    with pytest.raises(DataFault, match=r"tilted.nii.gz: its axes are not at right angles"):
        volumes.read_nifti(path, header=True)
    affine[1, 2] = 1e-3  # rounding
    save(path, np.zeros((4, 5, 6), np.uint8), affine)
    volumes.read_nifti(path, header=True)


def test_a_voxel_size_of_0_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "v.nii", np.zeros((4, 5, 6), np.uint8), np.eye(4))
    content = bytearray(path.read_bytes())
    content[80:84] = bytes(4)  # pixdim[1]
    content[252:256] = bytes([1, 0, 0, 0])  # a qform and no sform
    path.write_bytes(content)
    with pytest.raises(DataFault, match=r"v.nii: its header has voxel size 0 x 1 x 1"):
        volumes.read_nifti(path, header=True)


def lying(path: Path, **fields: object) -> Path:
    """A sound volume of 8 x 8 x 8 voxels whose header says something else, packed by its suffix."""
    image = nibabel.Nifti1Image(np.zeros((8, 8, 8), np.int16), np.eye(4))
    for name, value in fields.items():
        image.header[name] = value
    image.header["magic"] = b"n+1"
    image.header["vox_offset"] = fields.get("vox_offset", 352)
    content = image.header.binaryblock + bytes(4 + 1024)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def shape(*sizes: int) -> list[int]:
    return [len(sizes), *sizes, *[1] * (7 - len(sizes))]


@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dim": shape(32767, 32767, 32767)}, "and at most 1 GiB are read"),
        ({"dim": shape(1300, 1300, 1200)}, "and at most 1 GiB are read"),
        ({"dim": shape(32767, 32767, 32767, 32767)}, "and at most 1 GiB are read"),
        ({"dim": shape(0, 8, 8)}, "without a voxel"),
        ({"dim": shape(-8, 8, 8)}, "without a voxel"),
        ({"vox_offset": 1e9}, "bytes lie before the voxels"),
        ({"vox_offset": np.nan}, "bytes lie before the voxels"),
    ],
)
def test_a_header_that_lies_is_found_out_before_anything_is_held(
    tmp_path: Path, suffix: str, header: bool, fields: dict[str, object], message: str
) -> None:
    path = lying(tmp_path / f"a{suffix}", **fields)
    tracemalloc.start()
    with pytest.raises(DataFault, match=rf"{path}: .*{message}"):
        volumes.read_nifti(path, header=header)
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()


def test_more_voxels_than_an_unpacked_file_holds(tmp_path: Path) -> None:
    path = lying(tmp_path / "a.nii", dim=shape(512, 512, 512))
    with pytest.raises(
        DataFault, match=r"not a whole NIfTI file \(1376 bytes, and its voxels take"
    ):
        volumes.read_nifti(path, header=True)


def test_a_packed_file_may_not_go_on_for_ever(tmp_path: Path) -> None:
    """4 MB of gzip may hold 4 GB behind the voxels; a few bytes there are no fault."""
    for extra, goes_on in ((100, False), (volumes.MAX_TAIL + 1, True)):
        path = tmp_path / "a.nii.gz"
        sound = gzip.decompress(lying(path).read_bytes())
        path.write_bytes(gzip.compress(sound + bytes(extra)))
        if goes_on:
            with pytest.raises(DataFault, match="it goes on behind its voxels"):
                volumes.read_nifti(path)
        else:
            assert volumes.read_nifti(path)[0].shape == (8, 8, 8)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.nii.gz")
    (tmp_path / "loop.nii").symlink_to("loop.nii")
    (tmp_path / "folder.nii").mkdir()
    for name, message in (
        ("pipe.nii.gz", "is not a file"),
        ("loop.nii", "cannot be reached"),
        ("folder.nii", "is not a file"),
    ):
        with pytest.raises(DataFault, match=f"{name}: {message}"):
            volumes.read_nifti(tmp_path / name)
        with pytest.raises(DataFault, match=f"{name}: {message}"):
            pictures.read(tmp_path / name)
