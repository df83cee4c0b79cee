"""The evaluator on masks that were saved by anyone: PNG or NIfTI, files or folders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sfdabench.core import registry
from sfdabench.core.errors import BadInput
from sfdabench.core.protocol import Protocol
from sfdabench.evaluate.score import score_pair

SUFFIXES = (".png", ".nii", ".nii.gz")


def _suffix(path: Path) -> str | None:
    return next((s for s in SUFFIXES[::-1] if path.name.lower().endswith(s)), None)


def read_mask(path: Path) -> tuple[np.ndarray, tuple[float, ...] | None, np.ndarray | None]:
    """Label map, spacing in mm an axis (None for PNG), affine (None for PNG).

    Raises BadInput for another kind of file, a broken one, colours, or values that are not whole.
    """
    suffix = _suffix(path)
    if suffix is None:
        raise BadInput(f"{path}: masks are read from {', '.join(SUFFIXES)}")
    if suffix == ".png":
        from PIL import Image, UnidentifiedImageError

        try:
            with Image.open(path) as image:
                array = np.asarray(image)
        except (UnidentifiedImageError, OSError, SyntaxError) as error:
            raise BadInput(f"{path}: not a whole PNG image ({error})") from error
        if array.ndim == 3:
            if (array[..., :3] != array[..., :1]).any():
                raise BadInput(f"{path}: a colour image; a mask has one grey value a pixel")
            array = array[..., 0]
        return array.astype(np.int64), None, None
    import nibabel
    from nibabel.filebasedimages import ImageFileError

    try:
        volume = nibabel.load(path)
        array = np.asanyarray(volume.dataobj)
    except (ImageFileError, OSError, EOFError, ValueError) as error:
        raise BadInput(f"{path}: not a whole NIfTI file ({error})") from error
    if not np.array_equal(array, np.round(array)):
        raise BadInput(f"{path}: holds values that are no whole numbers; a mask holds labels")
    return array.astype(np.int64), tuple(float(z) for z in volume.header.get_zooms()), volume.affine


def _pairs(prediction: Path, reference: Path) -> list[tuple[str, Path, Path]]:
    for flag, path in (("--prediction", prediction), ("--reference", reference)):
        if not path.exists():
            raise BadInput(f"{flag} {path}: no such file or folder")
    if prediction.is_dir() != reference.is_dir():
        raise BadInput("--prediction and --reference: give two files or two folders")
    if prediction.is_file():
        return [(reference.name, prediction, reference)]
    wanted = {p.name for p in reference.iterdir() if _suffix(p)}
    given = {p.name for p in prediction.iterdir() if _suffix(p)}
    if not wanted:
        raise BadInput(f"--reference {reference}: no mask ({', '.join(SUFFIXES)}) there")
    if wanted != given:
        lacking, extra = sorted(wanted - given), sorted(given - wanted)
        raise BadInput(
            f"--prediction {prediction}: {len(lacking)} reference(s) without a prediction "
            f"{lacking[:3]}, {len(extra)} prediction(s) without a reference {extra[:3]}; a case "
            "that is left out would change the mean"
        )
    return [(name, prediction / name, reference / name) for name in sorted(wanted)]


def parse_classes(texts: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """'disc=0,128' texts -> class name -> label values."""
    classes = {}
    for text in texts:
        name, equals, values = text.partition("=")
        try:
            classes[name] = tuple(int(v) for v in values.split(","))
        except ValueError:
            equals = ""
        if not equals or not name:
            raise BadInput(f"--class {text}: expected NAME=VALUE[,VALUE], such as disc=0,128")
    return classes


def score_saved(
    prediction: Path,
    reference: Path,
    protocol: str,
    classes: Mapping[str, Sequence[int]] | None = None,
) -> list[dict[str, Any]]:
    """One row a case and class: case, label, the protocol's metrics, names of undefined ones.

    classes: name -> label values; by default every value but 0 in a reference is one class.
    Raises BadInput for pairs that do not match in name, shape, affine or label values.
    """
    rule: Protocol = registry.load("protocols", protocol)
    pairs = _pairs(prediction, reference)
    masks = []
    for case, p_path, r_path in pairs:
        p, _, p_affine = read_mask(p_path)
        r, spacing, r_affine = read_mask(r_path)
        if p.shape != r.shape:
            raise BadInput(f"{p_path}: shape {p.shape}, its reference {r_path} has {r.shape}")
        if p_affine is not None and r_affine is not None and not np.allclose(p_affine, r_affine):
            raise BadInput(f"{p_path}: its affine differs from that of {r_path}; resample it first")
        masks.append((case, p, r, spacing))
    if classes is None:
        known = {int(v) for _, _, r, _ in masks for v in np.unique(r)} - {0}
        strange = {int(v) for _, p, _, _ in masks for v in np.unique(p)} - known - {0}
        if strange:
            raise BadInput(
                f"--prediction {prediction}: holds values {sorted(strange)} that no reference "
                f"holds ({sorted(known)}); bring both to one encoding, or name classes by --class"
            )
        classes = {str(value): (value,) for value in sorted(known)}
    if not classes:
        raise BadInput(f"--reference {reference}: every mask is empty; name classes by --class")
    rows = []
    for case, p, r, spacing in masks:
        for name, values in classes.items():
            scores = score_pair(np.isin(p, values), np.isin(r, values), rule, spacing)
            row: dict[str, Any] = {"case": case, "label": name}
            row |= {metric: value for metric, (value, _) in scores.items()}
            row["undefined"] = [metric for metric, (_, undefined) in scores.items() if undefined]
            rows.append(row)
    return rows
