"""REFUGE: 400 training, 400 validation and 400 test photographs of three cameras."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from sfdabench.core.dataset import Card, Case, Scan
from sfdabench.datasets._files import always, listing, pair
from sfdabench.datasets._fundus import BACKGROUND, CUP, RIM, Fundus
from sfdabench.formats.pictures import exact, write

if TYPE_CHECKING:
    import numpy as np

IMAGE, MASK = r"(.+)\.jpe?g", r"(.+)\.bmp"
MASKS = "Disc_Cup_Masks"
GREY = (255, 128, 0)  # by label: background, rim, cup
RELEASES = {
    "validation": ("REFUGE-Validation400", "REFUGE-Validation400-GT"),
    "test400": ("Test400", "REFUGE-Test-GT"),
}


def every_fifth(position: int, image: Path) -> str:
    """The official release splits its training images no further: this rule is ours."""
    return "test" if position % 5 == 4 else "train"


class Refuge(Fundus):
    """Full frames; splits of the training images by rule."""

    card = Card(
        title="REFUGE",
        licence="terms of the challenge, CC BY-NC-ND as listed by mirrors (not verified)",
        url="https://refuge.grand-challenge.org",
        citation="Orlando et al., REFUGE Challenge, Medical Image Analysis 59, 2020",
        obtain="register at refuge.grand-challenge.org, download, and unpack side by side",
        tree="""\
Training400/{Glaucoma/gNNNN.jpg,Non-Glaucoma/nNNNN.jpg}
Annotation-Training400/Disc_Cup_Masks/{Glaucoma,Non-Glaucoma}/<id>.bmp
REFUGE-Validation400/VNNNN.jpg                       (optional)
REFUGE-Validation400-GT/Disc_Cup_Masks/<id>.bmp      (optional)
Test400/TNNNN.jpg                                    (optional)
REFUGE-Test-GT/Disc_Cup_Masks/{G,N}/<id>.bmp         (optional)
or Domain3/{train,test}/ROIs/{image,mask}/<id>.png, Domain4 for the validation images
(all below the root, fundus/, REFUGE/ or refuge/)""",
    )
    counts: ClassVar = {
        "official": {"train": 320, "test": 80, "validation": 400, "test400": 400},
        "ROI": {"train": 320, "test": 80, "validation-train": 320, "validation-test": 80},
    }
    frame_crop = 800 / 2056  # 800 px around the disc of a 2124x2056 frame (DoFE, DPL)
    folders = ("REFUGE", "refuge")
    marks = ("Training400",)
    domains: ClassVar = {
        "Domain3": {"train": "train", "test": "test"},
        "Domain4": {"train": "validation-train", "test": "validation-test"},
    }
    phantom_cases = 200

    def _official(self, base: Path, scan: Scan) -> Sequence[str]:
        classes = ("Glaucoma", "Non-Glaucoma")
        masks = base / "Annotation-Training400" / MASKS
        pair(
            scan,
            listing(scan, [base / "Training400" / name for name in classes], IMAGE),
            [listing(scan, [masks / name for name in classes], MASK)],
            masks,
            every_fifth,
        )
        expected = ["train", "test"]
        for split, (images, truth) in RELEASES.items():
            if (base / images).is_dir():
                expected.append(split)
                self._release(scan, base / images, base / truth / MASKS, split)
        return expected

    def _release(self, scan: Scan, images: Path, masks: Path, split: str) -> None:
        """Images whose masks were published later, in one folder or in one a class."""
        truth = []
        if masks.is_dir():
            inner = [masks / name for name in ("G", "N") if (masks / name).is_dir()]
            truth.append(listing(scan, inner or [masks], MASK))
        pair(scan, listing(scan, [images], IMAGE), truth, masks, always(split))

    def _official_label(self, case: Case) -> np.ndarray:
        import numpy as np

        mask = exact(case.label[0], (0, 128, 255))
        return np.select([mask == 0, mask == 128], [CUP, RIM], BACKGROUND).astype(np.uint8)

    def phantom(self, root: Path, seed: int) -> None:
        """Write synthetic cases in the official layout."""
        import numpy as np

        from sfdabench.phantoms import fundus as phantom

        grey = np.array(GREY, np.uint8)
        glaucoma = self.phantom_cases // 10
        for i in range(self.phantom_cases):
            ill = i < glaucoma
            name = Path("Glaucoma" if ill else "Non-Glaucoma", f"{'ng'[ill]}{i + 1:04d}")
            image, label = phantom.frame(phantom.REFUGE, seed, i)
            write(root / "Training400" / name.with_suffix(".jpg"), image)
            masks = root / "Annotation-Training400" / MASKS
            write(masks / name.with_suffix(".bmp"), grey[label])
