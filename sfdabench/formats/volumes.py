"""What the volume adapters share: canonical axes, and NIfTI files in and out.

Inside the suite a volume is (D, H, W): D from inferior to superior, H from anterior to posterior,
W from the patient's right to left, so that a plane shows as radiologists hang it. Files have any
axis order; their affine (to RAS+ millimetres, as nibabel has it) says which.
"""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np

from sfdabench.core.errors import DataFault
from sfdabench.core.files import regular
from sfdabench.core.system_errors import explained

ORDERS: tuple[Literal["little", "big"], ...] = ("little", "big")
CANONICAL = ("L", "P", "S")  # of axes x, y, z; the suite's arrays have them reversed
HALF = 0.5  # ours: of a voxel; no voxel covers another one's place
SKEW = 0.01  # ours: cosine between two axes; 0.6 degrees, more than rounding in any header makes
SKEWED = "its axes are not at right angles (a tilted gantry?); resample it onto a straight grid"
ROUNDING = 0.1  # ours: of a voxel at the corners, where rounded headers differ most
AGAIN = "get this file again from the authors"
MAX_BYTES = 2**30  # ours: of the voxels as stored; 2000 slices of 512 x 512 as int16
MAX_OFFSET = 2**24  # ours: bytes in front of the voxels, header and extensions
MAX_TAIL = 2**20  # ours: bytes behind the voxels


def canonical(array: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """File order (X, Y, Z) -> canonical (D, H, W); axes swapped and flipped, never resampled."""
    from nibabel.orientations import apply_orientation

    return np.ascontiguousarray(apply_orientation(array, _turn(affine)).transpose(2, 1, 0))


def original(array: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Canonical (D, H, W) -> the order (X, Y, Z) of a file with this affine; undoes `canonical`."""
    from nibabel.orientations import apply_orientation

    back = _turn(affine, backwards=True)
    return np.ascontiguousarray(apply_orientation(array.transpose(2, 1, 0), back))


def canonical_spacing(affine: np.ndarray) -> tuple[float, float, float]:
    """Millimetres a step along (D, H, W), for a file with this affine."""
    from nibabel.affines import voxel_sizes

    sizes = voxel_sizes(affine)
    x, y, z = (float(sizes[i]) for i in np.argsort(_turn(affine)[:, 0]))
    return z, y, x


def _turn(affine: np.ndarray, *, backwards: bool = False) -> np.ndarray:
    from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

    pair = io_orientation(affine), axcodes2ornt(CANONICAL)
    return ornt_transform(*(pair[::-1] if backwards else pair))


def coincide(
    shape: Sequence[int], one: np.ndarray, other: np.ndarray, *, within: float = HALF
) -> bool:
    """Two affines put each corner of a volume (X, Y, Z) within so many voxels of one place."""
    corners = np.array([(*corner, 1) for corner in product(*((0, n - 1) for n in shape))])
    apart = np.linalg.norm(corners @ (one - other).T, axis=1).max()
    return bool(apart < within * np.linalg.norm(one[:3, :3], axis=0).min())


def read_volume(path: Path) -> tuple[np.ndarray, tuple[float, float, float]]:
    """A NIfTI image as float32 (D, H, W) in canonical axes, and its spacing in mm."""
    array, affine = read_nifti(path)
    return canonical(array, affine).astype(np.float32), canonical_spacing(affine)


def read_over(
    image: Path, path: Path, *, within: float = ROUNDING
) -> tuple[np.ndarray, np.ndarray]:
    """`read_nifti` of a file whose voxels lie on those of `image`, within so many voxels.

    Raises DataFault where they do not.
    """
    array, affine = read_nifti(path)
    shape, place = read_nifti(image, header=True)
    if array.shape != tuple(shape):
        raise DataFault(
            f"{path}: shape {array.shape}, but {image.name} {tuple(shape)}; "
            "take both from the same release"
        )
    if not coincide(shape, affine, place, within=within):
        raise DataFault(
            f"{path}: its affine differs from that of {image.name}, so their voxels do not lie on "
            "one another; take both from the same release"
        )
    return array, affine


def save_over(
    image: Path, shape: Sequence[int], affine: np.ndarray, *, label: np.ndarray, stem: Path
) -> Path:
    """Save a canonical label (D, H, W) as `stem`.nii.gz on the grid (X, Y, Z) of its `image`.

    Raises ValueError where the label is not that image's.
    """
    array = original(label, affine)
    if array.shape != tuple(shape):
        raise ValueError(f"{image}: the image is {tuple(shape)}, the mask to save {array.shape}")
    path = stem.with_name(f"{stem.name}.nii.gz")
    write_nifti(path, array.astype(np.uint8), affine)
    return path


def read_nifti(path: Path, *, header: bool = False) -> tuple[Any, np.ndarray]:
    """(X, Y, Z) in file order and the affine; with `header` the shape in place of the array.

    Raises DataFault naming the file where it is missing, broken, not three-dimensional, or places
    its voxels nowhere.
    """
    shape, affine, array = open_nifti(path, header=header, cure=AGAIN)
    if len(shape) != 3:
        raise DataFault(f"{path}: shape {shape}, expected a volume of three axes")
    if not places_voxels(affine):
        raise DataFault(f"{path}: its affine places the voxels nowhere; convert the file anew")
    if not right_angles(affine):
        raise DataFault(f"{path}: {SKEWED}")
    return shape if array is None else array, affine


def open_nifti(
    path: Path, *, header: bool = False, cure: str
) -> tuple[tuple[int, ...], np.ndarray, np.ndarray | None]:
    """Shape, affine in mm, and the array in file order, None with `header`; of any number of axes.

    Raises DataFault naming the file and the `cure` where it is missing or broken, where its header
    gives an axis no length or claims more than MAX_BYTES or than the file holds, and where it holds
    colours or other values than plain numbers, numbers that are not finite, or a voxel size of 0.
    None of these takes more time or memory than the file should.
    """
    import nibabel
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError

    regular(path, cure, DataFault)
    broken = (ImageFileError, HeaderDataError, OSError, EOFError, ValueError, OverflowError)
    try:
        with explained(path, DataFault):
            raw = _raw_header(path)
            image: Any = nibabel.load(path)
            _check_header(image, raw, path)
            _check_length(image, path)
            shape, affine = image.shape, _in_millimetres(image)
            array = None if header else _voxels(image, path)
    except (*broken, zlib.error) as error:
        raise DataFault(f"{path}: not a whole NIfTI file ({error}); {cure}") from error
    if array is not None and array.dtype.kind == "f" and not np.isfinite(array).all():
        count = int((~np.isfinite(array)).sum())
        raise DataFault(f"{path}: {count} voxels are NaN or infinite; convert the file anew")
    return shape, affine, array


def _unpacked(path: Path) -> IO[bytes]:
    """The file, opened; a packed one is unpacked as it is read."""
    packed = path.suffix.lower() == ".gz"
    return gzip.open(path) if packed else path.open("rb")  # type: ignore[return-value]


def _raw_header(path: Path) -> Any:
    """The header as it stands in the file: nibabel corrects a voxel size of 0 when it loads one.

    Raises ValueError where nibabel would read more in front of the voxels than any file has there.
    """
    from nibabel.nifti1 import Nifti1Header
    from nibabel.nifti2 import Nifti2Header

    with _unpacked(path) as file:
        block = file.read(Nifti2Header.template_dtype.itemsize)
    of_2 = any(int.from_bytes(block[:4], order) == len(block) for order in ORDERS)
    kind = Nifti2Header if of_2 else Nifti1Header
    size = kind.template_dtype.itemsize
    if len(block) < size:
        raise ValueError(f"{len(block)} bytes, and a header takes {size}")
    raw = kind(block[:size], check=False)
    if not raw["vox_offset"] <= MAX_OFFSET:
        raise ValueError(f"its header says that {raw['vox_offset']:g} bytes lie before the voxels")
    return raw


def _check_header(image: Any, raw: Any, path: Path) -> None:
    """Refuse what nibabel would read as something else, and axes without a length."""
    if image.get_data_dtype().kind not in "iufb":
        raise DataFault(
            f"{path}: its values are colours or complex ({image.get_data_dtype()}), not one plain "
            "number a voxel; convert the file anew"
        )
    if min(image.shape, default=0) < 1:
        raise DataFault(f"{path}: shape {image.shape}, without a voxel; convert the file anew")
    if not isinstance(image.header, _nifti_header()) or int(image.header["sform_code"]) > 0:
        return
    sizes = raw["pixdim"][1 : 1 + min(3, len(image.shape))]
    if not (np.isfinite(sizes).all() and (sizes != 0).all()):
        raise DataFault(
            f"{path}: its header has voxel size {' x '.join(f'{size:g}' for size in sizes)} "
            "(pixdim); convert the file anew"
        )


def _check_length(image: Any, path: Path) -> None:
    """Refuse more voxels than can be held, and more than an unpacked file has room for."""
    size = math.prod(image.shape) * image.get_data_dtype().itemsize
    if size > MAX_BYTES:
        raise DataFault(
            f"{path}: shape {image.shape} of {image.get_data_dtype()} takes {size / 2**30:.1f} "
            f"GiB, and at most {MAX_BYTES / 2**30:.0f} GiB are read; crop the volume"
        )
    if path.suffix.lower() != ".gz" and path.stat().st_size < size:
        raise ValueError(f"{path.stat().st_size} bytes, and its voxels take {size}")


def _in_millimetres(image: Any) -> np.ndarray:
    """The affine of an image, whose header may count in metres or microns."""
    affine = np.asarray(image.affine, np.float64)
    if not isinstance(image.header, _nifti_header()):
        return affine
    scale = {"meter": 1e3, "micron": 1e-3}.get(image.header.get_xyzt_units()[0], 1.0)
    return np.diag([scale, scale, scale, 1.0]) @ affine


def _nifti_header() -> Any:
    """The class of headers of NIfTI files; other formats that nibabel reads have no unit."""
    from nibabel.nifti1 import Nifti1Header

    return Nifti1Header


def places_voxels(affine: np.ndarray) -> bool:
    """Whether voxels have a volume, and each axis of the file a direction of its own."""
    from nibabel.orientations import io_orientation

    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        return False
    return not np.isnan(io_orientation(affine)).any()


def right_angles(affine: np.ndarray) -> bool:
    """Whether the axes of a grid stand at right angles, to SKEW.

    Spacing says nothing of distances where they do not.
    """
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return bool(np.abs(axes.T @ axes - np.eye(3)).max() < SKEW)


def _voxels(image: Any, path: Path) -> np.ndarray:
    """The array of an image whose header is read; a packed file is unpacked once, to its end."""
    if path.suffix.lower() != ".gz":
        return np.asanyarray(image.dataobj)
    with _unpacked(path) as file:
        array = np.asanyarray(type(image).from_stream(file).dataobj)
        # Only behind the voxels lies the check sum.
        if len(file.read(MAX_TAIL + 1)) > MAX_TAIL:
            raise ValueError("it goes on behind its voxels")
    return array


def write_nifti(path: Path, array: np.ndarray, affine: np.ndarray) -> None:
    """Save (X, Y, Z) in file order, its folder included; the affine is in millimetres."""
    import nibabel

    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm")
    nibabel.save(image, path)
