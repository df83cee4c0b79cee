"""A method: a frozen dataclass of hyper-parameters with its own visible loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from sfdabench.core.needs import Needs

if TYPE_CHECKING:
    from torch import nn

    from sfdabench.core.context import Context


@dataclass(frozen=True)
class Paper:
    """Where a method, a task or a protocol comes from."""

    title: str
    venue: str
    url: str


@dataclass(frozen=True)
class Method:
    """Fields are the hyper-parameters, each default with its provenance in a comment.

    paper: the publication, None for a control of ours.
    revision: raised when the numbers of a built-in method change.
    needs: what a method with these field values asks for; strictly source-free, label-free and
        offline by default. A method whose needs are always the same gives a value,
        `needs = Needs(...)`; one whose needs follow from its fields, a property. So only an
        instance can be asked: `registry.load("methods", name)().needs`.
    phantom: field values of the phantom profile, where the paper's schedule would take too long.
    smoke: field values that make a run take seconds, for the contract checks.
    """

    paper: ClassVar[Paper | None] = None
    revision: ClassVar[int] = 1
    phantom: ClassVar[Mapping[str, Any]] = {}
    smoke: ClassVar[Mapping[str, Any]] = {}

    @property
    def needs(self) -> Needs:
        """What it asks for with these field values."""
        return Needs()

    def check_classes(self, classes: Sequence[str]) -> None:
        """Raise BadInput where a field names a class that is none of a task's; before any work."""

    def adapt(self, context: Context) -> nn.Module:
        """Return the model to deploy on the target; `context` is all that may be used."""
        raise NotImplementedError
