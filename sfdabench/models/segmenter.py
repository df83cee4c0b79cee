"""What a method calls: a network with its memory format and precision settled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from sfdabench.core.precision import Precision

PREDICTED_TOGETHER = 8  # images; moves no number where the model stands still


class Segmenter(nn.Module):
    """`model(images)` -> float32 logits, whatever the precision inside.

    channels_last: pixels of all channels side by side, 1.5 to 2 times faster where kernels like
        it; None asks the network, whose attribute of that name is True unless it says otherwise.
    precision: "bfloat16" runs the network under autocast; it has the range of float32, so losses
        need no scaling.
    A deep copy is an independent model, as any module's is.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        precision: Precision = "float32",
        channels_last: bool | None = None,
    ) -> None:
        super().__init__()
        self.precision = precision
        if channels_last is None:
            channels_last = getattr(network, "channels_last", True)
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.network = network.to(memory_format=self.memory_format)  # type: ignore[call-overload]

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> logits (B, K, H, W), float32."""
        images = images.contiguous(memory_format=self.memory_format)
        with self._autocast(images):
            return self.network(images).float()

    def penultimate(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> the features that `classify` turns into logits, float32."""
        images = images.contiguous(memory_format=self.memory_format)
        with self._autocast(images):
            return self._network.penultimate(images).float()

    def classify(self, features: Tensor, size: tuple[int, int]) -> Tensor:
        """Features of `penultimate` -> logits (B, K, *size), float32."""
        with self._autocast(features):
            return self._network.classify(features, size).float()

    def features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) -> what `classify_auxiliary` and what `classify` takes, float32.

        One forward pass for both heads and their features; for networks with "auxiliary".
        """
        images = images.contiguous(memory_format=self.memory_format)
        with self._autocast(images):
            low, last = self._network.features(images)
        return low.float(), last.float()

    def classify_auxiliary(self, low: Tensor, size: tuple[int, int]) -> Tensor:
        """The first of `features` -> logits (B, K, *size) of the auxiliary head, float32."""
        with self._autocast(low):
            return self._network.classify_auxiliary(low, size).float()

    def heads(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) -> logits of the main and the auxiliary head, (B, K, H, W) both, float32."""
        images = images.contiguous(memory_format=self.memory_format)
        with self._autocast(images):
            main, auxiliary = self._network.heads(images)
        return main.float(), auxiliary.float()

    def boundary(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) -> logits (B, K, H, W), and those of a boundary (B, 1, H, W), float32.

        For networks with "boundary".
        """
        images = images.contiguous(memory_format=self.memory_format)
        with self._autocast(images):
            masks, edges = self._network.boundary(images)
        return masks.float(), edges.float()

    def weights(self) -> dict[str, Tensor]:
        """The network's own state, under its own names: what a checkpoint holds."""
        return self.network.state_dict()

    @property
    def _network(self) -> Any:
        """Entries that declare a feature have its methods; nn.Module's type has not."""
        return cast(Any, self.network)

    def _autocast(self, tensor: Tensor) -> torch.autocast:
        kind, dtype = tensor.device.type, getattr(torch, self.precision)
        if dtype == torch.float32:
            return torch.autocast(kind, enabled=False)
        return torch.autocast(kind, dtype=dtype)


class Around(Segmenter):
    """Takes over the network of another segmenter, its memory format and its precision."""

    def __init__(self, model: nn.Module) -> None:
        start = cast(Segmenter, model)
        last = start.memory_format == torch.channels_last
        super().__init__(start.network, precision=start.precision, channels_last=last)


class OnlineSegmenter(Around):
    """A segmenter that learns from each batch that it predicts (test-time adaptation).

    model: the Segmenter whose network it takes.
    learn: images (B, C, H, W) -> their logits (B, K, H, W); it may change the network.
    batch_size: images that arrive together.
    """

    def __init__(
        self, model: nn.Module, learn: Callable[[Tensor], Tensor], batch_size: int
    ) -> None:
        super().__init__(model)
        self.learn, self.batch_size = learn, batch_size

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> logits (B, K, H, W), float32; the order of calls matters."""
        with torch.inference_mode(False), torch.enable_grad():
            return self.learn(images.clone()).detach()  # a tensor of inference mode has no graph
