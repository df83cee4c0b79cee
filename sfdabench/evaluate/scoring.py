"""The labels of a test split: masks in, scores under every protocol out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sfdabench.core.protocol import Protocol
from sfdabench.core.task import Task
from sfdabench.evaluate.score import CaseScore, Tally, region_masks
from sfdabench.prepare.arrays import Prepared
from sfdabench.prepare.planes import fit_label
from sfdabench.prepare.split import Split


@dataclass(frozen=True)
class Scores:
    """Means and counts of one model under every protocol, and the rows they come from."""

    means: dict[str, Any]
    empties: dict[str, Any]
    rows: tuple[tuple[str, CaseScore], ...]

    @property
    def mean_dice(self) -> dict[str, float]:
        """Mean over classes by protocol; 0 where no case of any class had a Dice."""
        found = {}
        for name, means in self.means.items():
            dice = [metrics["dice"]["mean"] for metrics in means.values()]
            found[name] = float(np.mean([d for d in dice if d is not None] or [0.0]))
        return found


class Scorer:
    """The target test split with its labels; opened when adaptation is over."""

    def __init__(
        self, task: Task, split: Split, prepared: Prepared, protocols: Mapping[str, Protocol]
    ) -> None:
        self.task, self.split, self.prepared, self.protocols = task, split, prepared, protocols

    def __call__(
        self, cases: Iterable[Mapping[str, np.ndarray]], only: str | None = None
    ) -> Scores:
        """Protocol -> masks, case by case as `predict` gives them, to scores.

        only: this metric alone, where the others would cost without being looked at.
        """
        names = list(self.task.scored)
        tallies = {
            name: Tally(replace(protocol, metrics=(only,), legacy=()) if only else protocol, names)
            for name, protocol in self.protocols.items()
        }
        for i, (name, masks) in enumerate(zip(self.prepared.ids, cases, strict=True)):
            for key, tally in tallies.items():
                spacing = self._spacing(i, tally.protocol)
                references = self._references(i, tally.protocol)
                for rater, (label, drawn) in enumerate(references):
                    shown = name if len(references) == 1 else f"{name}/rater{rater + 1}"
                    reference = region_masks(label, self.task)
                    marked = reference if drawn is label else region_masks(drawn, self.task)
                    tally.add(shown, masks[key], reference, spacing, marked)
        return Scores(
            {name: tally.means() for name, tally in tallies.items()},
            {name: tally.empties for name, tally in tallies.items()},
            tuple((name, score) for name, tally in tallies.items() for score in tally.scores),
        )

    def _references(self, case: int, protocol: Protocol) -> list[tuple[np.ndarray, np.ndarray]]:
        """Label maps of a case in the protocol's geometry: one, or one a rater.

        Each as it is scored, and as it was drawn; the two differ where the protocol floors masks.
        """
        if protocol.references == "raters":
            maps = list(self.split.dataset.read_raters(self.split.cases[case]))
            if protocol.geometry == "original":
                return [(label, label) for label in maps]
            place, size = self.prepared.cases[case].geometry, self.prepared.shape[-1]
            drawn = [fit_label(label, place, size, floored=False) for label in maps]
            if "floored_masks" not in protocol.legacy:
                return [(label, label) for label in drawn]
            floored = [fit_label(label, place, size, floored=True) for label in maps]
            return list(zip(floored, drawn, strict=True))
        original = protocol.geometry == "original"
        label = self.prepared.original(case) if original else self.prepared.case_labels(case)
        return [(label, label)]

    def _spacing(self, case: int, protocol: Protocol) -> tuple[float, ...] | None:
        """Millimetres a step of the scored grid; None where the protocol counts pixels."""
        spacing = self.prepared.cases[case].spacing
        if spacing is None or protocol.spacing == "pixel":
            return None
        if protocol.geometry == "original":
            return spacing
        _, _, height, width = self.prepared.cases[case].geometry.box
        size = self.prepared.shape[-1]
        return (*spacing[:-2], spacing[-2] * height / size, spacing[-1] * width / size)
