"""Every fault of a data set's files at once, before a run trips over the first of them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sfdabench.core.dataset import Case, Dataset
from sfdabench.core.errors import DataFault
from sfdabench.prepare.planes import not_square

Advance = Callable[[int, int], None]
# A name that ends as images do, or did before a download or a copy put something behind it.
LIKE_AN_IMAGE = re.compile(r"\.(png|jpe?g|bmp|gif|tiff?|dcm|nii|mha|nrrd|img|hdr)(?![a-z])", re.I)
MAX_NAMED = 20  # ours: of the files of a folder


@dataclass(frozen=True)
class Report:
    """What `verify` found.

    root: the folder looked through. cases: split -> number found. labelled: split -> of these,
    with masks. expected: split -> number in the official release, of the splits found; empty
    where no release has them all. faults: each names its file and the cure; any fault stops a
    run. notes: worth knowing, in nobody's way. `str` gives it all as text.
    """

    root: Path
    cases: Mapping[str, int]
    labelled: Mapping[str, int]
    expected: Mapping[str, int]
    faults: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """No fault."""
        return not self.faults

    def __str__(self) -> str:
        lines = [str(self.root)]
        for split, number in self.cases.items():
            lines.append(f"  {split}: {number} cases, {self.labelled.get(split, 0)} with masks")
        for kind, texts in (("fault", self.faults), ("note", self.notes)):
            lines.append(f"{len(texts) or 'no'} {kind}{'s' * (len(texts) != 1)}")
            lines += [f"  {text}" for text in texts]
        return "\n".join(lines)


def verify(dataset: Dataset, root: Path, *, advance: Advance = lambda done, total: None) -> Report:
    """Scan `root` and read every image and mask in it, with `advance` after each case.

    Raises nothing for bad data: a missing root or layout is a fault of the report as well.
    """
    try:
        scan = dataset.scan(root)
    except DataFault as fault:
        return Report(root, {}, {}, {}, (str(fault),), ())
    faults = list(scan.faults)
    notes = [f"layout: {scan.layout}"] if scan.layout else []
    absent: Counter[str] = Counter()
    for done, case in enumerate(scan.cases, 1):
        faults += _image_faults(dataset, case) + _label_faults(dataset, case, absent)
        advance(done, len(scan.cases))
    for name, number in absent.items():
        notes.append(f"{number} of {len(scan.cases)} masks hold no {name}")
    cases = Counter(case.split for case in scan.cases)
    labelled = Counter(case.split for case in scan.cases if case.label)
    expected = official(dataset.counts, cases)
    for split, number in expected.items():
        if cases[split] != number:
            notes.append(f"split '{split}' has {cases[split]} cases, the official release {number}")
    notes += [
        f"split '{split}': {number - labelled[split]} of {number} cases have no mask"
        for split, number in cases.items()
        if labelled[split] < number
    ]
    notes += not_read(scan.cases)
    once = tuple(dict.fromkeys(faults))  # a broken image is in the way of its mask as well
    return Report(root, dict(cases), dict(labelled), expected, once, tuple(notes))


def official(
    counts: Mapping[str, Mapping[str, int]], found: Mapping[str, int]
) -> Mapping[str, int]:
    """Numbers in the release that has all splits found, the nearest one if several do."""
    releases = [release for release in counts.values() if found.keys() <= release.keys()]
    nearest = min(
        releases,
        key=lambda release: sum(abs(release[split] - number) for split, number in found.items()),
        default=None,
    )
    return {split: nearest[split] for split in found} if nearest else {}


def not_read(cases: Iterable[Case]) -> Iterator[str]:
    """A note for each folder that holds files of cases, and beside them images of no case.

    Such files bear another name or suffix than expected, and their cases are not there.
    """
    of_cases: dict[Path, set[str]] = {}
    for case in cases:
        for path in (*case.image, *case.label):
            of_cases.setdefault(path.parent, set()).add(path.name)
    for folder, known in of_cases.items():
        names = sorted(path.name for path in folder.iterdir() if path.name not in known)
        others = [n for n in names if not n.startswith(".") and LIKE_AN_IMAGE.search(n)]
        if others:
            more = f" and {len(others) - MAX_NAMED} more" if len(others) > MAX_NAMED else ""
            yield (
                f"{folder}: not read, since no such name is looked for: "
                f"{', '.join(others[:MAX_NAMED])}{more}"
            )


def _image_faults(dataset: Dataset, case: Case) -> list[str]:
    try:
        image, _ = dataset.read_image(case)
    except DataFault as fault:
        return [str(fault)]
    if not np.isfinite(image).all():
        return [f"{case.image[0]}: holds values that are no numbers; get this file again"]
    files = case.image if len(case.image) == len(image) else case.image[:1]
    channels = list(image) if len(files) == len(image) else [image]
    faults = [
        f"{path}: one value everywhere; get this file again"
        for path, channel in zip(files, channels, strict=True)
        if channel.min() == channel.max()
    ]
    if case.cropped and (crooked := not_square(case, image.shape)):
        faults.append(crooked)
    return faults


def _label_faults(dataset: Dataset, case: Case, absent: Counter[str]) -> list[str]:
    """Faults of the case's mask; counts in `absent` the classes that it lacks."""
    if not case.label:
        return []
    try:
        label = dataset.read_label(case)
    except DataFault as fault:
        return [str(fault)]
    present = np.unique(label)
    unknown = sorted(set(present.tolist()) - set(dataset.labels.values()))
    if unknown:
        return [f"{case.label[0]}: label values {unknown} are not among {dict(dataset.labels)}"]
    absent.update(name for name, value in dataset.labels.items() if value not in present)
    return []
