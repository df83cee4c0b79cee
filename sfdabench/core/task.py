"""A task: source, target, classes, preprocessing and profiles, all plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from sfdabench.core.fields import Fraction, NonNegative, Positive, PositiveInt
from sfdabench.core.head import Head
from sfdabench.core.method import Paper
from sfdabench.core.needs import Raters

Augmentation = Literal["none", "light", "fundus", "anatomy", "spinal_cord"]


@dataclass(frozen=True)
class Domain:
    """One data set in one role: the splits to learn from and to score on.

    train, test: names of splits, as shell patterns ("hgg-*-train").
    oracle: the labelled split that a supervised upper bound learns from, where `train` has no
        labels.
    channels: names of the data set's channels to use; all of them where empty.
    window: file units below and above which values are clipped, such as Hounsfield units.
    ceiling: percentile of a volume above which its values are clipped.
    """

    dataset: str
    train: str = "train"
    test: str = "test"
    oracle: str | None = None
    channels: tuple[str, ...] = ()
    window: tuple[float, float] | None = None
    ceiling: float | None = None


@dataclass(frozen=True)
class Centre:
    """A square around the middle of each plane, padded where the plane is smaller.

    side: in `unit`; "mm" needs images whose spacing is known.
    """

    side: float
    unit: Literal["px", "mm"] = "px"


@dataclass(frozen=True, kw_only=True)
class Training:
    """How a network is trained on the source; the fields of the stage `source_training`.

    augmentation: name in `primitives.views.SOURCE`.
    auxiliary_weight: of the loss of a network's auxiliary head, where it has one.
    raters: see `Needs`; without effect where one rater drew the masks.
    schedule: of the rate: "exponential" multiplies it by `decay` each epoch; "ramp_and_cosine"
        raises it over the share `ramp` of the epochs and lowers it to 0 as a cosine.
    select: the epoch that is kept: "best" by Dice on the source's own test split, or "last".
    """

    augmentation: Augmentation = "none"
    raters: Raters = "each"
    loss: Literal["cross_entropy", "cross_entropy_dice", "dice"] = "cross_entropy"
    auxiliary_weight: NonNegative = 0.1
    select: Literal["best", "last"] = "best"
    epochs: PositiveInt = 200
    batch_size: PositiveInt = 8
    learning_rate: Positive = 1e-3
    beta1: Fraction = 0.9
    beta2: Fraction = 0.99
    schedule: Literal["exponential", "ramp_and_cosine"] = "exponential"
    decay: Fraction = 0.98
    ramp: Fraction = 1 / 7
    weight_decay: NonNegative = 0.0
    validate_every: PositiveInt = 5
    threshold: Fraction = 0.75


@dataclass(frozen=True, kw_only=True)
class Recipe(Training):
    """How a source model is made; every field is part of the key of its stage.

    size: side in pixels of the square images every stage works on.
    network, network_fields: entry of the registry and overrides of its fields.
    backbone_weights: local file of pretrained backbone weights.
    """

    size: PositiveInt
    network: str
    network_fields: Mapping[str, Any] = field(default_factory=dict)
    backbone_weights: Path | None = None

    @property
    def training(self) -> dict[str, Any]:
        """The field values of `source_training`."""
        return {f.name: getattr(self, f.name) for f in fields(Training)}


@dataclass(frozen=True)
class Task:
    """Never changes once results exist; a fix is a new name that says what it `supersedes`.

    classes: name -> label values that belong to it; nested classes share values.
    regions: name -> classes whose union is scored under that name; the classes where empty.
    head: SIGMOID (independent, possibly nested classes) or SOFTMAX (exclusive).
    crop: "disc" cuts full frames to a square around the optic disc; "none" keeps them.
    intensity: "symmetric" maps 0..255 to -1..1 (x / 127.5 - 1). Volumes are standardised by mean
        and standard deviation of each channel: "zscore" over the volume, "zscore_nonzero" over
        the voxels above 0 (background becomes 0), "zscore_plane" over each cropped plane.
    augmentation: a mild view that leaves the labels true, for methods that train on labels.
    source_planes, target_planes: axial planes to learn from: "all", "nonzero" (those that show
        anything), "labelled" (from the first to the last with a label: source only). Test splits
        keep all.
    profiles: "paper" and "phantom" recipes.
    """

    title: str
    paper: Paper | None
    source: tuple[Domain, ...]
    target: Domain
    classes: Mapping[str, tuple[int, ...]]
    channels: int
    head: Head
    crop: Literal["disc", "none"] | Centre
    intensity: Literal["symmetric", "zscore", "zscore_nonzero", "zscore_plane"]
    profiles: Mapping[str, Recipe]
    protocols: tuple[str, ...]
    regions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    source_planes: Literal["all", "nonzero", "labelled"] = "all"
    target_planes: Literal["all", "nonzero"] = "all"
    augmentation: Literal["light", "anatomy", "spinal_cord"] = "light"
    supersedes: str | None = None

    @property
    def scored(self) -> dict[str, tuple[str, ...]]:
        """Name in a table -> the classes whose union it is."""
        return dict(self.regions) or {name: (name,) for name in self.classes}
