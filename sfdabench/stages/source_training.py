"""Recipe -> source model: trained and selected on source images, hashed, cached, shared."""

from __future__ import annotations

import copy
import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sfdabench.core.checkpoint import CheckpointKeeper, same_threads
from sfdabench.core.context import Loop
from sfdabench.core.errors import BadInput
from sfdabench.core.files import atomic, held
from sfdabench.core.seeding import seed_all
from sfdabench.core.streams import LabelledStream
from sfdabench.core.task import Recipe
from sfdabench.models.segmenter import Segmenter
from sfdabench.models.weights import from_bytes, sha256, to_bytes
from sfdabench.primitives.losses import supervised_loss
from sfdabench.primitives.views import SOURCE

Report = Callable[[str], None]
EpochDone = Callable[[int, int], None]


@dataclass(frozen=True)
class SourceModel:
    """A trained model on disk, by the hash of its weights."""

    path: Path
    sha256: str
    info: dict[str, Any]


@torch.inference_mode()
def validation_dice(model: nn.Module, stream: LabelledStream, head: str, threshold: float) -> float:
    """Mean over images and classes of (2 I + 1) / (P + G + 1) on the network's grid."""
    model.eval()
    total, count = 0.0, 0
    for images, masks in stream.pairs(8, SOURCE["none"], shuffle=False):
        logits = model(images)
        if head == "sigmoid":
            hard, truth = (logits.sigmoid() > threshold).float(), masks
        else:
            winner = logits.argmax(dim=1, keepdim=True)
            hard = torch.zeros_like(logits).scatter_(1, winner, 1.0)[:, 1:]
            truth = masks[:, 1:]
        shared = (hard * truth).sum(dim=(2, 3))
        size = hard.sum(dim=(2, 3)) + truth.sum(dim=(2, 3))
        dice = (2 * shared + 1) / (size + 1)
        total, count = total + dice.sum().item(), count + dice.numel()
    return total / count


def train(
    model: Segmenter,
    recipe: Recipe,
    train_split: LabelledStream,
    validation_split: LabelledStream,
    head: str,
    seed: int,
    work: Path,
    epoch_done: EpochDone,
) -> dict[str, Any]:
    """Train in place and leave the selected weights in `model`; goes on from `work`.

    CBMT's training (methods-fundus.md §5): Adam, the recipe's loss, a rate that decays every
    epoch, the epoch with the best Dice on the source's own held-out split. An auxiliary head
    learns the same with a weight of its own. Returns the selected epoch, its score, the curves
    and the seconds of this call.
    """
    start = time.monotonic()
    seed_all(seed)
    optimiser = torch.optim.Adam(
        model.parameters(),
        lr=recipe.learning_rate,
        betas=(recipe.beta1, recipe.beta2),
        weight_decay=recipe.weight_decay,
    )
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimiser, recipe.decay)
    best = copy.deepcopy(model)
    best_seen = torch.tensor([-1.0, -1.0])  # Dice, epoch
    loop = Loop(
        clock=train_split.clock,
        keeper=CheckpointKeeper(work, at_epoch=lambda _, epoch, n, *__: epoch_done(epoch + 1, n)),
    )
    epochs = loop.epochs(
        recipe.epochs,
        deploy=model,
        optimiser=optimiser,
        schedule=schedule,
        best=best,
        best_seen=best_seen,
    )
    auxiliary = recipe.auxiliary_weight if hasattr(model.network, "heads") else 0.0
    for epoch in epochs:
        model.train()
        for images, masks in train_split.pairs(recipe.batch_size, SOURCE[recipe.augmentation]):
            heads = model.heads(images) if auxiliary else (model(images),)
            losses = [supervised_loss(logits, masks, head, recipe.loss) for logits in heads]
            loss = losses[0] + auxiliary * losses[-1] if auxiliary else losses[0]
            loop.log(loss=loss)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        schedule.step()
        if (epoch + 1) % recipe.validate_every == 0 or epoch + 1 == recipe.epochs:
            dice = validation_dice(model, validation_split, head, recipe.threshold)
            loop.track(validation_dice=dice)
            if dice > best_seen[0] or recipe.select == "last":
                best.load_state_dict(model.state_dict())
                best_seen.copy_(torch.tensor([dice, float(epoch)]))
    model.load_state_dict(best.state_dict())
    return {
        "selected_epoch": int(best_seen[1]),
        "validation_dice": float(best_seen[0]),
        "curves": loop.curves,
        "seconds": time.monotonic() - start,
    }


def cached(
    folder: Path,
    build: Callable[[], Segmenter],
    fit: Callable[[Segmenter, Path], dict[str, Any]],
    report: Report,
) -> SourceModel:
    """The source model in `folder`, trained there where it is not, or is not what its card says.

    build: a fresh model. fit: trains it, given a folder for checkpoints, and returns its info.
    """
    weights, card = folder / "model.safetensors", folder / "source.json"
    with held(folder, report):
        if weights.exists() and card.exists():
            found = _open(weights, card)
            if found is not None:
                return found
            report(f"source model {folder.name} is not what its card says; trained anew")
            shutil.rmtree(folder)
        work = folder.with_name(f"{folder.name}.work")
        model = build()
        with same_threads(work, report):
            info = fit(model, work)
        trained = put(folder, model.weights(), info)
        shutil.rmtree(work, ignore_errors=True)
        return trained


def put(folder: Path, state: Mapping[str, Tensor], info: Mapping[str, Any]) -> SourceModel:
    """Write a source model into its folder of the cache; the card comes last."""
    weights, content = folder / "model.safetensors", sha256(state)
    with atomic(weights, "wb") as file:
        file.write(to_bytes(state, {"sha256": content}))
    with atomic(folder / "source.json") as file:
        json.dump({"sha256": content, **info}, file, indent=1)
    return SourceModel(weights, content, dict(info))


def _open(weights: Path, card: Path) -> SourceModel | None:
    """None where the card cannot be read, or the weights do not have the hash in it."""
    try:
        info = json.loads(card.read_text(encoding="utf-8"))
        content = info["sha256"]
        state, _ = from_bytes(weights.read_bytes(), weights)
    except (BadInput, ValueError, OSError, KeyError, TypeError):
        return None
    return SourceModel(weights, content, info) if sha256(state) == content else None
