"""Masks that one process predicts and another scores, packed to bits on disk. Needs no torch."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from sfdabench.core.errors import RunFailed
from sfdabench.core.fields import plain
from sfdabench.core.files import atomic
from sfdabench.core.head import HEADS, Head
from sfdabench.core.protocol import Protocol
from sfdabench.core.task import Task
from sfdabench.prepare.arrays import Prepared

Masks = Mapping[str, np.ndarray]
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class MaskSpec:
    """What masks of a case are: which classes and regions, under which protocols.

    classes: in the order of the model's channels. regions: those that are scored, each as the
    classes whose union it is. protocols: by name.
    """

    head: Head
    classes: tuple[str, ...]
    regions: tuple[tuple[str, ...], ...]
    protocols: Mapping[str, Protocol]

    @classmethod
    def of(cls, task: Task, protocols: Mapping[str, Protocol]) -> MaskSpec:
        """Return what a task scores under these protocols."""
        return cls(task.head, tuple(task.classes), tuple(task.scored.values()), protocols)

    def plain(self) -> dict[str, Any]:
        """Return it as JSON types."""
        return {name: plain(value) for name, value in vars(self).items()}

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> MaskSpec:
        """Return what `plain` described."""
        from pydantic import TypeAdapter

        protocols = TypeAdapter(dict[str, Protocol]).validate_python(values["protocols"])
        regions = tuple(map(tuple, values["regions"]))
        return cls(HEADS[values["head"]], tuple(values["classes"]), regions, protocols)

    def shapes(self, split: Prepared) -> list[dict[str, tuple[int, ...]]]:
        """Return, for each case, the shape of its masks under each protocol: (regions, *space)."""
        size = split.shape[-2:]
        return [
            {
                name: (
                    len(self.regions),
                    *case.geometry.shape[:-2],
                    *(case.geometry.shape[-2:] if protocol.geometry == "original" else size),
                )
                for name, protocol in self.protocols.items()
            }
            for case in split.cases
        ]


def seal(path: Path, cases: Iterable[Masks]) -> None:
    """Keep the masks of each case on disk, packed to bits, to be scored when adaptation is over."""
    with atomic(path, "wb") as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, True, 1) as z:
        for i, masks in enumerate(cases):
            for name, mask in masks.items():
                shape = "x".join(map(str, mask.shape))
                z.writestr(f"{i}/{name}/{shape}", np.packbits(mask).tobytes())


def unseal(path: Path, shapes: Sequence[Shapes]) -> Iterator[dict[str, np.ndarray]]:
    """Yield the masks that `seal` was given, case by case.

    shapes: of each case, the shape that each protocol scores. The file comes from a process that
    is not trusted: raises RunFailed, before anything is unpacked, where it holds other masks.
    """
    try:
        with zipfile.ZipFile(path) as z:
            grouped = groupby(z.infolist(), key=lambda entry: entry.filename.partition("/")[0])
            cases = [list(entries) for _, entries in grouped]
            for i, (entries, expected) in enumerate(zip(cases, shapes, strict=True)):
                masks = {}
                for entry in entries:
                    number, name, text = entry.filename.split("/")
                    shape = tuple(int(n) for n in text.split("x"))
                    count = math.prod(shape)
                    if int(number) != i or shape != expected[name]:
                        raise ValueError(f"case {i} has masks of shape {text}")
                    if entry.file_size != -(-count // 8):
                        raise ValueError(f"case {i} has {entry.file_size} bytes for {text}")
                    bits = np.frombuffer(z.read(entry), np.uint8)
                    masks[name] = np.unpackbits(bits, count=count).view(bool).reshape(shape)
                if masks.keys() != expected.keys():
                    raise ValueError(f"case {i} has masks for {', '.join(masks)}")
                yield masks
    except (ValueError, KeyError, zipfile.BadZipFile) as error:
        raise RunFailed(f"{path}: not the masks that were to be predicted ({error})") from error
