"""What a method asks for beyond unlabelled target images; the default asks for nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sfdabench.core.head import HEADS, Head

Change = Literal["parameters", "statistics", "input"]
Raters = Literal["majority", "each"]
SETTINGS = ("none", "SFDA", "SFDA+", "TTA", "UDA", "supervised")  # by how much they ask for


@dataclass(frozen=True)
class Needs:
    """Declared capabilities; the context holds what is declared and nothing else.

    source_data: labelled source images during adaptation (UDA, not source-free).
    source_stage: name of a stage that is trained on the source beside the source model, such as
        a denoiser of label maps; None for no stage.
    class_ratio: the mean share of the image that each class takes, known from the source.
    raters: which masks source images have where several raters drew them: what most say, or each
        of them, as an image of its own.
    target_labels: labels of the target training split (an oracle).
    online: no target training split; the deployed model learns from each batch that it predicts.
    heads: output heads it is defined for.
    network: features the network must have, such as "batch_norm".
    changes: what it may change of the source model; empty for one that deploys it as it is.
        "input" stands for modules in front of the network.
    """

    source_data: bool = False
    class_ratio: bool = False
    source_stage: str | None = None
    raters: Raters = "majority"
    target_labels: bool = False
    online: bool = False
    heads: tuple[Head, ...] = tuple(HEADS.values())
    network: frozenset[str] = frozenset()
    changes: frozenset[Change] = frozenset({"parameters", "statistics"})

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> Needs:
        """Return the needs of which `core.fields.plain` gave these values."""
        return cls(
            **dict(values)
            | {
                "heads": tuple(HEADS[name] for name in values["heads"]),
                "network": frozenset(values["network"]),
                "changes": frozenset(values["changes"]),
            }
        )

    @property
    def setting(self) -> str:
        """The column *setting* of a table."""
        if self.target_labels:
            return "supervised"
        if self.source_data:
            return "UDA"
        if self.online:
            return "TTA"
        if self.source_stage is not None:
            return "SFDA+"
        return "SFDA" if self.changes else "none"
