"""Cases of one split, found under a root, and how they become arrays.

What makes the arrays is imported late, so that a run whose record exists is answered at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfdabench.core import registry
from sfdabench.core.code import entry_code, shared_code
from sfdabench.core.dataset import Case, Dataset
from sfdabench.core.errors import DataFault
from sfdabench.core.fields import plain
from sfdabench.core.progress import Progress
from sfdabench.prepare.manifest import manifest
from sfdabench.prepare.preparation import Preparation

if TYPE_CHECKING:
    from sfdabench.prepare.arrays import Prepared


@dataclass(frozen=True)
class Split:
    """Cases of one split, how they are prepared, and the hash of their files' content.

    root: the folder that they were found under. code: what the code is that reads and prepares
    them, by part.
    """

    dataset_name: str
    dataset: Dataset
    root: Path
    cases: tuple[Case, ...]
    content: str
    how: Preparation
    code: Mapping[str, str]

    @property
    def inputs(self) -> dict[str, Any]:
        """All that determines its arrays."""
        return {
            "dataset": self.dataset_name,
            "content": self.content,
            "how": plain(self.how),
            "code": dict(self.code),
        }

    def as_seen(self, inputs: Mapping[str, Any]) -> Split:
        """The same cases, prepared as the `inputs` of a split of them say."""
        how = {name: inputs["how"][name] for name in ("raters", "file_scale")}
        return replace(self, how=replace(self.how, **how))

    def arrays(self, cache: Path, progress: Progress, role: str) -> Prepared:
        """Its prepared arrays, with a bar that names the `role` they are for."""
        from sfdabench.prepare.arrays import prepare

        with progress.stage(f"prepare {role} ({self.dataset_name})") as advance:
            return prepare(
                self.dataset,
                self.dataset_name,
                self.cases,
                self.how,
                content=self.content,
                code=self.code,
                cache=cache,
                report=progress.say,
                advance=advance,
            )


def find_split(
    name: str,
    pattern: str,
    root: Path,
    cache: Path,
    found: dict[str, list[Case]],
    how: Preparation,
    progress: Progress,
    *,
    labelled: bool,
    fresh: bool = False,
) -> Split:
    """The cases under `root` whose split fits a pattern; `found` keeps each data set's scan.

    fresh: read every file for its content hash, also those that look unchanged.
    Raises DataFault for a split that does not exist, is empty, or lacks the labels it needs.
    """
    dataset: Dataset = registry.load("datasets", name)()
    if name not in found:
        found[name] = dataset.cases(root)
    cases = [case for case in found[name] if fnmatchcase(case.split, pattern)]
    if not cases:
        there = sorted({case.split for case in found[name]})
        raise DataFault(f"{root}: data set {name} has no case in split '{pattern}'; found: {there}")
    bare = [case.id for case in cases if not case.label]
    if labelled and bare:
        raise DataFault(
            f"{root}: data set {name}, split '{pattern}': {len(bare)} case(s) without a mask, "
            f"such as {bare[0]}; this split is learnt from or scored on"
        )
    content = manifest(
        cases,
        root,
        cache,
        partial(progress.stage, f"hash files ({name})"),
        report=progress.say,
        fresh=fresh,
    )
    return Split(name, dataset, root, tuple(cases), content, how, _code_of(name))


def find_cases(
    name: str,
    dataset: Dataset,
    pattern: str,
    root: Path,
    cache: Path,
    how: Preparation,
    progress: Progress,
) -> Split:
    """The cases that a data set outside the registry finds under `root`, labels or none.

    name: what keys call it. Raises DataFault and BadInput as its scan does.
    """
    cases = [case for case in dataset.cases(root) if fnmatchcase(case.split, pattern)]
    stage = partial(progress.stage, f"hash files ({name})")
    content = manifest(cases, root, cache, stage, report=progress.say)
    code = shared_code("datasets", "prepare")
    return Split(name, dataset, root, tuple(cases), content, how, code)


def _code_of(name: str) -> dict[str, str]:
    """What the code is that turns the files of a data set into arrays, by part."""
    return {"dataset": entry_code("datasets", name), **shared_code("datasets", "prepare")}
