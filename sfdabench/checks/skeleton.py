"""The skeleton that `sfdabench new method` writes: it runs and passes its contracts as it is."""

from __future__ import annotations

import keyword
from pathlib import Path

from sfdabench.core import registry
from sfdabench.core.errors import BadInput
from sfdabench.core.files import atomic

TEMPLATE = '''"""{title}: say in one line what it does, and name the paper."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sfdabench.core.fields import Positive, PositiveInt
from sfdabench.core.method import Method

if TYPE_CHECKING:
    from torch import nn

    from sfdabench.core.context import Context


@dataclass(frozen=True)
class {class_name}(Method):
    """Entropy minimisation on the target, as a place to start from.

    Every hyper-parameter is a field; give each default its provenance.
    """

    epochs: PositiveInt = 5  # paper §...
    batch_size: PositiveInt = 8  # paper §...
    learning_rate: Positive = 1e-4  # paper §...

    # paper = Paper("title", "venue", "url")
    # needs = Needs(...)  # strictly source-free and label-free unless you declare otherwise
    smoke = {{"epochs": 2, "batch_size": 4}}

    def adapt(self, context: Context) -> nn.Module:
        """Return the model to deploy; the loop resumes bit for bit through context.epochs."""
        import torch

        from sfdabench.primitives.entropy import mean_entropy
        from sfdabench.primitives.views import identity

        model = context.model().train()
        optimiser = torch.optim.Adam(model.parameters(), self.learning_rate)
        for _ in context.epochs(self.epochs, deploy=model, optimiser=optimiser):
            for batch in context.target.batches(self.batch_size, plain=identity):
                loss = mean_entropy(model(batch.plain), context.head)
                context.log(entropy=loss)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
        return model
'''


def write_method(name: str, out: Path) -> Path:
    """Write `out`/methods/NAME.py and return its path.

    Raises BadInput for a name that is no Python identifier in lower case or is taken.
    """
    if not name.isidentifier() or keyword.iskeyword(name) or name != name.lower():
        raise BadInput(f"{name}: a method's name is a file name such as my_method")
    path = out / "methods" / f"{name}.py"
    if name in registry.names("methods") or path.exists():
        raise BadInput(f"{name}: there is a method of this name; choose another")
    title = name.replace("_", " ").strip().capitalize()
    class_name = "".join(part.capitalize() for part in name.split("_"))
    with atomic(path) as file:
        file.write(TEMPLATE.format(title=title, class_name=class_name))
    return path
