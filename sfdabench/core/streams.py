"""Images in batches under views: what a method is shown of a split, with or without labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from sfdabench.core.errors import BadInput, RunFailed
from sfdabench.core.seeding import generator

Key = tuple[int, int, int]  # of a pass over the data: stage, epoch, passes in it so far
View = Callable[[Tensor, Sequence[np.random.Generator]], Tensor]
PairedView = Callable[[Tensor, Tensor, Sequence[np.random.Generator]], tuple[Tensor, Tensor]]
T = TypeVar("T")  # what a pass gives: batches, or pairs of images and masks


@dataclass
class Clock:
    """Where the loop stands; keys the randomness of every view and every shuffle."""

    stage: int = 0
    epoch: int = -1
    passes: int = 0

    def start(self, stage: int, epoch: int) -> None:
        """Begin an epoch."""
        self.stage, self.epoch, self.passes = stage, epoch, 0

    def tick(self) -> Key:
        """A key for one more pass over the data within this epoch."""
        self.passes += 1
        return self.stage, self.epoch, self.passes


@dataclass(frozen=True)
class Batch:
    """Unlabelled images under the views that were asked for, as attributes: `batch.weak`.

    index: (B,) positions in the stream, on the CPU, for banks. ids: B names.
    Every view is (B, C, H, W) float32 on the device, in the range that the network expects.
    """

    index: Tensor
    ids: tuple[str, ...]
    views: Mapping[str, Tensor]
    _paired: Callable[[PairedView, Tensor], tuple[Tensor, Tensor]]

    def paired(self, view: PairedView, maps: Tensor) -> tuple[Tensor, Tensor]:
        """The images and maps of them, such as predictions (B, K, H, W), under one geometry.

        The same draw however often it is asked for. Raises ValueError for maps of other images.
        """
        if len(maps) != len(self.ids):
            raise ValueError(f"{len(maps)} maps for {len(self.ids)} images")
        return self._paired(view, maps)

    def __getattr__(self, name: str) -> Tensor:
        try:
            return self.views[name]
        except KeyError:
            raise AttributeError(
                f"batch has no view '{name}'; asked for: {list(self.views)}"
            ) from None


@dataclass
class Stream:
    """Images of one split; no label is in reach of it.

    images: (N, C, H, W), resident on the device where they fit, or a list of N images of several
        sizes. uint8 comes out of the views on
        -1..1 (x / 127.5 - 1); standardised floats keep their values, and views see each channel
        of an image on 0..255, from its smallest value to its largest.
    """

    name: str
    images: Any
    ids: tuple[str, ...]
    device: torch.device
    seed: int
    clock: Clock

    def __post_init__(self) -> None:
        """Move the images to a GPU where they take less than a quarter of what is free there."""
        if self.device.type == "cuda" and isinstance(self.images, np.ndarray):
            free, _ = torch.cuda.mem_get_info(self.device)
            if self.images.nbytes < free / 4:
                self.images = torch.from_numpy(np.array(self.images)).to(self.device)

    def __len__(self) -> int:
        """Number of images."""
        return len(self.ids)

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, H, W) of the first image; all have it where `images` is no list."""
        return tuple(self.images[0].shape)

    def value_range(self) -> tuple[list[float], list[float]]:
        """The low and the high ends of the values of each channel, as the views give them.

        -1 and 1 for uint8; of standardised floats, which have no bounds, the quantiles 0.001 and
        0.999 of at most 256 images, evenly spaced. Raises RunFailed for a channel that is constant.
        """
        channels = self.shape[0]
        if self._is_uint8:
            return [-1.0] * channels, [1.0] * channels
        chosen = np.unique(np.linspace(0, len(self) - 1, 256).round().astype(int))
        values = self._take(chosen).cpu().numpy().swapaxes(0, 1).reshape(channels, -1)
        low, high = np.quantile(values, (0.001, 0.999), axis=1)
        for channel in np.flatnonzero(~(high > low)):
            raise RunFailed(
                f"{self.name}: channel {channel} of the images is {low[channel]:g} nearly "
                "everywhere, so it has no range to translate; leave the channel or these images out"
            )
        return low.tolist(), high.tolist()

    @property
    def _is_uint8(self) -> bool:
        dtype = (self.images[0] if isinstance(self.images, list) else self.images).dtype
        return dtype in (np.uint8, torch.uint8)

    def steps(self, size: int) -> int:
        """Batches of `size` in one pass."""
        return -(-len(self) // size)

    def _take(self, index: np.ndarray) -> Tensor:
        if isinstance(self.images, list):
            chosen = torch.from_numpy(np.stack([self.images[i] for i in index]))
        elif isinstance(self.images, Tensor):
            chosen = self.images[torch.from_numpy(index).to(self.images.device)]
        else:
            chosen = torch.from_numpy(np.ascontiguousarray(self.images[index]))
        return chosen.to(self.device, torch.float32)

    def _scaled(self, images: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """Images on 0..255 for the views, and the way from there to what the network expects."""
        if self._is_uint8:
            return images, lambda seen: seen / 127.5 - 1
        low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
        step = (high - low).clamp(min=1e-6) / 255
        scaled = (images - low) / step
        # a view that changes nothing must not round
        return scaled, lambda seen: images if seen is scaled else seen * step + low

    def _order(self, shuffle: bool, key: Key) -> np.ndarray:
        if not shuffle:
            return np.arange(len(self))
        return generator(self.seed, self.name, "shuffle", *key).permutation(len(self))

    def _chunks(self, size: int, shuffle: bool, key: Key) -> Iterator[np.ndarray]:
        order = self._order(shuffle, key)
        for start in range(0, len(order), size):
            yield order[start : start + size]

    def _generators(self, view: str, key: Key, index: np.ndarray) -> list[np.random.Generator]:
        return [generator(self.seed, self.name, view, *key, int(i)) for i in index]

    def batches(self, size: int, *, shuffle: bool = True, **views: View) -> Iterator[Batch]:
        """One pass in batches of `size`, the last one short where N is no multiple of it."""
        _check_views(views)
        key = self.clock.tick()
        for index in self._chunks(size, shuffle, key):
            yield self._batch(views, key, index)

    def endless(self, size: int, *, shuffle: bool = True, **views: View) -> Endless[Batch]:
        """Passes in batches of `size` without an end, the last batch of each short as in `batches`.

        The draws are those of `batches` called again and again; hand it to the loop as state and
        a killed run goes on in the middle of a pass.
        """
        _check_views(views)
        return Endless(self, size, shuffle, partial(self._batch, views))

    def _batch(self, views: Mapping[str, View], key: Key, index: np.ndarray) -> Batch:
        images, finish = self._scaled(self._take(index))
        shown = {
            name: finish(view(images, self._generators(name, key, index)))
            for name, view in views.items()
        }
        paired = partial(self._show_pair, images, finish, key, index)
        return Batch(torch.from_numpy(index), tuple(self.ids[i] for i in index), shown, paired)

    def _show_pair(
        self,
        images: Tensor,
        finish: Callable[[Tensor], Tensor],
        key: Key,
        index: np.ndarray,
        view: PairedView,
        maps: Tensor,
    ) -> tuple[Tensor, Tensor]:
        shown, moved = view(images, maps, self._generators("paired", key, index))
        return finish(shown), moved


@dataclass
class LabelledStream(Stream):
    """A stream with label maps, for source training and for methods that declare labels.

    labels: (N, H, W) uint8, a list where `images` is one. classes: label values of each class,
        in channel order.
    background: whether channel 0 is what belongs to no class (softmax head).
    size: side of the images that the network works on; None where it is that of these images.
    """

    labels: Any = None
    classes: tuple[tuple[int, ...], ...] = ()
    background: bool = False
    size: int | None = None

    def masks(self, labels: Tensor) -> Tensor:
        """Label maps (B, H, W) -> one float32 channel a class (B, K, H, W)."""
        channels = [
            torch.stack([labels == value for value in values]).any(dim=0) for values in self.classes
        ]
        masks = torch.stack(channels, dim=1)
        if self.background:
            masks = torch.cat([~masks.any(dim=1, keepdim=True), masks], dim=1)
        return masks.float()

    def pairs(
        self, size: int, view: PairedView, *, shuffle: bool = True
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """One pass of (images (B, C, H, W), masks (B, K, H, W)), both under the same geometry."""
        key = self.clock.tick()
        for index in self._chunks(size, shuffle, key):
            yield self._pair(view, key, index)

    def endless_pairs(
        self, size: int, view: PairedView, *, shuffle: bool = True
    ) -> Endless[tuple[Tensor, Tensor]]:
        """`pairs` without an end, pass after pass; kept by a loop as `endless` is."""
        return Endless(self, size, shuffle, partial(self._pair, view))

    def _pair(self, view: PairedView, key: Key, index: np.ndarray) -> tuple[Tensor, Tensor]:
        """Images of several sizes go through the view one size at a time; it crops them alike."""
        if not isinstance(self.images, list):
            return self._pair_of_one_size(view, key, index)
        sides = np.array([self.images[i].shape[-1] for i in index])
        order = np.argsort(sides, kind="stable")
        groups = [index[sides == side] for side in np.unique(sides)]
        pairs = [self._pair_of_one_size(view, key, group) for group in groups]
        back = torch.from_numpy(np.argsort(order)).to(self.device)
        images, masks = (torch.cat(parts) for parts in zip(*pairs, strict=True))
        return images[back], masks[back]

    def _pair_of_one_size(
        self, view: PairedView, key: Key, index: np.ndarray
    ) -> tuple[Tensor, Tensor]:
        if isinstance(self.labels, list):
            chosen = np.stack([self.labels[i] for i in index])
        else:
            chosen = np.ascontiguousarray(self.labels[index])
        labels = torch.from_numpy(chosen).to(self.device)
        images, finish = self._scaled(self._take(index))
        images, labels = view(images, labels, self._generators("pair", key, index))
        return finish(images), self.masks(labels)


class Endless(Generic[T]):
    """Batches of one pass over a stream after the other, which a loop can save and bring back.

    show: (key of the pass, (B,) positions in the stream) -> what `next` gives. The clock ticks
    when the first batch of a pass is asked for, so the order of passes over several streams is
    that of their first batches.
    """

    def __init__(
        self, stream: Stream, size: int, shuffle: bool, show: Callable[[Key, np.ndarray], T]
    ) -> None:
        self._stream, self._size, self._shuffle, self._show = stream, size, shuffle, show
        self._key: Key | None = None  # of the pass that is under way
        self._given = 0  # batches of it
        self._order = np.arange(0)

    def __iter__(self) -> Endless[T]:
        return self

    def __next__(self) -> T:
        start = self._given * self._size
        if self._key is None or start >= len(self._order):
            self._begin(self._stream.clock.tick())
            start = 0
        assert self._key is not None
        self._given += 1
        return self._show(self._key, self._order[start : start + self._size])

    def _begin(self, key: Key) -> None:
        self._key, self._given = key, 0
        self._order = self._stream._order(self._shuffle, key)

    def state_dict(self) -> dict[str, Any]:
        """Which pass is under way, how many of its batches were given, and of which size."""
        return {"pass": self._key, "given": self._given, "size": self._size}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was asked for. Raises BadInput for batches of another size."""
        if state["size"] != self._size:
            raise BadInput(
                f"the checkpoint holds a pass in batches of {state['size']}, the method asks for "
                f"{self._size}: the method changed since; run with --force"
            )
        self._key = None
        if state["pass"] is not None:
            stage, epoch, passes = state["pass"]
            self._begin((stage, epoch, passes))
        self._given = state["given"]


def _check_views(views: Mapping[str, View]) -> None:
    if not views:
        raise ValueError("name at least one view, such as batches(8, weak=views.identity)")
