"""The source model as it is: what every gain is measured against."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sfdabench.core.method import Method
from sfdabench.core.needs import Needs

if TYPE_CHECKING:
    from torch import nn

    from sfdabench.core.context import Context


@dataclass(frozen=True)
class SourceOnly(Method):
    """No adaptation."""

    needs = Needs(changes=frozenset())

    def adapt(self, context: Context) -> nn.Module:
        """Deploy the source model."""
        return context.model()
