"""One split of a data set as arrays of one size: made once, keyed by content, memory-mapped."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sfdabench.core.dataset import Case, Dataset
from sfdabench.core.errors import DataFault
from sfdabench.core.files import atomic, held, sha256_file

VERSION = 1
Report = Callable[[str], None]
Track = Callable[[Sequence[Case]], Iterable[Case]]


@dataclass(frozen=True)
class Geometry:
    """Where a prepared image lies in the authors' grid.

    shape: (H, W) of the original label. box: (top, left, side) of the square that was cut out.
    """

    shape: tuple[int, int]
    box: tuple[int, int, int]


@dataclass(frozen=True)
class Prepared:
    """Arrays of one split in `folder`; labels lie in files of their own."""

    folder: Path
    ids: tuple[str, ...]
    geometry: tuple[Geometry, ...]
    spacing: tuple[tuple[float, ...] | None, ...]
    labelled: bool

    @property
    def label_files(self) -> tuple[Path, ...]:
        """What a label-free method must not open."""
        return (self.folder / "labels.npy", self.folder / "originals.npz")

    def images(self) -> np.ndarray:
        """(N, C, S, S) uint8, memory-mapped."""
        return np.load(self.folder / "images.npy", mmap_mode="r")

    def labels(self) -> np.ndarray:
        """(N, S, S) uint8 label maps on the network's grid, memory-mapped."""
        self._require_labels()
        return np.load(self.folder / "labels.npy", mmap_mode="r")

    def originals(self) -> list[np.ndarray]:
        """N label maps (H, W) uint8 on the authors' grid."""
        self._require_labels()
        with np.load(self.folder / "originals.npz") as file:
            return [file[str(i)] for i in range(len(self.ids))]

    def _require_labels(self) -> None:
        if not self.labelled:
            raise DataFault(f"{self.folder.name}: made from cases without labels")


def manifest(cases: Sequence[Case], root: Path, cache: Path) -> str:
    """Content hash of every file of the cases, by path relative to `root`.

    File hashes are kept in the cache by size and time of change, so that a second look costs no
    reading.
    """
    memo_path = cache / "manifests" / f"{hashlib.sha256(str(root).encode()).hexdigest()[:16]}.json"
    memo: dict[str, Any] = {}
    if memo_path.exists():
        try:
            memo = json.loads(memo_path.read_text(encoding="utf-8"))
        except json.JSONDecodeError:
            memo_path.unlink()  # only a memo: what it held is read again from the files
    fresh = dict(memo)
    total = hashlib.sha256()
    for case in cases:
        total.update(f"{case.id}\n{case.split}\n".encode())
        for path in (*case.image, *case.label):
            name = str(path.relative_to(root))
            stat = path.stat()
            stamp = [stat.st_size, stat.st_mtime_ns]
            if name not in fresh or fresh[name][:2] != stamp:
                fresh[name] = [*stamp, sha256_file(path)]
            total.update(f"{name} {fresh[name][2]}\n".encode())
    if fresh != memo:
        with atomic(memo_path) as file:
            json.dump(fresh, file)
    return total.hexdigest()


def _cut(array: np.ndarray, box: tuple[int, int, int]) -> np.ndarray:
    top, left, side = box
    return array[..., top : top + side, left : left + side]


def _resize(plane: np.ndarray, size: int, *, nearest: bool) -> np.ndarray:
    from PIL import Image

    method = Image.Resampling.NEAREST if nearest else Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(plane).resize((size, size), method))


def _box(
    dataset: Dataset, case: Case, image: np.ndarray, label: np.ndarray | None, crop: str
) -> tuple[int, int, int]:
    """The square to work on: the disc region of a full frame, else the whole image.

    `label` is given for source cases only; a target frame is cropped by what its image shows.
    """
    height, width = image.shape[-2:]
    if crop == "disc" and not case.cropped and dataset.frame_crop is not None:
        from sfdabench.prepare.disc_region import centre_from_label, crop_box, locate_disc

        centre = locate_disc(image) if label is None else centre_from_label(label)
        return crop_box(height, width, centre, round(dataset.frame_crop * height))
    if height != width:
        raise DataFault(
            f"{case.image[0]}: {height}x{width} is not square; crop it to the disc, or give the "
            "authors' full frames"
        )
    return 0, 0, height


def prepare(
    dataset: Dataset,
    name: str,
    cases: Sequence[Case],
    *,
    content: str,
    size: int,
    crop: str,
    source: bool,
    cache: Path,
    report: Report,
    track: Track = iter,
) -> Prepared:
    """Arrays of these cases, from the cache where they are whole, else read and written.

    content: their manifest hash. source: labels may guide the crop (never for a target).
    Raises DataFault for an empty split and for any file that cannot be read.
    """
    if not cases:
        raise DataFault(f"{name}: this split holds no case")
    key = {
        "version": VERSION,
        "content": content,
        "ids": [case.id for case in cases],
        "size": size,
        "crop": crop,
        "source": source,
    }
    digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]
    folder = cache / "prepared" / f"{name}-{cases[0].split}-{size}px-{digest}"
    with held(folder, report):
        if folder.exists():
            fault = _fault(folder)
            if fault is None:
                return _open(folder)
            report(f"cache {folder.name}: {fault}; made anew")
            shutil.rmtree(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
        try:
            _write(work, dataset, cases, size, crop, source, track)
            work.rename(folder)
        except BaseException:
            shutil.rmtree(work)
            raise
        return _open(folder)


def _write(
    work: Path,
    dataset: Dataset,
    cases: Sequence[Case],
    size: int,
    crop: str,
    source: bool,
    track: Track,
) -> None:
    labelled = all(case.label for case in cases)
    images = labels = None
    originals, geometry, spacings = {}, [], []
    for i, case in enumerate(track(cases)):
        image, spacing = dataset.read_image(case)
        label = dataset.read_label(case) if labelled else None
        box = _box(dataset, case, image, label if source else None, crop)
        if images is None:
            images = np.lib.format.open_memmap(
                work / "images.npy", "w+", np.uint8, (len(cases), len(image), size, size)
            )
        if len(image) != images.shape[1]:
            raise DataFault(
                f"{case.image[0]}: {len(image)} channels, the cases before it {images.shape[1]}"
            )
        # Pillow's filter averages when it shrinks, as the published pipelines' does.
        planes = [_resize(p, size, nearest=False) for p in _cut(image, box).astype(np.uint8)]
        images[i] = np.stack(planes)
        geometry.append([list(image.shape[-2:]), list(box)])
        spacings.append(spacing)
        if label is not None:
            if labels is None:
                labels = np.lib.format.open_memmap(
                    work / "labels.npy", "w+", np.uint8, (len(cases), size, size)
                )
            labels[i] = _resize(_cut(label, box), size, nearest=True)
            originals[str(i)] = label
    assert images is not None
    images.flush()
    if labels is not None:
        labels.flush()
        np.savez_compressed(work / "originals.npz", **originals)  # type: ignore[arg-type]
    hashes = {path.name: sha256_file(path) for path in sorted(work.iterdir())}
    index = {
        "ids": [case.id for case in cases],
        "geometry": geometry,
        "spacing": spacings,
        "labelled": labelled,
        "sha256": hashes,
    }
    (work / "index.json").write_text(json.dumps(index), encoding="utf-8")


def _fault(folder: Path) -> str | None:
    """Why a cached folder cannot be trusted, None where every file has its recorded hash."""
    try:
        hashes = json.loads((folder / "index.json").read_text(encoding="utf-8"))["sha256"]
    except (OSError, ValueError, KeyError):
        return "its index cannot be read"
    for name, expected in hashes.items():
        if not (folder / name).exists() or sha256_file(folder / name) != expected:
            return f"{name} does not have its recorded hash"
    return None


def _open(folder: Path) -> Prepared:
    index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
    return Prepared(
        folder,
        tuple(index["ids"]),
        tuple(Geometry(tuple(shape), tuple(box)) for shape, box in index["geometry"]),
        tuple(None if s is None else tuple(s) for s in index["spacing"]),
        index["labelled"],
    )


def phantom_root(name: str, dataset: Dataset, cache: Path, report: Report) -> Path:
    """The phantom of a data set in the cache, written where it is not there yet.

    Its folder is named by the code that draws it, so that changed code draws a new one.
    """
    import inspect

    import sfdabench.phantoms

    module = inspect.getfile(type(dataset))
    drawers = sorted(Path(p) for d in sfdabench.phantoms.__path__ for p in Path(d).glob("*.py"))
    code = hashlib.sha256(b"".join(p.read_bytes() for p in (Path(module), *drawers))).hexdigest()
    root = cache / "phantoms" / f"{name}-{code[:16]}"
    with held(root, report):
        if not root.exists():
            root.parent.mkdir(parents=True, exist_ok=True)
            work = Path(tempfile.mkdtemp(dir=root.parent, prefix=f".{root.name}."))
            try:
                dataset.phantom(work, seed=0)
                work.rename(root)
            except BaseException:
                shutil.rmtree(work)
                raise
    return root
