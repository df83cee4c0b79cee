"""A folder of a user's own unlabelled images, read as a data set."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np

from sfdabench.core.dataset import Case, Dataset, Scan
from sfdabench.core.errors import BadInput, DataFault
from sfdabench.formats import pictures, volumes

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
VOLUMES = (".nii", ".nii.gz")
SPLIT = "own"


class OwnImages(Dataset):
    """Photographs (PNG, JPEG, BMP, TIFF) or NIfTI volumes of one channel, in one folder tree.

    A case is a file; its id is its path below the folder, without suffix. A square photograph is
    taken for a region of interest; another one is cut to its disc where the task asks for that.
    frame_crop: see `Dataset`; that of the task's target.
    """

    labels: ClassVar[Mapping[str, int]] = {"background": 0}
    channels: ClassVar[tuple[str, ...]] = ()

    def __init__(self, channels: int, frame_crop: float | None) -> None:
        self.count = channels
        self.frame_crop = frame_crop  # type: ignore[misc]

    def scan(self, root: Path) -> Scan:
        """Return every image below `root`, sorted by path.

        Raises BadInput where there is none, or photographs beside volumes.
        """
        if not root.is_dir():
            raise BadInput(f"--images {root}: no such folder")
        files = sorted(p for p in root.rglob("*") if p.is_file() and not _hidden(p, root))
        chosen = [path for path in files if _suffix(path)]
        if not chosen:
            kinds = ", ".join((*PICTURES, *VOLUMES))
            raise BadInput(f"--images {root}: no image there ({kinds})")
        kinds_found = {_suffix(path) in VOLUMES for path in chosen}
        if len(kinds_found) > 1:
            raise BadInput(f"--images {root}: photographs and volumes; give one kind a folder")
        scan = Scan()
        first: dict[str, Path] = {}
        for path in chosen:
            name = path.relative_to(root).as_posix()[: -len(_suffix(path) or "")]
            name = name.replace("/", "_")
            if name in first:
                scan.faults.append(f"{path}: would be saved under the name of {first[name]}")
                continue
            first[name] = path
            scan.cases.append(Case(name, SPLIT, (path,), (), self._cropped(path)))
        return scan

    def _cropped(self, path: Path) -> bool:
        if _suffix(path) in VOLUMES:
            return False
        width, height = pictures.read(path, header=True).size
        return width == height

    def read_image(
        self, case: Case, channels: tuple[str, ...] = ()
    ) -> tuple[np.ndarray, tuple[float, ...] | None]:
        """Return the image, float32 (C, *space), and a volume's spacing in mm (else None).

        Raises DataFault for another number of channels than the task's.
        """
        path = case.image[0]
        if _suffix(path) in VOLUMES:
            if self.count != 1:
                raise DataFault(
                    f"{path}: a file holds one channel, this task's network takes {self.count}"
                )
            volume, spacing = volumes.read_volume(path)
            return volume[None], spacing
        image = pictures.read(path).convert("RGB" if self.count == 3 else "L")
        pixels = np.asarray(image, np.float32)
        return (pixels.transpose(2, 0, 1) if pixels.ndim == 3 else pixels[None]).copy(), None

    def write_mask(self, case: Case, label: np.ndarray, stem: Path) -> Path:
        """Save a label map over the image: a PNG of class values, or a NIfTI file."""
        path = case.image[0]
        if _suffix(path) in VOLUMES:
            shape, affine = volumes.read_nifti(path, header=True)
            return volumes.save_over(path, shape, affine, label=label, stem=stem)
        target = stem.with_name(f"{stem.name}.png")
        pictures.write(target, label.astype(np.uint8))
        return target


def _suffix(path: Path) -> str | None:
    name = path.name.lower()
    return next((s for s in (*VOLUMES[::-1], *PICTURES) if name.endswith(s)), None)


def _hidden(path: Path, root: Path) -> bool:
    """Files such as ._name.png, which come out of macOS archives."""
    return any(part.startswith(".") for part in path.relative_to(root).parts)
