"""A denoiser of label maps, which DAE adapts by.

Karani et al., MedIA 2021, and methods-compared.md §7.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sfdabench.core.fields import Fraction, Positive, PositiveInt
from sfdabench.core.method import Paper
from sfdabench.core.stage import SourceStage

if TYPE_CHECKING:
    from torch import nn

    from sfdabench.core.context import SourceContext


@dataclass(frozen=True)
class DenoiserStage(SourceStage):
    """A U-Net learns to mend label maps of the source, squares of which were shuffled.

    squares: at most as many a map. smallest, largest: half of a square's side, as shares of the
        image's.

    Ours: in 2D, at the size of the task; and cross-entropy beside the paper's Dice, which alone
    leaves empty maps without a gradient. Maps come under the source's own augmentation.
    """

    epochs: PositiveInt = 100  # ours
    batch_size: PositiveInt = 8  # ours; code: one volume
    learning_rate: Positive = 1e-3  # code
    width: PositiveInt = 32  # ours; code 16, in 3D
    depth: PositiveInt = 3  # code
    squares: PositiveInt = 20  # PASS's code, of fundus images
    smallest: Fraction = 0.004  # ours: code 1 to 10 of 256
    largest: Fraction = 0.04  # ours

    paper = Paper(
        "Test-time adaptable neural networks for robust medical image segmentation",
        "MedIA 2021",
        "https://github.com/neerakara/test-time-adaptable-neural-networks-for-domain-generalization",
    )
    phantom = {"epochs": 30, "width": 8, "learning_rate": 3e-3, "smallest": 0.02, "largest": 0.12}
    smoke = {"epochs": 2, "batch_size": 4, "width": 4, "depth": 2, "learning_rate": 1e-2}

    def train(self, context: SourceContext) -> nn.Module:
        """Return the `Denoiser`; notes the Dice of held-out maps, spoilt and mended."""
        import torch

        from sfdabench.models.denoiser import Denoiser
        from sfdabench.primitives.losses import dice_loss, segmentation_loss
        from sfdabench.primitives.shapes import jigsaw, soft_dice
        from sfdabench.primitives.views import SOURCE

        head = context.head
        noise = self.squares, self.smallest, self.largest
        denoiser = Denoiser(head.outputs(len(context.classes)), self.width, self.depth)
        context.place(denoiser)
        optimiser = torch.optim.Adam(denoiser.parameters(), self.learning_rate)
        for _ in context.epochs(self.epochs, deploy=denoiser, optimiser=optimiser):
            denoiser.train()
            for _, masks in context.source.pairs(self.batch_size, SOURCE[context.augmentation]):
                logits = denoiser(jigsaw(masks, *noise))
                loss = dice_loss(logits, masks, head) + segmentation_loss(logits, masks, head)
                context.log(loss=loss)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
        denoiser.eval()
        dice: list[torch.Tensor] = []
        with torch.no_grad():
            for _, masks in context.validation.pairs(8, SOURCE["none"], shuffle=False):
                spoilt = jigsaw(masks, *noise)
                mended = head.probabilities(denoiser(spoilt))
                dice.append(torch.stack([soft_dice(maps, masks) for maps in (spoilt, mended)], 2))
        before, after = torch.cat(dice).mean(dim=(0, 1)).tolist()
        context.note(dice_before=before, dice_after=after)
        return denoiser
