"""How the images of a domain are prepared, as plain values; needs no NumPy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sfdabench.core.task import Centre, Domain, Task


@dataclass(frozen=True)
class Preparation:
    """All that turns an authors' image into planes; part of every key that depends on them.

    The fields are those of `Task` and `Domain`. planes: which of them are kept. by_label: the
    label may guide the disc crop (never for a target).
    """

    size: int
    crop: Literal["disc", "none"] | Centre
    intensity: Literal["symmetric", "zscore", "zscore_nonzero", "zscore_plane"]
    channels: tuple[str, ...] = ()
    window: tuple[float, float] | None = None
    ceiling: float | None = None
    planes: Literal["all", "nonzero", "labelled"] = "all"
    by_label: bool = False

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
        )
