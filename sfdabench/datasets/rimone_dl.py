"""RIM-ONE DL: 485 disc-centred crops out of the three releases of RIM-ONE, reviewed for 2020."""

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

MASKS = "RIM-ONE_DL_reference_segmentations"
CLASSES = ("normal", "glaucoma")


class RimOneDL(Fundus):
    """Crops of many sizes, split at random by the authors."""

    card = Card(
        title="RIM-ONE DL",
        licence="free for research with citation, as its authors state (not verified)",
        url="https://github.com/miag-ull/rim-one-dl",
        citation="Fumero et al., RIM-ONE DL, Image Analysis and Stereology 39(3), 2020",
        obtain="follow the links of github.com/miag-ull/rim-one-dl: images and segmentations",
        tree="""\
partitioned_randomly/{training_set,test_set}/{normal,glaucoma}/<id>.png
    (or images/{train,test}/<id>.png)
RIM-ONE_DL_reference_segmentations/{normal,glaucoma}/<id>-1-{Disc,Cup}-T.png
(all below the root, fundus/, RIM-ONE_DL/, RIM-ONE-DL/ or rimone_dl/)""",
    )
    counts: ClassVar = {"partitioned_randomly": {"train": 339, "test": 146}}
    folders = ("RIM-ONE_DL", "RIM-ONE-DL", "rimone_dl")
    marks = (MASKS,)
    phantom_cases = 88

    def _official(self, base: Path, scan: Scan) -> Sequence[str]:
        parts = base / "partitioned_randomly"
        splits = {base / "images" / split: split for split in ("train", "test")}
        if parts.is_dir():
            splits = {
                parts / folder / kind: split
                for split, folder in (("train", "training_set"), ("test", "test_set"))
                for kind in CLASSES
            }
        masks = [
            listing(scan, [base / MASKS / kind for kind in CLASSES], rf"(.+)-1-{part}-T\.png")
            for part in ("Disc", "Cup")
        ]
        pair(
            scan,
            listing(scan, list(splits), r"(.+)\.png"),
            masks,
            base / MASKS,
            lambda position, image: splits[image.parent],
            cropped=True,
        )
        return "train", "test"

    def _official_label(self, case: Case) -> np.ndarray:
        disc, cup = (exact(path, (0, 255)) > 0 for path in case.label)
        return nested(disc, cup, case.label[1])

    def phantom(self, root: Path, seed: int) -> None:
        """Write synthetic cases in the official layout."""
        import numpy as np

        from sfdabench.core.seeding import generator
        from sfdabench.phantoms import fundus as phantom

        for i in range(self.phantom_cases):
            image, label = phantom.frame(phantom.RIMONE_DL, seed, i)
            side = int(generator("phantom", "rimone_dl side", seed, i).integers(100, 128))
            low = (len(label) - side) // 2
            image, label = (part[low : low + side, low : low + side] for part in (image, label))
            kind = CLASSES[i % 3 == 0]
            name = (f"r1_Im{i:03d}", f"r2_Im{i:03d}", f"r3_N-{i}-L")[i % 3]
            split = "training_set" if i * 6 // 11 < (i + 1) * 6 // 11 else "test_set"
            write(root / "partitioned_randomly" / split / kind / f"{name}.png", image)
            for part, mask in (("Disc", label >= phantom.RIM), ("Cup", label == phantom.CUP)):
                write(root / MASKS / kind / f"{name}-1-{part}-T.png", mask * np.uint8(255))
