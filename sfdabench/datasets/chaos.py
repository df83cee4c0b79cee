"""CHAOS: MR of 20 patients with four organs (T2-SPIR, T1 in and out of phase), CT with the liver.

A series is a folder of DICOM files with a folder of PNG masks. The masks go with the files, and
the files do not always run in the order of the slices: each mask is paired with its own file by
name, then the pairs are put in order along the slice normal.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from sfdabench.core.dataset import Card, Case, Dataset, Scan
from sfdabench.core.errors import DataFault
from sfdabench.core.seeding import generator
from sfdabench.datasets import _dicom as dicom
from sfdabench.datasets._abdomen import LABELS, check_header_is_true, locate
from sfdabench.datasets._files import empty_splits, label_files, same_scan_twice, twice
from sfdabench.formats.pictures import few, grey, write
from sfdabench.formats.volumes import canonical_spacing, coincide, original, save_over
from sfdabench.phantoms import abdomen as phantom

Files = tuple[Path, ...]
MR_TEST = frozenset((1, 13, 32, 38))  # SIFA's authors, issues 34 and 43
SEQUENCE = {"MR": "t2spir", "CT": "ct"}  # that every patient must have
UNKNOWN = 255


def _table(levels: Mapping[int, tuple[int, int]]) -> np.ndarray:
    """Label by grey value, UNKNOWN outside the ranges (both ends included)."""
    table = np.full(256, UNKNOWN, np.uint8)
    for label, (low, high) in levels.items():
        table[low : high + 1] = label
    return table


MR_TABLE = _table({0: (0, 0), 1: (55, 70), 2: (110, 135), 3: (175, 200), 4: (240, 255)})
CT_TABLE = _table({0: (0, 0), 1: (255, 255)})
MR_GREY = np.array([0, 63, 126, 189, 252], np.uint8)  # by label
CT_GREY = np.array([0, 255, 0, 0, 0], np.uint8)
PHANTOM_MR = (*sorted(MR_TEST), 2, 3, 5, 8, 10, 15, *range(19, 23), 31, 33)
PHANTOM_AXES = ("LPS", "RAS")  # of columns, rows and slices


class CHAOS(Dataset):
    """Each sequence of a patient is a case of its own."""

    card = Card(
        title="CHAOS",
        licence="CC BY-SA 4.0 as the release lists it (not verified)",
        url="https://chaos.grand-challenge.org",
        citation="Kavur et al., CHAOS Challenge, Medical Image Analysis 69, 2021",
        obtain="download CHAOS_Train_Sets.zip from zenodo.org/record/3431873 and unpack it",
        tree="""\
Train_Sets/MR/<id>/T2SPIR/{DICOM_anon/*.dcm,Ground/*.png}
Train_Sets/MR/<id>/T1DUAL/DICOM_anon/{InPhase,OutPhase}/*.dcm     (optional)
Train_Sets/MR/<id>/T1DUAL/Ground/*.png
Train_Sets/CT/<id>/{DICOM_anon/*.dcm,Ground/*.png}                (optional)
(all below the root, abdomen/, Abdomen/, CHAOS/, chaos/ or CHAOS_Train_Sets/)""",
    )
    labels = LABELS
    channels = ("image",)
    counts: ClassVar = {
        "official": {
            f"{sequence}-{part}": number
            for sequence in ("t2spir", "t1in", "t1out")
            for part, number in (("train", 16), ("test", 4))
        }
        | {"ct-train": 20}
    }
    folders = ("CHAOS", "chaos", "CHAOS_Train_Sets", "CHAOS/CHAOS_Train_Sets")
    phantom_mr: ClassVar[tuple[int, ...]] = PHANTOM_MR
    phantom_t1: ClassVar[tuple[int, ...]] = (1, 2, 3)
    phantom_ct: ClassVar[tuple[int, ...]] = (1, 2)
    smoke: ClassVar = {"phantom_mr": (1,), "phantom_t1": (1,), "phantom_ct": (1,)}

    def scan(self, root: Path) -> Scan:
        base = locate(root, self.card, self.folders, "Train_Sets")
        kinds = [kind for kind in SEQUENCE if (base / kind).is_dir()]
        if not kinds:
            raise DataFault(f"{base}: holds neither MR nor CT; the card shows the expected tree")
        scan = Scan()
        for number, folder in _patients(scan, base, "MR").items():
            part = "test" if number in MR_TEST else "train"
            pairs = _pairs(scan, folder / "T2SPIR" / "DICOM_anon", folder / "T2SPIR" / "Ground")
            _add(scan, f"mr-t2spir-{number}", f"t2spir-{part}", *pairs)
            if (folder / "T1DUAL").is_dir():
                _dual_echo(scan, folder / "T1DUAL", number, part)
        for number, folder in _patients(scan, base, "CT").items():
            pairs = _pairs(scan, folder / "DICOM_anon", folder / "Ground")
            _add(scan, f"ct-{number}", "ct-train", *pairs)
        scan.faults += same_scan_twice(scan.cases)
        if not scan.faults:
            begun = {_sequence(case.split) for case in scan.cases}
            begun |= {SEQUENCE[kind] for kind in kinds}
            expected = [s for s in self.counts["official"] if _sequence(s) in begun]
            scan.faults += empty_splits(scan, expected, base)
        return scan

    def read_image(
        self, case: Case, channels: tuple[str, ...] = ()
    ) -> tuple[np.ndarray, tuple[float, ...]]:
        stack = dicom.stack(case.image)
        image = stack.volume([dicom.pixels(path) for path in case.image])
        return image[None].astype(np.float32), canonical_spacing(stack.affine)

    def read_label(self, case: Case) -> np.ndarray:
        files = label_files(case)
        masks, drawn_on = files[: len(case.image)], files[len(case.image) :]
        stack = dicom.stack(drawn_on or case.image)
        if drawn_on:
            opposed = dicom.stack(case.image)
            if opposed.shape != stack.shape or not coincide(
                stack.shape, stack.affine, opposed.affine
            ):
                raise DataFault(
                    f"{case.image[0].parent}: does not lie where {drawn_on[0].parent.name} does, "
                    "on which its masks were drawn; unpack this patient again"
                )
        table = CT_TABLE if case.split == "ct-train" else MR_TABLE
        label = stack.volume([_mask(path, stack.shape[1::-1], table) for path in masks])
        check_header_is_true(label, masks[0].parent)
        return label

    def write_mask(self, case: Case, label: np.ndarray, stem: Path) -> Path:
        stack = dicom.stack(case.image)
        return save_over(case.image[0], stack.shape, stack.affine, label=label, stem=stem)

    def phantom(self, root: Path, seed: int) -> None:
        """Write synthetic cases in the official layout; files never run in the order of slices."""
        train = root / "Train_Sets"
        for number in self.phantom_mr:
            series = _Series("MR", seed, number, phantom.MR_GRID, PHANTOM_AXES[number % 2])
            count = len(series.patient.label)
            names = [f"IMG-{number:04d}-{k + 1:05d}" for k in range(count)]
            folder = train / "MR" / str(number)
            series.write(folder / "T2SPIR" / "DICOM_anon", names, phantom.T2SPIR)
            series.write_masks(folder / "T2SPIR" / "Ground", names, MR_GREY)
            if number in self.phantom_t1:
                dual = folder / "T1DUAL"
                names = [f"IMG-{number:04d}-{k + 1:05d}" for k in range(2 * count)]
                series.write(dual / "DICOM_anon" / "OutPhase", names[::2], phantom.T1OUT)
                series.write(dual / "DICOM_anon" / "InPhase", names[1::2], phantom.T1IN)
                series.write_masks(dual / "Ground", names[1::2], MR_GREY)
        for number in self.phantom_ct:
            series = _Series("CT", seed, number, phantom.CT_GRID, "LPS")
            slices = range(len(series.patient.label))
            folder = train / "CT" / str(number)
            series.write(folder / "DICOM_anon", [f"i{k:04d},0000b" for k in slices], phantom.CT)
            series.write_masks(folder / "Ground", [f"liver_GT_{k:03d}" for k in slices], CT_GREY)


def _sequence(split: str) -> str:
    return split.partition("-")[0]


def _patients(scan: Scan, base: Path, kind: str) -> dict[int, Path]:
    """Number -> folder, sorted; faults: not a number, a number twice, one of the test set's."""
    found: dict[int, Path] = {}
    for folder in (base / kind, base.parent / "Test_Sets" / kind):
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if not path.is_dir() or path.name.startswith("."):
                continue
            if not path.name.isdecimal():
                scan.faults.append(f"{path}: not a patient's number; take it out of {folder}")
            elif int(path.name) in found:
                number = int(path.name)
                scan.faults.append(twice(path, f"patient {number}", found[number]))
            elif folder.parent == base:
                found[int(path.name)] = path
    return dict(sorted(found.items()))


def _listing(scan: Scan, folder: Path, suffix: str) -> Files:
    """Files by name, numbers in it as numbers; it is a fault if there are none."""
    if not folder.is_dir():
        scan.faults.append(f"{folder}: missing folder; unpack this patient again")
        return ()
    files = [p for p in folder.iterdir() if p.suffix.lower() == suffix and p.name[0] != "."]
    if not files:
        scan.faults.append(f"{folder}: holds no {suffix} file; unpack this patient again")
    return tuple(sorted(files, key=lambda p: (*map(int, re.findall(r"\d+", p.stem)), p.stem)))


def _pairs(scan: Scan, slices: Path, ground: Path) -> tuple[Files, Files]:
    """The DICOM files of one folder and, as many, their masks; both empty where that is a fault.

    Masks bear the names of their files (MR), else both run in the order of their names (CT).
    """
    files, masks = _listing(scan, slices, ".dcm"), _listing(scan, ground, ".png")
    if not files or not masks:
        return (), ()
    images, truth = {p.stem: p for p in files}, {p.stem: p for p in masks}
    if images.keys().isdisjoint(truth):
        if len(files) == len(masks):
            return files, masks
        scan.faults.append(
            f"{ground}: {len(masks)} masks for the {len(files)} files of {slices}, and no name in "
            "common; unpack this patient again"
        )
        return (), ()
    bare = [images[name] for name in images if name not in truth]
    spare = [truth[name] for name in truth if name not in images]
    scan.faults += [f"{path}: slice without mask; looked for its name in {ground}" for path in bare]
    scan.faults += [f"{path}: mask without slice in {slices}" for path in spare]
    return ((), ()) if bare or spare else (files, tuple(truth[name] for name in images))


def _dual_echo(scan: Scan, folder: Path, number: int, part: str) -> None:
    """Both echoes; the masks were drawn on the files in phase, which tell where they lie."""
    files, masks = _pairs(scan, folder / "DICOM_anon" / "InPhase", folder / "Ground")
    _add(scan, f"mr-t1in-{number}", f"t1in-{part}", files, masks)
    opposed = _listing(scan, folder / "DICOM_anon" / "OutPhase", ".dcm")
    if not files or not opposed:
        return
    if len(opposed) == len(files):
        _add(scan, f"mr-t1out-{number}", f"t1out-{part}", opposed, (*masks, *files))
    else:
        scan.faults.append(
            f"{opposed[0].parent}: {len(opposed)} files, InPhase has {len(files)}; "
            "unpack this patient again"
        )


def _add(scan: Scan, name: str, split: str, image: Files, label: Files) -> None:
    if image:
        scan.cases.append(Case(name, split, image, label))


def _mask(path: Path, size: tuple[int, ...], table: np.ndarray) -> np.ndarray:
    """Labels (rows, columns) of one PNG, of the size that its slice has."""
    mask = grey(path)
    if mask.shape != size:
        raise DataFault(
            f"{path}: the mask is {mask.shape[1]}x{mask.shape[0]}, its slice {size[1]}x{size[0]} "
            "(width x height); unpack this patient again"
        )
    label = table[mask]
    if (label == UNKNOWN).any():
        raise DataFault(
            f"{path}: unknown grey values {few(np.unique(mask[label == UNKNOWN]))}; the card "
            "lists those of the organs; was it resized or saved as JPEG?"
        )
    return label


class _Series:
    """A synthetic patient in one scanner, and the slice that each of the files holds."""

    def __init__(self, kind: str, seed: int, number: int, grid: phantom.Grid, axes: str) -> None:
        self.kind = kind
        self.key = ("chaos", kind, seed, number)
        self.patient = phantom.patient(grid, *self.key)
        self.affine = phantom.affine(self.patient, axes, *self.key)
        self.order = generator(*self.key, "files").permutation(len(self.patient.label))

    def write(self, folder: Path, names: Sequence[str], look: phantom.Look) -> None:
        """A DICOM file a name."""
        kind = np.int16 if look.hounsfield else np.uint16
        image = np.rint(phantom.render(look, self.patient, *self.key)).astype(kind)
        planes = original(image, self.affine).T
        for name, k in zip(names, self.order, strict=True):
            header = dicom.phantom_header(
                self.kind,
                study=_uid(*self.key),
                series=_uid(*self.key, look.name),
                image=_uid(*self.key, look.name, name),
            )
            dicom.write(folder / f"{name}.dcm", planes[k], k, self.affine, header)

    def write_masks(self, folder: Path, names: Sequence[str], greys: np.ndarray) -> None:
        """A PNG a name."""
        planes = original(greys[self.patient.label], self.affine).T
        for name, k in zip(names, self.order, strict=True):
            write(folder / f"{name}.png", planes[k])


def _uid(*key: int | str) -> str:
    return f"2.25.{generator('uid', *key).integers(2**63)}"
