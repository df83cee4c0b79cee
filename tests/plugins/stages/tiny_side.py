"""A source-side stage of the tests: the source model, trained on for a step or two."""

from dataclasses import dataclass

from sfdabench.core.stage import SourceStage


@dataclass(frozen=True)
class TinySide(SourceStage):
    """One epoch of plain training, from the source model."""

    epochs: int = 1
    rate: float = 1e-2

    phantom = {"rate": 2e-2}
    smoke = {"epochs": 2}

    def train(self, context):
        """Return the model that has seen the source once more."""
        import torch

        from sfdabench.primitives.losses import segmentation_loss
        from sfdabench.primitives.views import SOURCE

        model = context.model().train()
        optimiser = torch.optim.SGD(model.parameters(), self.rate)
        for _ in context.epochs(self.epochs, deploy=None, model=model, optimiser=optimiser):
            for images, masks in context.source.pairs(8, SOURCE["none"]):
                loss = segmentation_loss(model(images), masks, context.head)
                context.log(loss=loss)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
        return model
