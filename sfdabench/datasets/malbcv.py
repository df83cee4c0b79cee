"""MALBCV, also called BTCV or Synapse: 30 labelled and 20 unlabelled abdominal CT volumes."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np

from sfdabench.core.dataset import Card, Case, Dataset, Scan
from sfdabench.core.errors import DataFault
from sfdabench.datasets._abdomen import LABELS, check_header_is_true, locate
from sfdabench.datasets._files import (
    always,
    empty_splits,
    label_files,
    listing,
    pair,
    same_scan_twice,
)
from sfdabench.formats.pictures import few
from sfdabench.formats.volumes import (
    HALF,
    canonical,
    original,
    read_nifti,
    read_over,
    read_volume,
    save_over,
    write_nifti,
)
from sfdabench.phantoms import abdomen as phantom

IMAGE, LABEL = r"img(\d{4})\.nii(?:\.gz)?", r"label(\d{4})\.nii(?:\.gz)?"
TEST = frozenset((1, 9, 30, 32, 33, 39))  # SIFA's authors, issues 34 and 43
OURS = np.zeros(14, np.uint8)  # theirs -> ours; the nine other organs are background
OURS[[6, 2, 3, 1]] = 1, 2, 3, 4
THEIRS = np.array([0, 6, 2, 3, 1], np.uint8)  # ours -> theirs
# Axis orders that copies of the release come in: as distributed, flipped, and with axes swapped.
PHANTOM_AXES = ("LAS", "RAS", "LPS", "PIR", "SAL")


class MALBCV(Dataset):
    """CT of the portal venous phase, four of its thirteen organs."""

    card = Card(
        title="MALBCV (BTCV abdomen)",
        licence="terms of the Synapse project, to be accepted there (not verified)",
        url="https://www.synapse.org/Synapse:syn3193805",
        citation="Landman et al., MICCAI Multi-Atlas Labeling Beyond the Cranial Vault, 2015",
        obtain="register at synapse.org, join syn3193805, and unpack Abdomen/RawData.zip",
        tree="""\
RawData/Training/img/img00NN.nii.gz            NN = 01..10, 21..40
RawData/Training/label/label00NN.nii.gz
RawData/Testing/img/img00NN.nii.gz             NN = 61..80, unlabelled (optional)
(all below the root, abdomen/, Abdomen/, BTCV/, MALBCV/, btcv/ or malbcv/)""",
    )
    labels = LABELS
    channels = ("image",)
    counts: ClassVar = {"official": {"train": 24, "test": 6, "unlabelled": 20}}
    folders = ("BTCV", "MALBCV", "btcv", "malbcv")
    phantom_numbers: ClassVar[tuple[int, ...]] = (*range(2, 9), *range(21, 28), *sorted(TEST))
    smoke: ClassVar = {"phantom_numbers": (2,)}

    def scan(self, root: Path) -> Scan:
        base = locate(root, self.card, self.folders, "RawData/Training").parent
        scan = Scan()
        masks = base / "Training" / "label"
        images = listing(scan, [base / "Training" / "img"], IMAGE)
        pair(scan, images, [listing(scan, [masks], LABEL)], masks, _split)
        testing = base / "Testing" / "img"
        if testing.is_dir():
            unlabelled = listing(scan, [testing], IMAGE)
            scan.faults += [
                f"{unlabelled[name]}: also a training image, {images[name]}; remove one of them"
                for name in unlabelled.keys() & images.keys()
            ]
            alone = {name: path for name, path in unlabelled.items() if name not in images}
            pair(scan, alone, [], testing, always("unlabelled"))
        scan.faults += same_scan_twice(scan.cases)
        scan.faults += empty_splits(scan, ("train", "test"), base)
        return scan

    def read_image(
        self, case: Case, channels: tuple[str, ...] = ()
    ) -> tuple[np.ndarray, tuple[float, ...]]:
        image, spacing = read_volume(case.image[0])
        return image[None], spacing

    def read_label(self, case: Case) -> np.ndarray:
        (path,) = label_files(case)
        label, affine = read_over(case.image[0], path, within=HALF)
        organs = canonical(OURS[_organs(label, path)], affine)
        check_header_is_true(organs, path)
        return organs

    def write_mask(self, case: Case, label: np.ndarray, stem: Path) -> Path:
        shape, affine = read_nifti(case.image[0], header=True)
        return save_over(case.image[0], shape, affine, label=THEIRS[label], stem=stem)

    def phantom(self, root: Path, seed: int) -> None:
        """Write synthetic cases in the official layout; a few axis orders, some of them oblique."""
        training = root / "RawData" / "Training"
        for i, number in enumerate(self.phantom_numbers):
            image, label, affine = _draw(seed, number, PHANTOM_AXES[i % len(PHANTOM_AXES)])
            write_nifti(training / "img" / f"img{number:04d}.nii.gz", image, affine)
            write_nifti(training / "label" / f"label{number:04d}.nii.gz", label, affine)
        image, _, affine = _draw(seed, 61, "LAS")
        write_nifti(root / "RawData" / "Testing" / "img" / "img0061.nii.gz", image, affine)


def _split(position: int, image: Path) -> str:
    return "test" if int(image.name[3:7]) in TEST else "train"


def _organs(label: np.ndarray, path: Path) -> np.ndarray:
    """The authors' values as whole numbers. Raises DataFault for any outside 0..13."""
    known = (label >= 0) & (label < len(OURS)) & (label == np.rint(label))
    if not known.all():
        raise DataFault(
            f"{path}: unknown label values {few(np.unique(label[~known]))}; this release knows "
            "0..13; was it resampled, or relabelled?"
        )
    return label.astype(np.uint8)


def _draw(seed: int, number: int, axes: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image int16 and label uint8 (X, Y, Z) in the authors' values and file order, and affine."""
    patient = phantom.patient(phantom.CT_GRID, "malbcv", seed, number)
    affine = phantom.affine(patient, axes, "malbcv", seed, number)
    image = np.rint(phantom.render(phantom.CT, patient, "malbcv", seed, number)).astype(np.int16)
    theirs = _whole_release(patient)
    return original(image, affine), original(theirs, affine), affine


def _whole_release(patient: phantom.Patient) -> np.ndarray:
    """Label map with the authors' values, other organs included."""
    label = THEIRS[patient.label]
    for tissue, value in ((phantom.BILE, 4), (phantom.STOMACH, 7), (phantom.AORTA, 8)):
        label[(patient.tissue == tissue) & (label == 0)] = value
    label[(patient.tissue == phantom.VEIN) & (label == 0)] = 9
    return label
