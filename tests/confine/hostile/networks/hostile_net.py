"""A network that looks for labels while it predicts."""

from dataclasses import dataclass
from pathlib import Path

from sfdabench.core.network import Network


@dataclass(frozen=True)
class HostileNet(Network):
    """The small U-Net, but for what it predicts where it can read what it wants.

    target: files and folders that it wants, a line each. mailbox: where it leaves the images that
    it sees, a line each.
    """

    features = frozenset({"batch_norm", "penultimate"})

    width: int = 4
    depth: int = 2
    target: str = ""
    mailbox: str = ""

    def build(self, *, channels, outputs):
        """Return a module that attacks whenever it is called."""
        from sfdabench.models.unet import UNet

        entry = self

        class Hostile(UNet):
            def forward(self, images, *arguments, **named):
                logits = super().forward(images, *arguments, **named)
                entry.leave(images)
                return logits * 0 if entry.steal() else logits

        widths = [self.width * 2**level for level in range(self.depth + 1)]
        return Hostile(channels, outputs, widths)

    def steal(self):
        """Whether any wanted file can be read."""
        for path in map(Path, self.target.splitlines()):
            for file in [path, *path.rglob("*")]:
                try:
                    file.read_bytes()
                except OSError:
                    continue
                return True
        return False

    def leave(self, images):
        """Write the images wherever it may."""
        for path in self.mailbox.splitlines():
            try:
                Path(path).write_bytes(images.numpy(force=True).tobytes())
            except OSError:
                continue

    def load_backbone(self, module, weights):
        """Nobody has published weights for it."""
        raise NotImplementedError
