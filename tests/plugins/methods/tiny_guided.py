"""A method of the tests that follows a source-side stage."""

from dataclasses import dataclass

from sfdabench.core.method import Method
from sfdabench.core.needs import Needs


@dataclass(frozen=True)
class TinyGuided(Method):
    """The model learns what the stage predicts on the target."""

    epochs: int = 2
    rate: float = 1e-2

    needs = Needs(source_stage="tiny_side")

    def adapt(self, context):
        """Return the student."""
        import torch

        from sfdabench.primitives.losses import segmentation_loss
        from sfdabench.primitives.views import identity

        guide, model = context.stage(), context.model().train()
        optimiser = torch.optim.SGD(model.parameters(), self.rate)
        for _ in context.epochs(self.epochs, deploy=model, optimiser=optimiser):
            for batch in context.target.batches(4, plain=identity):
                with torch.no_grad():
                    soft = context.head.probabilities(guide(batch.plain))
                loss = segmentation_loss(model(batch.plain), soft, context.head)
                context.log(loss=loss)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
        return model
