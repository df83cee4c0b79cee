"""BraTS 2018: 285 gliomas, 210 of high and 75 of low grade, in four MR modalities.

Releases of 2019 and 2020 differ in their cases only, those of 2023 onward in names and labels;
all are read, and the scan says which was found.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from sfdabench.core.dataset import Card, Case, Dataset, Scan
from sfdabench.core.errors import BadInput, DataFault
from sfdabench.core.near import unknown
from sfdabench.datasets._files import empty_splits, label_files, only, places, same_scan_twice
from sfdabench.formats.pictures import few
from sfdabench.formats.volumes import (
    canonical,
    canonical_spacing,
    original,
    read_nifti,
    read_over,
    save_over,
    write_nifti,
)

GRADES = ("HGG", "LGG")
CHANNELS = ("t1", "t1ce", "t2", "flair")
NECROSIS, OEDEMA, ENHANCING = 1, 2, 4  # BraTS 2018's own values
FOLDERS = ("BraTS2018", "brats2018", "MICCAI_BraTS_2018_Data_Training")
ENDINGS = (".nii.gz", ".nii")
MAPPING = "name_mapping*.csv"
# One patient may be imaged more than once: these ids end in the number of the visit.
VISIT = re.compile(r"(BraTS-\w+-\d+)-\d+|(Bra[Tt][Ss]1[789]_\w+)_\d+")


@dataclass(frozen=True)
class Naming:
    """How the releases of some years name the files of a case.

    images: endings of the file names, as in CHANNELS. mask: that of the mask. enhancing: value of
    enhancing tumour in it. foreign: values of other years that a mask might hold by mistake.
    """

    years: str
    images: tuple[str, str, str, str]
    mask: str
    enhancing: int
    foreign: Mapping[int, str]


NAMINGS = (
    Naming(
        "2018 to 2021",
        ("_t1", "_t1ce", "_t2", "_flair"),
        "_seg",
        ENHANCING,
        {3: "3 is in use in BraTS 2015 (non-enhancing core) and from 2023 on (enhancing tumour)"},
    ),
    Naming(
        "2023 onward",
        ("-t1n", "-t1c", "-t2w", "-t2f"),
        "-seg",
        3,
        {4: "4 is the resection cavity of BraTS 2024, which treats other patients"},
    ),
)
Graded = dict[str, list[Path]]


def splits(patients: int) -> list[str]:
    """Our rule, for the sorted patients of one grade: every other one belongs to half b, and of
    each half's five in a row the third is test. The authors split the training cases no further.
    """
    return [f"{'ab'[i % 2]}-{'test' if i // 2 % 5 == 2 else 'train'}" for i in range(patients)]


def _numbers(**patients: int) -> dict[str, int]:
    """Split -> number of patients, for a release with so many of each grade."""
    return dict(Counter(f"{g.lower()}-{s}" for g, n in patients.items() for s in splits(n)))


class BraTS2018(Dataset):
    """Skull-stripped volumes of 240x240x155 voxels of 1 mm, the modalities of a case registered."""

    card = Card(
        title="BraTS 2018",
        licence="terms of the challenge: research use after registration (not verified)",
        url="https://www.med.upenn.edu/sbia/brats2018.html",
        citation="Menze et al., The multimodal brain tumor image segmentation benchmark (BRATS), "
        "IEEE Transactions on Medical Imaging 34(10), 2015",
        obtain="register with the organisers, download the training data, and unpack them",
        tree="""\
HGG/<case>/<case>_{t1,t1ce,t2,flair,seg}.nii.gz      (210 cases)
LGG/<case>/<case>_{t1,t1ce,t2,flair,seg}.nii.gz      (75 cases)
or <case>/<case>_... beside a name_mapping.csv with a column Grade (2020)
or <case>/<case>-{t1n,t1c,t2w,t2f,seg}.nii.gz (2023 onward), likewise
(below the root, BraTS2018/, brats2018/ or MICCAI_BraTS_2018_Data_Training/; .nii as well)""",
    )
    labels = {"background": 0, "necrosis": NECROSIS, "oedema": OEDEMA, "enhancing": ENHANCING}
    channels = CHANNELS
    counts = {
        "2018": _numbers(HGG=210, LGG=75),
        "2019": _numbers(HGG=259, LGG=76),
        "2020": _numbers(HGG=293, LGG=76),
    }
    phantom_patients: ClassVar[int] = 20  # of each grade
    smoke: ClassVar = {"phantom_patients": 1}

    def scan(self, root: Path) -> Scan:
        base, scan = self._locate(root), Scan()
        graded = _graded(base, scan)
        if not graded:
            return scan
        scan.faults += _in_both(graded)
        for grade, folders in graded.items():
            scan.cases += _cases(grade, folders, scan)
        scan.faults += same_scan_twice(scan.cases)
        scan.faults += empty_splits(
            scan,
            self.counts["2018"],
            base,
            lambda split: f": only {len(graded[split[:3].upper()])} cases of its grade",
        )
        years = Counter(_naming(case).years for case in scan.cases)
        named = ", ".join(f"{n} cases named as in {when}" for when, n in years.items())
        scan.layout = f"{named or 'no whole case'}; grades from {_origin(base)}"
        return scan

    def read_image(
        self, case: Case, channels: tuple[str, ...] = ()
    ) -> tuple[np.ndarray, tuple[float, ...]]:
        """The named `channels` only, in that order, from their files only; all four where empty.

        Raises BadInput for an unknown channel, else as the contract says.
        """
        for name in channels:
            if name not in CHANNELS:
                raise BadInput(unknown("channel", name, CHANNELS))
        first, volumes = case.image[0], []
        for name in channels or CHANNELS:
            array, affine = read_over(first, case.image[CHANNELS.index(name)])
            volumes.append(canonical(array, affine).astype(np.float32))
        return np.stack(volumes), canonical_spacing(affine)

    def read_label(self, case: Case) -> np.ndarray:
        (path,), naming = label_files(case), _naming(case)
        array, affine = read_over(case.image[0], path)
        known = (0, NECROSIS, OEDEMA, naming.enhancing)
        strange = np.unique(array[~np.isin(array, known)])
        if len(strange):
            hints = [text for value, text in naming.foreign.items() if value in strange]
            raise DataFault(
                f"{path}: unknown label values {few(strange)}; files named as in {naming.years} "
                f"hold {', '.join(map(str, known))}; {'; '.join([*hints, 'take another release'])}"
            )
        label = canonical(array.astype(np.uint8), affine)
        label[label == naming.enhancing] = ENHANCING
        return label

    def write_mask(self, case: Case, label: np.ndarray, stem: Path) -> Path:
        theirs = np.where(label == ENHANCING, _naming(case).enhancing, label)
        shape, affine = read_nifti(case.image[0], header=True)
        return save_over(case.image[0], shape, affine, label=theirs, stem=stem)

    def phantom(self, root: Path, seed: int) -> None:
        """Write synthetic patients in the layout of 2018, few and coarse; some as axes RAS."""
        from sfdabench.phantoms import brain

        shape, spacing = (20, 72, 72), (7.0, 2.75, 2.75)
        lps = np.array([[-1, 0, 0, 0], [0, -1, 0, 239], [0, 0, 1, 0], [0, 0, 0, 1]], float)
        lps = lps @ np.diag((*spacing[::-1], 1))
        ras = np.diag((*spacing[::-1], 1.0))
        for grade, site in zip(GRADES, ("CBICA", "TCIA09"), strict=True):
            for i in range(self.phantom_patients):
                images, label = brain.patient(grade, shape, seed, i, spacing=spacing)
                affine = ras if i % 4 == 3 else lps  # ours: as released all are LPS
                name = f"Brats18_{site}_{i + 101}_1"
                for suffix, volume in zip(NAMINGS[0].images, images, strict=True):
                    write_nifti(
                        root / grade / name / f"{name}{suffix}.nii.gz",
                        original(np.rint(volume).astype(np.int16), affine),
                        affine,
                    )
                write_nifti(
                    root / grade / name / f"{name}_seg.nii.gz", original(label, affine), affine
                )

    def _locate(self, root: Path) -> Path:
        found = {
            str(place): place
            for place in places(root, self.card, ("", *FOLDERS))
            if _has_grades(place) or any(map(_is_case, _inside(place)))
        }
        sought = f"HGG/, LGG/, <case>/<case>_t1.nii.gz in {', '.join(('.', *FOLDERS))}"
        return only(root, self.card, found, sought)


def _inside(folder: Path) -> list[Path]:
    """Visible sub-folders, sorted."""
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _has_grades(place: Path) -> bool:
    return any((place / grade).is_dir() for grade in GRADES)


def _is_case(folder: Path) -> bool:
    """Whether it holds a NIfTI file that bears the folder's name."""
    return any(
        path.name.startswith(folder.name) and path.name.endswith(ENDINGS)
        for path in folder.iterdir()
    )


def _origin(base: Path) -> str:
    return "the folders HGG and LGG" if _has_grades(base) else MAPPING


def _graded(base: Path, scan: Scan) -> Graded:
    """Grade -> its case folders, sorted; empty where nothing tells the grades."""
    loose = [folder for folder in _inside(base) if folder.name not in GRADES and _is_case(folder)]
    if _has_grades(base):
        scan.faults += [
            f"{folder}: a case beside the folders HGG and LGG; move it into one of them"
            for folder in loose
        ]
        return {grade: _inside(base / grade) for grade in GRADES}
    mapping = _mapping(base, scan)
    if not mapping:
        scan.faults.append(
            f"{base}: {len(loose)} cases, and nothing tells their grades: there are no folders "
            f"HGG and LGG, and no {MAPPING} with a column Grade and one with the cases' names; "
            "take the release of 2018, 2019 or 2020, or write such a file"
        )
        return {}
    graded: Graded = {grade: [] for grade in GRADES}
    for folder in loose:
        grade, *others = sorted(mapping.get(folder.name, {""}))
        if others:
            scan.faults.append(
                f"{folder}: {MAPPING} says of it {' and '.join([grade, *others])}; a case has one "
                "grade: remove the wrong row"
            )
        elif grade in graded:
            graded[grade].append(folder)
        else:
            known = f"says grade '{grade}' of it" if grade else "does not name it"
            scan.faults.append(f"{folder}: {MAPPING} {known}; expected {' or '.join(GRADES)}")
    return graded


def _mapping(base: Path, scan: Scan) -> dict[str, set[str]]:
    """Case, by any of its names over the years -> each grade that some row says of it."""
    grades: dict[str, set[str]] = {}
    for path in sorted(base.glob(MAPPING)):
        try:
            rows = list(csv.DictReader(path.read_text(encoding="utf-8-sig").splitlines()))
        except (UnicodeDecodeError, csv.Error) as error:
            scan.faults.append(f"{path}: not a CSV file ({error}); get this file again")
            continue
        for row in rows:
            if grade := row.get("Grade"):
                for name in row.values():
                    if isinstance(name, str):
                        grades.setdefault(name, set()).add(grade)
    return grades


def _patient(case: str) -> str:
    match = VISIT.fullmatch(case)
    return case if match is None else match[1] or match[2]


def _in_both(graded: Graded) -> Iterable[str]:
    """Faults: patients of both grades, whose images would fall into two splits."""
    high, low = ({_patient(f.name): f for f in graded[grade]} for grade in GRADES)
    for patient in sorted(high.keys() & low.keys()):
        yield (
            f"{low[patient]}: patient '{patient}' twice, also {high[patient]}; "
            "a patient has one grade: remove one of them"
        )


def _cases(grade: str, folders: Sequence[Path], scan: Scan) -> list[Case]:
    """Whole cases with their splits; the position of a faulty one counts, so that splits stay."""
    patients = sorted({_patient(folder.name) for folder in folders})
    split = dict(zip(patients, splits(len(patients)), strict=True))
    cases = []
    for folder in folders:
        files = _files(folder, scan)
        if files is not None:
            images, masks = files
            name = f"{grade.lower()}-{split[_patient(folder.name)]}"
            cases.append(Case(folder.name, name, images, masks))
    if any(case.label for case in cases):
        scan.faults += [
            f"{case.image[0].parent}: no mask, while other {grade} cases have one; looked for "
            f"{case.id}{_naming(case).mask}.nii.gz"
            for case in cases
            if not case.label
        ]
    return cases


def _files(folder: Path, scan: Scan) -> tuple[tuple[Path, ...], tuple[Path, ...]] | None:
    """Four images and at most one mask; None for a faulty case."""

    def named(suffix: str) -> list[Path]:
        paths = [folder / f"{folder.name}{suffix}{ending}" for ending in ENDINGS]
        return [path for path in paths if path.is_file()]

    namings = [n for n in NAMINGS if any(map(named, (*n.images, n.mask)))]
    if len(namings) != 1:
        wanted = " and ".join(
            f"{folder.name}{n.images[0]}.nii.gz ({n.years})" for n in namings or NAMINGS
        )
        trouble = "two namings in one folder" if namings else "no file of a case"
        scan.faults.append(f"{folder}: {trouble}: {wanted}; keep the files of one release")
        return None
    (naming,) = namings
    found = {suffix: named(suffix) for suffix in (*naming.images, naming.mask)}
    faults = [
        f"{paths[0]}: twice, also {paths[1].name}; remove one of them"
        for paths in found.values()
        if len(paths) > 1
    ]
    faults += [
        f"{folder / (folder.name + suffix)}.nii.gz: missing file; a case has the four modalities "
        f"{', '.join(CHANNELS)}: get this one again"
        for suffix in naming.images
        if not found[suffix]
    ]
    scan.faults += faults
    if faults:
        return None
    return tuple(found[suffix][0] for suffix in naming.images), tuple(found[naming.mask])


def _naming(case: Case) -> Naming:
    """The one that the case's first image follows."""
    stem = case.image[0].name.removesuffix(".gz").removesuffix(".nii")
    return next(naming for naming in NAMINGS if stem.endswith(naming.images[0]))
