"""The evaluator on masks that were saved by anyone: PNG or NIfTI, files or folders."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from sfdabench.core import registry
from sfdabench.core.errors import BadInput
from sfdabench.core.protocol import Protocol
from sfdabench.evaluate.score import Tally
from sfdabench.formats import pictures
from sfdabench.formats.volumes import (
    ROUNDING,
    SKEWED,
    canonical,
    canonical_spacing,
    coincide,
    open_nifti,
    places_voxels,
    right_angles,
)

SUFFIXES = (".png", ".nii", ".nii.gz")
GREY = ("1", "L", "LA", "I", "I;16", "P", "PA", "RGB", "RGBA")  # modes of Pillow; a palette may be
ANEW = "save this mask anew"
MAX_LABEL = 2**32 - 1  # of the widest type that masks come in
Pair = tuple[str, Path, Path]  # case, prediction, reference


def _suffix(path: Path) -> str | None:
    return next((s for s in SUFFIXES[::-1] if path.name.lower().endswith(s)), None)


def read_mask(path: Path, *, header: bool = False) -> tuple[Any, np.ndarray | None]:
    """Label map in the file's own axes and type, and its affine (None for PNG).

    With `header` the shape in place of the label map. Raises BadInput for another kind of file, a
    broken one, colours, a number of axes other than 2 or 3, or values that are not whole.
    """
    suffix = _suffix(path)
    if suffix is None:
        raise BadInput(f"{path}: masks are read from {', '.join(SUFFIXES)}")
    return (_read_png(path, header), None) if suffix == ".png" else _read_nifti(path, header)


def _read_png(path: Path, header: bool) -> Any:
    image = pictures.read(path, header=header, cure=ANEW)
    if image.mode not in GREY:
        raise BadInput(f"{path}: pixels of mode {image.mode}; a mask has whole grey values")
    if header:
        return image.size[::-1]
    if image.mode in ("P", "PA"):  # a viewer shows the colours of a palette, not its numbers
        image = image.convert("RGB")
    array = np.asarray(image.convert("L") if image.mode in ("1", "LA") else image)
    if array.ndim == 3:
        if (array[..., :3] != array[..., :1]).any():
            raise BadInput(f"{path}: a colour image; a mask has one grey value a pixel")
        array = array[..., 0]
    return array


def _read_nifti(path: Path, header: bool) -> tuple[Any, np.ndarray]:
    shape, affine, array = open_nifti(path, header=header, cure=ANEW)
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) not in (2, 3):
        raise BadInput(f"{path}: shape {shape}; a mask has 2 or 3 axes, so save one file a volume")
    if not places_voxels(affine):
        raise BadInput(f"{path}: its affine places the voxels nowhere; convert the file anew")
    if not right_angles(affine):
        raise BadInput(f"{path}: {SKEWED}")
    if array is None:
        return shape, affine
    if array.dtype.kind not in "iu" and not _whole(array):
        raise BadInput(f"{path}: holds values that are no whole numbers; a mask holds labels")
    return array.reshape(shape), affine


def _whole(array: np.ndarray) -> bool:
    return array.dtype.kind == "f" and bool((np.isfinite(array) & (array == np.round(array))).all())


def _pairs(prediction: Path, reference: Path) -> list[Pair]:
    for flag, path in (("--prediction", prediction), ("--reference", reference)):
        if not (path.is_file() or path.is_dir()):
            raise BadInput(f"{flag} {path}: no such file or folder")
    if prediction.is_dir() != reference.is_dir():
        raise BadInput("--prediction and --reference: give two files or two folders")
    if prediction.is_file():
        return [(reference.name, prediction, reference)]
    given, wanted = _masks_in("--prediction", prediction), _masks_in("--reference", reference)
    if wanted != given:
        lacking, extra = sorted(wanted - given), sorted(given - wanted)
        raise BadInput(
            f"--prediction {prediction}: {len(lacking)} reference(s) without a prediction "
            f"{lacking[:3]}, {len(extra)} prediction(s) without a reference {extra[:3]}; a case "
            "that is left out would change the mean"
        )
    return [(name, prediction / name, reference / name) for name in sorted(wanted)]


def _masks_in(flag: str, folder: Path) -> set[str]:
    """Names of the masks in a folder; raises BadInput where only its sub-folders hold some."""
    found = {
        path.name
        for path in folder.iterdir()
        if _suffix(path) and not path.name.startswith(".")  # ._name.png is of macOS
    }
    if not found:
        inner = sorted({str(path.parent) for path in folder.rglob("*") if _suffix(path)})
        cure = f"; masks are in {', '.join(inner[:5])}: score one at a time" if inner else ""
        raise BadInput(f"{flag} {folder}: no mask ({', '.join(SUFFIXES)}) there{cure}")
    return found


def _check_grids(pairs: Sequence[Pair]) -> None:
    """Hold each prediction's shape and affine against its reference's, by their headers."""
    for _, p_path, r_path in pairs:
        (p, p_affine), (r, r_affine) = (read_mask(x, header=True) for x in (p_path, r_path))
        if p != r:
            raise BadInput(f"{p_path}: shape {p}, its reference {r_path} has {r}")
        if p_affine is None or r_affine is None:
            continue
        if not coincide((*r, 1)[:3], p_affine, r_affine, within=ROUNDING):
            raise BadInput(f"{p_path}: its affine differs from that of {r_path}; resample it first")


def parse_classes(texts: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """'disc=0,128' texts -> class name -> label values.

    Raises BadInput for another form, a name given twice, and values that no mask can hold.
    """
    classes: dict[str, tuple[int, ...]] = {}
    for text in texts:
        name, equals, values = text.partition("=")
        try:
            parsed = tuple(int(v) for v in values.split(","))
        except ValueError:
            equals = ""
        if not equals or not name:
            raise BadInput(f"--class {text}: expected NAME=VALUE[,VALUE], such as disc=0,128")
        if not all(0 <= value <= MAX_LABEL for value in parsed):
            raise BadInput(f"--class {text}: labels are whole numbers from 0 to {MAX_LABEL}")
        if name in classes:
            raise BadInput(
                f"--class {text}: {name} is given twice; put all its values into one, such as "
                f"{name}={','.join(map(str, dict.fromkeys(classes[name] + parsed)))}"
            )
        classes[name] = parsed
    return classes


def _values(paths: Iterable[Path]) -> set[int]:
    """Every value that one of these masks holds."""
    return {int(value) for path in paths for value in np.unique(read_mask(path)[0])}


def _every_value(
    prediction: Path, reference: Path, pairs: Sequence[Pair]
) -> dict[str, tuple[int, ...]]:
    """A class for each value but 0 that a reference holds."""
    given, known = _values(p for _, p, _ in pairs), _values(r for _, _, r in pairs)
    known -= {0}
    strange = given - known - {0}
    if strange:
        raise BadInput(
            f"--prediction {prediction}: holds values {sorted(strange)} that no reference "
            f"holds ({sorted(known)}); bring both to one encoding, or name classes by --class"
        )
    if not known:
        raise BadInput(f"--reference {reference}: every mask is empty; name classes by --class")
    return {str(value): (value,) for value in sorted(known)}


def _scores_masks(protocol: str) -> Protocol:
    """The protocol; raises BadInput where it is made of more than masks on their own grid.

    Steps on masks are refused too: they act on axial planes of classes, before classes are united.
    """
    rule: Protocol = registry.load("protocols", protocol)
    reasons = {
        "it scores on the network's grid": rule.geometry != "original",
        "its threshold is not the 0.5 of saved masks": rule.threshold != 0.5,
        "its network predicts in train mode": rule.mode != "eval",
        "it cleans up each class's planes": bool(rule.postprocess),
        "it scores against each rater": rule.references != "majority",
        "it reproduces defects of a code": bool(rule.legacy),
        "it differs by data set": bool(rule.exceptions),
    }
    found = [reason for reason, holds in reasons.items() if holds]
    if found:
        raise BadInput(
            f"--protocol {protocol}: saved masks cannot be scored by it, since "
            f"{' and '.join(found)}; `sfdabench run --protocol {protocol}` does, here take "
            "--protocol strict"
        )
    return rule


def _read_pair(
    p_path: Path, r_path: Path
) -> tuple[np.ndarray, np.ndarray, tuple[float, ...] | None]:
    """Prediction, reference and spacing in mm (None for PNG); volumes in the suite's axes."""
    p, _ = read_mask(p_path)
    r, affine = read_mask(r_path)
    if affine is None:
        return p, r, None
    if r.ndim == 3:
        p, r, spacing = canonical(p, affine), canonical(r, affine), canonical_spacing(affine)
        wide = [axis for axis in range(3) if r.shape[axis] > 1]
        if len(wide) == 3:
            return p, r, spacing
        # A plane that is saved as a volume: each of its pixels would lie on the surface.
        flat = tuple(axis for axis in range(3) if axis not in wide)[:1]
        kept = tuple(size for axis, size in enumerate(spacing) if axis not in flat)
        return p.squeeze(flat), r.squeeze(flat), kept
    from nibabel.affines import voxel_sizes

    return p, r, tuple(float(size) for size in voxel_sizes(affine)[:2])


def score_saved(
    prediction: Path,
    reference: Path,
    protocol: str,
    classes: Mapping[str, Sequence[int]] | None = None,
) -> list[dict[str, Any]]:
    """One row a case and class: case, label, the protocol's metrics, names of undefined ones.

    classes: name -> label values; by default every value but 0 in a reference is one class. A
    protocol of slices has a row a plane. Holds one pair of masks at a time.
    Raises BadInput for pairs that do not match in name, shape, affine or label values, for a class
    that is in no mask, and for a protocol that needs more than masks.
    """
    rule = _scores_masks(protocol)
    pairs = _pairs(prediction, reference)
    _check_grids(pairs)
    classes = classes or _every_value(prediction, reference, pairs)
    tally, present = Tally(rule, list(classes)), set[str]()
    for case, p_path, r_path in pairs:
        p, r, spacing = _read_pair(p_path, r_path)
        shown, truth = (np.stack([np.isin(m, v) for v in classes.values()]) for m in (p, r))
        for name, mask, reference_mask in zip(classes, shown, truth, strict=True):
            if mask.any() or reference_mask.any():
                present.add(name)
        tally.add(case, shown, truth, spacing)
    if not tally.scores:
        raise BadInput(f"--reference {reference}: {protocol} leaves out empty masks, and all are")
    for name, wanted in classes.items():
        if name not in present:
            text = ",".join(map(str, wanted))
            values = sorted(_values(path for _, *both in pairs for path in both))
            raise BadInput(
                f"--class {name}={text}: no mask holds {text}; they hold "
                f"{pictures.few(values)}{', ...' if len(values) > 5 else ''}"
            )
    return list(_rows(tally))


def _rows(tally: Tally) -> Iterator[dict[str, Any]]:
    for (case, name), scores in groupby(tally.scores, key=lambda score: (score.case, score.class_)):
        members = list(scores)
        row: dict[str, Any] = {"case": case, "label": name}
        row |= {score.metric: score.value for score in members}
        yield row | {"undefined": [score.metric for score in members if score.undefined]}
