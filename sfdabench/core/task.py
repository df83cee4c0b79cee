"""A task: source, target, classes, preprocessing and profiles, all plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from sfdabench.core.fields import Fraction, NonNegative, Positive, PositiveInt
from sfdabench.core.method import Paper


@dataclass(frozen=True)
class Domain:
    """One data set in one role: the splits to learn from and to score on."""

    dataset: str
    train: str = "train"
    test: str = "test"


@dataclass(frozen=True)
class Recipe:
    """How a source model is made; every field is part of the model's cache key.

    size: side in pixels of the square images every stage works on.
    network, network_fields: entry of the registry and overrides of its fields.
    backbone_weights: local file of pretrained backbone weights.
    augmentation: name in `primitives.views.SOURCE`.
    """

    size: PositiveInt
    network: str
    network_fields: Mapping[str, Any] = field(default_factory=dict)
    backbone_weights: Path | None = None
    augmentation: Literal["none", "light", "fundus"] = "none"
    epochs: PositiveInt = 200
    batch_size: PositiveInt = 8
    learning_rate: Positive = 1e-3
    beta1: Fraction = 0.9
    beta2: Fraction = 0.99
    decay: Fraction = 0.98
    weight_decay: NonNegative = 0.0
    validate_every: PositiveInt = 5
    threshold: Fraction = 0.75


@dataclass(frozen=True)
class Task:
    """Never changes once results exist; a fix is a new name that says what it `supersedes`.

    classes: name -> label values that belong to it; nested classes share values.
    head: "sigmoid" (independent, possibly nested classes) or "softmax" (exclusive).
    crop: "disc" cuts full frames to a square around the optic disc; "none" keeps them.
    intensity: "symmetric" maps 0..255 to -1..1 (x / 127.5 - 1), "identity" keeps the values.
    profiles: "paper" and "phantom" recipes.
    """

    title: str
    paper: Paper | None
    source: tuple[Domain, ...]
    target: Domain
    classes: Mapping[str, tuple[int, ...]]
    channels: int
    head: Literal["sigmoid", "softmax"]
    crop: Literal["disc", "none"]
    intensity: Literal["symmetric", "identity"]
    profiles: Mapping[str, Recipe]
    protocols: tuple[str, ...]
    supersedes: str | None = None
