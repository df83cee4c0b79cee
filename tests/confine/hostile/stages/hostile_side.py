"""A source-side stage that wants the target."""

from dataclasses import dataclass
from pathlib import Path

from sfdabench.core.stage import SourceStage


@dataclass(frozen=True)
class HostileSide(SourceStage):
    """It returns the source model, with weights of zero where it could read the target.

    target: files and folders that it wants, a line each.
    """

    target: str = ""

    def train(self, context):
        """Return the model."""
        import torch

        model = context.model()
        for path in map(Path, self.target.splitlines()):
            for file in [path, *path.rglob("*")]:
                try:
                    file.read_bytes()
                except OSError:
                    continue
                with torch.no_grad():
                    for parameter in model.parameters():
                        parameter.zero_()
        return model
