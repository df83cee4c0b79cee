"""What the volume adapters share: canonical axes, and NIfTI files in and out.

Inside the suite a volume is (D, H, W): D from inferior to superior, H from anterior to posterior,
W from the patient's right to left, so that a plane shows as radiologists hang it. Files have any
axis order; their affine (to RAS+ millimetres, as nibabel has it) says which.
"""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from sfdabench.core.errors import DataFault

CANONICAL = ("L", "P", "S")  # of axes x, y, z; the suite's arrays have them reversed


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


def read_nifti(path: Path, *, header: bool = False) -> tuple[Any, np.ndarray]:
    """(X, Y, Z) in file order and the affine; with `header` the shape in place of the array.

    Raises DataFault naming the file where it is missing, broken, not three-dimensional, or places
    its voxels nowhere.
    """
    import nibabel
    from nibabel.filebasedimages import ImageFileError

    try:
        if not header and path.suffix.lower() == ".gz":
            _check_sum(path)
        image = nibabel.load(path)
        shape, affine = image.shape, np.asarray(image.affine, np.float64)
        array = shape if header else np.asanyarray(image.dataobj)
    except FileNotFoundError:
        raise DataFault(f"{path}: missing file") from None
    except (ImageFileError, OSError, EOFError, ValueError, zlib.error) as error:
        raise DataFault(
            f"{path}: not a whole NIfTI file ({error}); get this file again from the authors"
        ) from error
    if len(shape) != 3:
        raise DataFault(f"{path}: shape {shape}, expected a volume of three axes")
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise DataFault(f"{path}: its affine places the voxels nowhere; convert the file anew")
    return array, affine


def _check_sum(path: Path) -> None:
    """Unpack to the end: only there the check sum lies, and nibabel stops short of it."""
    with gzip.open(path) as file:
        while file.read(1 << 20):
            pass


def write_nifti(path: Path, array: np.ndarray, affine: np.ndarray) -> None:
    """Save (X, Y, Z) in file order, its folder included; the affine is in millimetres."""
    import nibabel

    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm")
    nibabel.save(image, path)
