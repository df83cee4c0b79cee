"""A stage is whatever is made once from its inputs; here it is a value, named by their hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from sfdabench.core import registry
from sfdabench.core.errors import BadInput
from sfdabench.core.fields import override, plain
from sfdabench.core.head import HEADS, Head
from sfdabench.core.method import Method, Paper

if TYPE_CHECKING:
    from torch import nn

    from sfdabench.core.context import SourceContext

Kind = Literal["stages", "methods", "imported"]
SHORT = 16  # digits of a key in names of files


def digest(inputs: Mapping[str, Any]) -> str:
    """Return the hash of JSON values; the order of names does not count."""
    text = json.dumps(inputs, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class SourceStage:
    """A registry entry that trains a model on the source, before the target is seen.

    Fields are the hyper-parameters, each default with its provenance in a comment. A stage is one
    file in `stages/`; it starts from a fresh network ("source_training") or from the source model.

    paper: the publication, None for a stage of ours.
    revision: a number that is raised when the stage's numbers change.
    phantom: field values of the phantom profile. smoke: those that make it take seconds.
    """

    paper: ClassVar[Paper | None] = None
    revision: ClassVar[int] = 1
    phantom: ClassVar[Mapping[str, Any]] = {}
    smoke: ClassVar[Mapping[str, Any]] = {}

    def train(self, context: SourceContext) -> nn.Module:
        """Return the trained module; `context` is all that may be used."""
        raise NotImplementedError


@dataclass(frozen=True)
class Problem:
    """What a stage knows of its task; it knows no file and no name of a data set.

    classes: name -> label values. augmentation, source_loss: see `Context`.
    """

    classes: Mapping[str, tuple[int, ...]]
    head: Head
    channels: int
    augmentation: str
    source_loss: str

    @property
    def outputs(self) -> int:
        """How many channels the logits have."""
        return self.head.outputs(len(self.classes))


@dataclass(frozen=True)
class Stage:
    """One thing to make: a source model, a source-side module, an adapted model, an imported one.

    kind, name: the registry entry that makes it, or "imported" and the name it was given.
    fields: the entry's field values, as JSON types.
    code: names of code -> revision or digest of what makes it (`core.code`).
    network, network_fields: the registry entry that builds the segmenter.
    sees: role -> the splits whose images, and where the role says so labels, it may read; each
        split as the plain values that determine its arrays.
    start: the stage whose model it begins with. beside: stages whose modules it is given.
    device, precision: where and how it computes, as far as its numbers depend on that; source
        stages are shared by all devices, so theirs is None.
    """

    kind: Kind
    name: str
    fields: Mapping[str, Any]
    code: Mapping[str, str]
    network: str
    network_fields: Mapping[str, Any]
    problem: Problem
    sees: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    start: Stage | None = None
    beside: tuple[Stage, ...] = ()
    device: str | None = None
    precision: Literal["float32", "bfloat16"] = "float32"

    @cached_property
    def key(self) -> str:
        """The hash of all fields; the stages that it is made from count by their own keys."""
        values = self.plain() | {
            "start": None if self.start is None else self.start.key,
            "beside": [stage.key for stage in self.beside],
        }
        return digest(values)

    @property
    def folder_name(self) -> str:
        """What the folder of its artefact in the cache is called."""
        return f"{self.name}-{self.key[:SHORT]}"

    @property
    def order(self) -> tuple[Stage, ...]:
        """All stages that it is made from, and itself; each comes after those that it needs."""
        before = [*([self.start] if self.start else []), *self.beside]
        ordered = {stage.key: stage for earlier in before for stage in earlier.order}
        return (*ordered.values(), self)

    def maker(self) -> SourceStage | Method:
        """Return the entry with its field values. Raises BadInput where it does not take them."""
        if self.kind == "imported":
            raise BadInput(
                f"source model {self.name}: its file is no longer in the cache; import it again "
                "with `sfdabench source import`"
            )
        entry = registry.load(self.kind, self.name)
        return override(entry(), self.fields, owner=f"{self.kind.removesuffix('s')} {self.name}")

    def plain(self) -> dict[str, Any]:
        """Return the stage as JSON types, earlier stages included; `Stage.read` reads them."""
        values = {f.name: plain(getattr(self, f.name)) for f in fields(self)}
        values["start"] = None if self.start is None else self.start.plain()
        values["beside"] = [stage.plain() for stage in self.beside]
        return values

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> Stage:
        """Return the stage that `plain` described. Raises KeyError or TypeError for others."""
        start, problem = values["start"], values["problem"]
        classes = {name: tuple(labels) for name, labels in problem["classes"].items()}
        head = HEADS[problem["head"]]
        return cls(
            **dict(values)
            | {
                "problem": Problem(**problem | {"classes": classes, "head": head}),
                "start": None if start is None else cls.read(start),
                "beside": tuple(cls.read(stage) for stage in values["beside"]),
            }
        )
