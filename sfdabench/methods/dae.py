"""DAE (MedIA 2021), from its paper, methods-fundus.md §11 and methods-compared.md §7."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sfdabench.core.fields import Positive, PositiveInt
from sfdabench.core.method import Method, Paper
from sfdabench.core.needs import Needs

if TYPE_CHECKING:
    from torch import Tensor, nn

    from sfdabench.core.context import Context


@dataclass(frozen=True)
class DAE(Method):
    """A small normaliser of images, in front of the unchanged source model, learns to have its
    predictions left as they are by a denoiser of label maps.

    refresh: epochs, or steps online, between two times that predictions are denoised anew; these
        are what the normaliser learns towards, with no gradient through the denoiser.
    select: the normaliser is kept at which predictions and their denoised maps agreed best, which
        asks for no label. Agreement often rises while scores fall: it is no safeguard.
    online: each batch of test images has a normaliser of its own, trained from the start in
        `steps` steps, the paper's protocol with a volume as the batch; nothing is carried on.

    Ours: offline one normaliser learns the target's training images, as in CBMT's table; and the
    normaliser starts as the identity, where the paper trains one with the source model.
    """

    epochs: PositiveInt = 50  # ours, offline
    steps: PositiveInt = 500  # code, online
    batch_size: PositiveInt = 8  # ours
    learning_rate: Positive = 1e-3  # code
    refresh: PositiveInt = 1  # ours; code, online: 25
    width: PositiveInt = 16  # code
    kernel: PositiveInt = 3  # code, odd
    select: bool = True  # code
    online: bool = False  # ours: every other method is scored on images that it never saw

    paper = Paper(
        "Test-time adaptable neural networks for robust medical image segmentation",
        "MedIA 2021",
        "https://github.com/neerakara/test-time-adaptable-neural-networks-for-domain-generalization",
    )
    phantom = {"epochs": 2, "steps": 20, "refresh": 1}
    smoke = {"epochs": 2, "steps": 2, "batch_size": 4, "learning_rate": 1e-1, "width": 4}

    @property
    def needs(self) -> Needs:
        """The denoiser; online nothing of the model changes for good."""
        return Needs(
            source_stage="denoiser",
            online=self.online,
            changes=frozenset() if self.online else frozenset({"input"}),
        )

    def adapt(self, context: Context) -> nn.Module:
        """Only the normaliser trains; model and denoiser stay in eval mode."""
        import copy

        import torch

        from sfdabench.models.composites import Normalised
        from sfdabench.models.normaliser import Normaliser
        from sfdabench.models.segmenter import OnlineSegmenter
        from sfdabench.primitives.shapes import soft_dice
        from sfdabench.primitives.views import identity

        head, denoiser = context.head, context.stage()
        # online no loop holds the normaliser, whose gradient `log` could be checked by
        record = context.track if self.online else context.log
        model = context.model().requires_grad_(False)

        def denoised(seen: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
            """The denoised prediction (B, K, H, W), and how well it agrees with itself, (B,)."""
            with torch.no_grad():
                p = head.probabilities(seen(images))
                clean = head.probabilities(denoiser(p))
                return clean, soft_dice(p, clean).mean(dim=1)

        def step(seen: nn.Module, optimiser: torch.optim.Adam, images: Tensor, to: Tensor) -> None:
            loss = 1 - soft_dice(head.probabilities(seen(images)), to).mean()
            record(loss=loss)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()

        if self.online:
            starts: list[Normaliser] = []

            def learn(images: Tensor) -> Tensor:
                if not starts:
                    starts.append(Normaliser(images.shape[1], self.width, self.kernel))
                seen = Normalised(model, copy.deepcopy(starts[0]).to(images.device))
                optimiser = torch.optim.Adam(seen.part.parameters(), self.learning_rate)
                best, kept = -1.0, seen.part
                for number in range(self.steps + 1):
                    if number % self.refresh == 0 or number == self.steps:
                        clean, agreement = denoised(seen, images)
                        if float(agreement.mean()) > best or not self.select:
                            best, kept = float(agreement.mean()), copy.deepcopy(seen.part)
                    if number < self.steps:
                        step(seen, optimiser, images, clean)
                return Normalised(model, kept)(images)

            return OnlineSegmenter(model, learn, self.batch_size)

        channels, height, width = context.target.shape
        normaliser = context.place(Normaliser(channels, self.width, self.kernel))
        kept = copy.deepcopy(normaliser)
        seen, deploy = Normalised(model, normaliser), Normalised(model, kept)
        optimiser = torch.optim.Adam(normaliser.parameters(), self.learning_rate)
        outputs = head.outputs(len(context.classes))
        cleaned = torch.zeros(len(context.target), outputs, height, width, dtype=torch.uint8)
        best = torch.tensor(-1.0)

        def look() -> float:
            """Denoise all predictions anew; keep the normaliser where they agree better."""
            total = 0.0
            for batch in context.target.batches(self.batch_size, shuffle=False, plain=identity):
                clean, agreement = denoised(seen, batch.plain)
                cleaned[batch.index] = (255 * clean).round().to("cpu", torch.uint8)
                total += float(agreement.sum())
            if total > best or not self.select:
                best.fill_(total)
                kept.load_state_dict(normaliser.state_dict())
            return total / len(context.target)

        look()
        loop: dict[str, Any] = {"normaliser": normaliser, "optimiser": optimiser}
        loop |= {"cleaned": cleaned, "best": best}
        for epoch in context.epochs(self.epochs, deploy=deploy, **loop):
            for batch in context.target.batches(self.batch_size, plain=identity):
                step(seen, optimiser, batch.plain, cleaned[batch.index].to(batch.plain) / 255)
            if (epoch + 1) % self.refresh == 0 or epoch + 1 == self.epochs:
                context.track(agreement=look())
        return deploy
