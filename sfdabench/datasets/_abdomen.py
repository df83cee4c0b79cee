"""What the abdominal adapters share: organs, their order in a body, and places."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np

from sfdabench.core.dataset import Card
from sfdabench.core.errors import DataFault
from sfdabench.datasets._files import only, places

# One numbering for all, in CHAOS's order, so that a class means the same in source and target.
LABELS = {"background": 0, "liver": 1, "right_kidney": 2, "left_kidney": 3, "spleen": 4}
LIVER, RIGHT_KIDNEY, LEFT_KIDNEY, SPLEEN = 1, 2, 3, 4
ABOVE = ("", "abdomen", "Abdomen")
# Axis of a canonical volume -> pairs of organs that lie in this order along it.
ORDER = {
    "feet to head": ((RIGHT_KIDNEY, LIVER), (LEFT_KIDNEY, SPLEEN)),
    "front to back": ((LIVER, RIGHT_KIDNEY), (LIVER, LEFT_KIDNEY)),
    "right to left": ((RIGHT_KIDNEY, LEFT_KIDNEY), (LIVER, SPLEEN)),
}


def locate(root: Path, card: Card, folders: Sequence[str], mark: str) -> Path:
    """The one place/`mark` that exists; places are the root, ABOVE, and `folders` in each.

    Raises DataFault where the root is missing, or holds no such place, or several.
    """
    sought = (Path(above, folder, mark) for above, folder in product(ABOVE, ("", *folders)))
    found = {str(place): place for place in places(root, card, sought)}
    wanted = f"{mark} in {', '.join(('.', *folders))} and below abdomen/"
    return only(root, card, found, wanted)


def check_header_is_true(label: np.ndarray, path: Path) -> None:
    """Raise DataFault where every organ of a canonical label lies the wrong way along an axis.

    Copies of these releases circulate whose arrays were flipped and whose headers were not.
    """
    centres = {}
    for organ in (LIVER, RIGHT_KIDNEY, LEFT_KIDNEY, SPLEEN):
        along = [(label == organ).sum(axis=axes) for axes in ((1, 2), (0, 2), (0, 1))]
        if along[0].any():
            centres[organ] = [np.average(np.arange(len(n)), weights=n) for n in along]
    for axis, (name, pairs) in enumerate(ORDER.items()):
        wrong = [
            centres[one][axis] > centres[other][axis]
            for one, other in pairs
            if one in centres and other in centres
        ]
        if wrong and all(wrong):
            raise DataFault(
                f"{path}: its header says that the organs lie the other way round from {name}; the "
                "array was flipped without its header: take the authors' file, or mend the header"
            )
