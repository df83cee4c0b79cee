"""How the images of a domain are prepared, as plain values; needs no NumPy."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from sfdabench.core.needs import Raters
from sfdabench.core.task import Centre, Domain, Task, Training

FILE_SIDE = 512  # code: px of CBMT's crop from a source file, and of a resized test file


@dataclass(frozen=True)
class Preparation:
    """All that turns an authors' image into planes; part of every key that depends on them.

    The fields are those of `Task` and `Domain`. planes: which of them are kept. by_label: the
    label may guide the disc crop (never for a target). values: label values that mark
    something; all but 0 where empty.
    raters: "each" makes a plane of every rater's mask that marks something.
    file_scale: planes of more than FILE_SIDE pixels a side in their file stay larger than `size`,
        in proportion.
    """

    size: int
    crop: Literal["disc", "none"] | Centre
    intensity: Literal["symmetric", "zscore", "zscore_nonzero", "zscore_plane"]
    channels: tuple[str, ...] = ()
    window: tuple[float, float] | None = None
    ceiling: float | None = None
    planes: Literal["all", "nonzero", "labelled"] = "all"
    by_label: bool = False
    values: tuple[int, ...] = ()
    raters: Raters = "majority"
    file_scale: bool = False

    @classmethod
    def of(cls, task: Task, domain: Domain, size: int, role: str) -> Preparation:
        """For a role of a domain: "source", "source test", "target" or "target test"."""
        source = role.startswith("source")
        chosen = task.source_planes if source else task.target_planes
        return cls(
            size=size,
            crop=task.crop,
            intensity=task.intensity,
            channels=domain.channels,
            window=domain.window,
            ceiling=domain.ceiling,
            planes="all" if role.endswith("test") else chosen,
            by_label=source,
            values=tuple(sorted({value for values in task.classes.values() for value in values})),
        )

    def for_training(self, training: Training) -> Preparation:
        """As source training reads its training split.

        The view of CBMT's source training crops from the file as it is (methods-fundus.md §4a).
        """
        return replace(self, raters=training.raters, file_scale=training.augmentation == "fundus")

    def side(self, in_file: int) -> int:
        """Pixels a side of a prepared plane that has this many in its file."""
        if not self.file_scale:
            return self.size
        return round(self.size * max(in_file, FILE_SIDE) / FILE_SIDE)
