"""Drishti-GS1: 50 training and 51 test photographs, disc and cup drawn by four raters."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from sfdabench.core.dataset import Card, Case, Scan
from sfdabench.datasets._files import always, listing, pair
from sfdabench.datasets._fundus import Fundus, nested
from sfdabench.formats.pictures import exact, write

if TYPE_CHECKING:
    import numpy as np

VOTES = (0, 64, 128, 191, 255)  # soft maps: raters out of four
MAJORITY = 128  # two of four
GT = {"Training": Path("GT"), "Test": Path("Test_GT")}


class Drishti(Fundus):
    """Full frames; the majority of the raters is the reference."""

    card = Card(
        title="Drishti-GS",
        licence="research use after registration (not verified)",
        url="https://cvit.iiit.ac.in/projects/mip/drishti-gs/mip-dataset2/Home.php",
        citation="Sivaswamy et al., Drishti-GS, ISBI 2014",
        obtain="register with CVIT, IIIT Hyderabad, download and unpack Drishti-GS1_files",
        tree="""\
Drishti-GS1_files/{Training,Test}/Images/<id>.png     (or Images/ALL/<id>.png)
Drishti-GS1_files/Training/GT/<id>/SoftMap/<id>_{ODseg,cupseg}Softmap.png
Drishti-GS1_files/Test/Test_GT/<id>/SoftMap/<id>_{ODseg,cupseg}Softmap.png
or Domain1/{train,test}/ROIs/{image,mask}/<id>.png
(all below the root, fundus/, Drishti-GS1/ or drishti/)""",
    )
    counts: ClassVar = {"official": {"train": 50, "test": 51}, "ROI": {"train": 50, "test": 51}}
    frame_crop = 800 / 1760  # 800 px around the disc of a 2047x1760 frame (DoFE, DPL)
    folders = (
        "Drishti-GS1_files",
        "Drishti-GS1",
        "Drishti-GS1/Drishti-GS1_files",
        "drishti",
        "drishti/Drishti-GS1_files",
    )
    marks = ("Training/Images", "Test/Images")
    domains: ClassVar = {"Domain1": {"train": "train", "test": "test"}}
    phantom_cases = 88

    def _official(self, base: Path, scan: Scan) -> Sequence[str]:
        for ours, theirs in (("train", "Training"), ("test", "Test")):
            images, truth = base / theirs / "Images", base / theirs / GT[theirs]
            images = images / "ALL" if (images / "ALL").is_dir() else images
            cases = sorted(truth.glob("*/SoftMap"))
            if not truth.is_dir():
                scan.faults.append(f"{truth}: missing folder")
            masks = [
                listing(scan, cases, rf"(.+)_{part}Softmap\.png") for part in ("ODseg", "cupseg")
            ]
            pair(scan, listing(scan, [images], r"(.+)\.png"), masks, truth, always(ours))
        return "train", "test"

    def _official_label(self, case: Case) -> np.ndarray:
        disc, cup = (exact(path, VOTES) >= MAJORITY for path in case.label)
        return nested(disc, cup, case.label[1])

    def phantom(self, root: Path, seed: int) -> None:
        """Write synthetic cases in the official layout."""
        from sfdabench.phantoms import fundus as phantom

        for i in range(self.phantom_cases):
            image, label = phantom.frame(phantom.DRISHTI, seed, i)
            split = "Training" if i * 6 // 11 < (i + 1) * 6 // 11 else "Test"
            name = f"drishtiGS_{i + 1:03d}"
            folder = root / "Drishti-GS1_files" / split
            write(folder / "Images" / f"{name}.png", image)
            for part, mask in (("ODseg", label >= phantom.RIM), ("cupseg", label == phantom.CUP)):
                path = folder / GT[split] / name / "SoftMap" / f"{name}_{part}Softmap.png"
                write(path, _soft(mask))


def _soft(mask: np.ndarray) -> np.ndarray:
    """Votes of four raters who agree on `mask` by majority and differ along its border."""
    import numpy as np

    from sfdabench.phantoms.fundus import blurred

    votes = np.rint(4 * blurred(mask.astype(np.float32), 1.0)).astype(int)
    return np.array(VOTES, np.uint8)[np.where(mask, votes.clip(2, 4), votes.clip(0, 1))]
