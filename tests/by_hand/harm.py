"""What a method does where there is nothing to adapt to."""

import torch

from sfdabench.checks import toy
from sfdabench.checks.toy import Toy, attempt


def dice_on_the_source(method, folder, monkeypatch):
    """Dice before and after an adaptation to a target that is the toy's source, labels included."""
    real = toy.draw
    monkeypatch.setattr(
        toy, "draw", lambda of, domain, *more, **named: real(of, "source", *more, **named)
    )
    done = attempt(method, Toy(), folder)
    _, labels = real(Toy(), "source", 9, foreground=True)
    truth = torch.as_tensor(labels)[:, None] >= torch.tensor([2, 1]).view(1, 2, 1, 1)

    def dice(masks):
        return float(2 * (masks & truth).sum() / (masks.sum() + truth.sum()))

    return dice(toy.predict(done.start, Toy()) > 0.5), dice(done.prediction > 0.5)
