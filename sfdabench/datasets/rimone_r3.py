"""RIM-ONE r3: 159 stereo photographs centred on the disc, masks of the left view."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from sfdabench.core.dataset import Card, Case, Scan
from sfdabench.datasets._files import listing, pair
from sfdabench.datasets._fundus import Fundus, nested
from sfdabench.formats.pictures import exact, write

if TYPE_CHECKING:
    import numpy as np

GROUPS = ("Healthy", "Glaucoma and suspects")


def ninety_nine_to_sixty(position: int, image: Path) -> str:
    """Spread 60 of 159 evenly over the sorted images: only these counts were ever published."""
    test = (position + 1) * 60 // 159 > position * 60 // 159
    return "test" if test else "train"


class RimOneR3(Fundus):
    """Left views of stereo pairs; a split by rule."""

    card = Card(
        title="RIM-ONE r3",
        licence="research use, as stated by its authors' page (not verified)",
        url="https://medimrg.webs.ull.es",
        citation="Fumero et al., RIM-ONE: an open retinal image database, CBMS 2011 (release 3)",
        obtain="ask the Medical Image Analysis group of La Laguna, or take RIM-ONE DL",
        tree="""\
{Healthy,Glaucoma and suspects}/Stereo Images/{N,G,S}-n-{L,R}.jpg
{Healthy,Glaucoma and suspects}/Average_masks/<id>-{Cup,Disc}-Avg.png
    (or one Average_masks/ beside the two folders)
or Domain2/{train,test}/ROIs/{image,mask}/<id>.png
(all below the root, fundus/, RIM-ONE r3/, RIM-ONE-r3/ or rimone_r3/)""",
    )
    counts: ClassVar = {"official": {"train": 99, "test": 60}, "ROI": {"train": 99, "test": 60}}
    frame_crop = 800 / 1424  # 800 px around the disc of a 1072x1424 view (DoFE, DPL)
    folders = ("RIM-ONE r3", "RIM-ONE-r3", "rimone_r3")
    marks = tuple(f"{group}/Stereo Images" for group in GROUPS)
    domains: ClassVar = {"Domain2": {"train": "train", "test": "test"}}
    stereo = True
    phantom_cases = 85

    def _official(self, base: Path, scan: Scan) -> Sequence[str]:
        shared = base / "Average_masks"
        masks = [shared] if shared.is_dir() else [base / group / shared.name for group in GROUPS]
        pair(
            scan,
            listing(scan, [base / group / "Stereo Images" for group in GROUPS], r"(.+)\.jpe?g"),
            [listing(scan, masks, rf"(.+)-{part}-Avg\.png") for part in ("Disc", "Cup")],
            masks[0],
            ninety_nine_to_sixty,
        )
        return "train", "test"

    def _official_label(self, case: Case) -> np.ndarray:
        disc, cup = (exact(path, (0, 255)) > 0 for path in case.label)
        return nested(disc, cup, case.label[1])

    def phantom(self, root: Path, seed: int) -> None:
        """Write synthetic cases in the official layout."""
        import numpy as np

        from sfdabench.phantoms import fundus as phantom

        for i in range(self.phantom_cases):
            letter = "NNGS"[i % 4]
            group = root / GROUPS[letter != "N"]
            name = f"{letter}-{i + 1}-{'LR'[i // 2 % 2]}"
            left, label = phantom.frame(phantom.RIMONE_R3, seed, i)
            right = np.roll(left, 2, axis=1)
            pair_of_views = np.concatenate([left, right], axis=1)
            write(group / "Stereo Images" / f"{name}.jpg", pair_of_views)
            for part, mask in (("Disc", label >= phantom.RIM), ("Cup", label == phantom.CUP)):
                write(group / "Average_masks" / f"{name}-{part}-Avg.png", mask * np.uint8(255))
