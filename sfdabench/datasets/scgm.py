"""SCGM: spinal cord grey matter challenge, 80 healthy cords of four sites, four raters."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from sfdabench.core.dataset import Card, Case, Dataset, Scan
from sfdabench.core.errors import DataFault
from sfdabench.datasets._files import (
    empty_splits,
    label_files,
    only,
    places,
    same_scan_twice,
    twice,
)
from sfdabench.formats.pictures import few
from sfdabench.formats.volumes import (
    canonical,
    original,
    read_nifti,
    read_over,
    read_volume,
    save_over,
    write_nifti,
)

SITES, SUBJECTS, RATERS = (1, 2, 3, 4), range(1, 21), (1, 2, 3, 4)
RATED = range(1, 11)  # the other subjects' masks were never published
GREY, WHITE = 1, 2
FOLDERS = ("", "scgm", "SCGM")
INNER = re.compile(r"(training|test)-data-gm.*|site[1-4]", re.IGNORECASE)
FILE = re.compile(r"site(\d+)-sc(\d+)-(?:image|mask-r(\d+))\.nii(?:\.gz)?")
Part = tuple[int, int, int]  # site, subject, rater or 0 for the image


class SCGM(Dataset):
    """Axial T2*-weighted slices of the cervical cord; every site has its own resolution."""

    card = Card(
        title="SCGM challenge",
        licence="terms of the challenge, after registration (not verified)",
        url="http://cmictig.cs.ucl.ac.uk/niftyweb/program.php?p=CHALLENGE",
        citation="Prados et al., Spinal cord grey matter segmentation challenge, "
        "NeuroImage 152, 2017",
        obtain="register for the challenge, download training and test data, and unpack them",
        tree="""\
site{1,2,3,4}-sc{01..20}-image.nii.gz
site{1,2,3,4}-sc{01..10}-mask-r{1,2,3,4}.nii.gz
site{1,2,3,4}-sc{01..10}-levels.txt                  (not read)
(directly in the root, scgm/ or SCGM/, or there in training-data-gm-*/, test-data-gm-*/, site1/,
 site2/, site3/ or site4/; .nii as well)""",
    )
    labels = {"background": 0, "grey_matter": GREY, "white_matter": WHITE}
    channels = ("image",)
    counts: ClassVar = {
        "challenge": {f"site{s}-{kind}": 10 for s in SITES for kind in ("labelled", "unlabelled")}
    }
    phantom_subjects: ClassVar[Sequence[int]] = SUBJECTS
    smoke: ClassVar = {"phantom_subjects": SUBJECTS[:1]}

    def scan(self, root: Path) -> Scan:
        base, scan = self._locate(root), Scan()
        parts = _parts(base, scan)
        for site, subject, rater in sorted(parts):
            if rater and (site, subject, 0) not in parts:
                scan.faults.append(f"{parts[site, subject, rater]}: mask without image")
            elif not rater:
                scan.cases += _case(parts, site, subject, scan)
        scan.faults += same_scan_twice(scan.cases)
        scan.faults += empty_splits(scan, self.counts["challenge"], base)
        return scan

    def read_image(
        self, case: Case, channels: tuple[str, ...] = ()
    ) -> tuple[np.ndarray, tuple[float, ...]]:
        image, spacing = read_volume(case.image[0])
        return image[None], spacing

    def read_label(self, case: Case) -> np.ndarray:
        """What more than half of the raters say of a voxel; background where they do not agree."""
        views = self.read_raters(case)
        label = np.zeros(views.shape[1:], np.uint8)
        for value in (GREY, WHITE):
            label[2 * (views == value).sum(0) > len(views)] = value
        return label

    def read_raters(self, case: Case) -> np.ndarray:
        """Label maps uint8 (4, D, H, W), one a rater. Raises DataFault as `read_label`."""
        return np.stack([_read_mask(path, case.image[0]) for path in label_files(case)])

    def write_mask(self, case: Case, label: np.ndarray, stem: Path) -> Path:
        shape, affine = read_nifti(case.image[0], header=True)
        return save_over(case.image[0], shape, affine, label=label, stem=stem)

    def phantom(self, root: Path, seed: int) -> None:
        """Write synthetic cords in the challenge's two folders, few slices each."""
        from sfdabench.phantoms import spinal_cord

        for site in SITES:
            look = spinal_cord.SITES[site]
            for number in self.phantom_subjects:
                rated = number in RATED
                image, masks = spinal_cord.subject(look, seed, number, raters=4 if rated else 0)
                half = "training" if rated else "test"
                stem = root / f"{half}-data-gm-sc-challenge-ismrm16-v20160302b"
                stem /= f"site{site}-sc{number:02d}"
                volume = original(np.rint(image).astype(np.int16), look.affine)
                write_nifti(Path(f"{stem}-image.nii.gz"), volume, look.affine)
                for rater, mask in enumerate(masks, start=1):
                    path = Path(f"{stem}-mask-r{rater}.nii.gz")
                    write_nifti(path, original(mask, look.affine), look.affine)

    def _locate(self, root: Path) -> Path:
        found = {
            str(place): place
            for place in places(root, self.card, FOLDERS)
            if any(FILE.fullmatch(p.name) for folder in _folders(place) for p in folder.iterdir())
        }
        sought = "site1-sc01-image.nii.gz and the like in ., scgm and SCGM"
        return only(root, self.card, found, sought)


def _folders(place: Path) -> list[Path]:
    """`place` and the folders below it that the challenge's files may lie in."""
    inner = sorted(p for p in place.iterdir() if p.is_dir() and INNER.fullmatch(p.name))
    return [place, *(folder for path in inner for folder in _folders(path))]


def _parts(base: Path, scan: Scan) -> dict[Part, Path]:
    """Images and masks below `base`; what the challenge does not have is a fault."""
    parts: dict[Part, Path] = {}
    for path in (path for folder in _folders(base) for path in sorted(folder.iterdir())):
        match = FILE.fullmatch(path.name)
        if match is None:
            continue
        site, subject, rater = part = int(match[1]), int(match[2]), int(match[3] or 0)
        if site not in SITES or subject not in SUBJECTS or rater not in (0, *RATERS):
            scan.faults.append(
                f"{path}: the challenge has sites 1 to 4, subjects 01 to 20, raters 1 to 4; "
                "remove it or correct its name"
            )
        elif rater and subject not in RATED:
            scan.faults.append(
                f"{path}: a mask of a test subject; the challenge published none, and its cases "
                "serve as unlabelled ones: remove it"
            )
        elif part in parts:
            what = f"site {site} subject {subject:02d}"
            scan.faults.append(twice(path, what, parts[part]))
        else:
            parts[part] = path
    return parts


def _case(parts: dict[Part, Path], site: int, subject: int, scan: Scan) -> list[Case]:
    """The subject's case, none where a rater is missing."""
    image = parts[site, subject, 0]
    name, rated = f"site{site}-sc{subject:02d}", subject in RATED
    masks = [parts.get((site, subject, rater)) for rater in RATERS if rated]
    missing = [rater for rater, path in zip(RATERS, masks, strict=False) if path is None]
    if missing:
        wanted = ", ".join(f"{name}-mask-r{rater}.nii.gz" for rater in missing)
        scan.faults.append(f"{image}: missing masks {wanted}; get them from the training data")
        return []
    split = f"site{site}-{'labelled' if rated else 'unlabelled'}"
    return [Case(name, split, (image,), tuple(path for path in masks if path))]


def _read_mask(path: Path, image: Path) -> np.ndarray:
    """One rater's label map uint8 (D, H, W). Raises DataFault where it does not fit its image."""
    array, affine = read_over(image, path)
    strange = np.unique(array[~np.isin(array, (0, GREY, WHITE))])
    if len(strange):
        raise DataFault(
            f"{path}: unknown label values {few(strange)}; a mask holds 0 background, "
            "1 grey matter, 2 white matter; was it resampled?"
        )
    return canonical(array.astype(np.uint8), affine)
