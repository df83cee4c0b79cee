"""Segmenters that do more than call their network, and how they are stored and rebuilt."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self, cast

from torch import Tensor, nn

from sfdabench.core import registry
from sfdabench.core.errors import BadInput, RunFailed
from sfdabench.core.head import HEADS, Head
from sfdabench.models.part import Part
from sfdabench.models.segmenter import Around, OnlineSegmenter, Precision, Segmenter
from sfdabench.models.weights import fill

LEAST = 1e-6  # probability that a mean is cut to, and one minus it
FOLDER = Path(__file__).parent
BROKEN = (AttributeError, ArithmeticError, RuntimeError)  # what constructors end in as well


class _Composite(Around):
    """A segmenter around the network of another, whose weights keep their names.

    Raises RunFailed for a model whose network it does not take.
    """

    def __init__(self, model: nn.Module) -> None:
        if not self._takes(model):
            raise RunFailed(
                f"{type(self).__name__} goes around a plain Segmenter, not a {type(model).__name__}"
            )
        super().__init__(model)

    @classmethod
    def _takes(cls, model: nn.Module) -> bool:
        return type(model) is Segmenter

    def description(self) -> dict[str, Any]:
        """The constructor's values other than the model, as JSON types."""
        return {}

    @classmethod
    def from_description(cls, model: nn.Module, description: Mapping[str, Any]) -> Self:
        """The composite of which `description` said this. Raises TypeError for that of another."""
        return cls(model, **description)

    def fill(self, state: Mapping[str, Tensor], origin: Path | str) -> None:
        """Take over what `weights` gave. Raises BadInput naming `origin` where it does not fit."""
        fill(self.network, state, origin)


class _WithPart(_Composite):
    """A composite with a part beside the network, most often in front of it.

    The part computes in float32, whatever the precision of the network.

    place: the attribute, and the beginning of the names, of the part.
    Raises RunFailed for a model that has a part already, and for one that learns while
    it predicts.
    """

    place = ""

    def __init__(self, model: nn.Module, part: nn.Module) -> None:
        super().__init__(model)
        if any(name.startswith(f"{self.place}.") for name in self.network.state_dict()):
            raise RunFailed(f"the network has weights called {self.place}.* itself; rename them")
        self.add_module(self.place, part)

    @property
    def part(self) -> nn.Module:
        """What stands beside the network."""
        return self.get_submodule(self.place)

    def description(self) -> dict[str, Any]:
        """Where the class of the part is, and the values of its constructor."""
        return {"part": _named(self.part)}

    @classmethod
    def from_description(cls, model: nn.Module, description: Mapping[str, Any]) -> Self:
        """Build the part as well. Raises BadInput where its class is not one that may be built."""
        rest = dict(description)
        part = rest.pop("part")
        entry = _part_class(part["module"], part["class"])
        return cls(model, entry(**part["arguments"]), **rest)

    def fill(self, state: Mapping[str, Tensor], origin: Path | str) -> None:
        """Take over what `weights` gave, the network's and the part's."""
        prefix = f"{self.place}."
        super().fill({n: v for n, v in state.items() if not n.startswith(prefix)}, origin)
        own = {n.removeprefix(prefix): v for n, v in state.items() if n.startswith(prefix)}
        fill(self.part, own, origin)

    def weights(self) -> dict[str, Tensor]:
        """The network's state under its own names, and that of the part."""
        own = {f"{self.place}.{name}": value for name, value in self.part.state_dict().items()}
        return {**super().weights(), **own}


class Normalised(_WithPart):
    """The network sees `before(images)`.

    model: the Segmenter whose network it takes. before: images (B, C, H, W) -> the same shape.
    """

    place = "before"

    def __init__(self, model: nn.Module, before: nn.Module) -> None:
        super().__init__(model, before)

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> logits (B, K, H, W), float32."""
        return super().forward(self.part(images))

    def penultimate(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> the features that `classify` turns into logits, float32."""
        return super().penultimate(self.part(images))

    def features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) -> the features of the auxiliary and of the main classifier, float32."""
        return super().features(self.part(images))

    def heads(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) -> logits of the main and the auxiliary head, (B, K, H, W) both, float32."""
        return super().heads(self.part(images))

    def boundary(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) -> logits (B, K, H, W), and those of a boundary (B, 1, H, W), float32."""
        return super().boundary(self.part(images))


class Averaged(_WithPart):
    """The mean of the probabilities of the images and of their translation, as logits.

    Features are those of the images alone: a mean of probabilities has none.

    model: the Segmenter whose network it takes. translate: images (B, C, H, W) -> the same shape.
    head: of the task; it says which probabilities logits stand for.
    """

    place = "translate"

    def __init__(self, model: nn.Module, translate: nn.Module, head: Head) -> None:
        super().__init__(model, translate)
        self.head = head

    def description(self) -> dict[str, Any]:
        """The part, and the head by its name."""
        return {**super().description(), "head": self.head.name}

    @classmethod
    def from_description(cls, model: nn.Module, description: Mapping[str, Any]) -> Self:
        """The head is one of `HEADS`. Raises KeyError for another name."""
        return super().from_description(model, {**description, "head": HEADS[description["head"]]})

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> logits (B, K, H, W), float32."""
        return self._mean(super().forward(images), super().forward(self.part(images)))

    def heads(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) -> logits of the main and the auxiliary head, (B, K, H, W) both, float32."""
        main, auxiliary = super().heads(images)
        other_main, other_auxiliary = super().heads(self.part(images))
        return self._mean(main, other_main), self._mean(auxiliary, other_auxiliary)

    def _mean(self, one: Tensor, other: Tensor) -> Tensor:
        mean = (self.head.probabilities(one) + self.head.probabilities(other)) / 2
        return self.head.logits(mean.clamp(LEAST, 1 - LEAST))


class Sized(_WithPart):
    """Beside the logits it tells what share of an image each class takes, which `sizes` gives.

    model: the Segmenter whose network it takes; needs "penultimate".
    gauge: means over the pixels of the penultimate features (B, F) -> logits of shares (B, K).
    """

    place = "gauge"

    def __init__(self, model: nn.Module, gauge: nn.Module) -> None:
        super().__init__(model, gauge)

    def sizes(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> logits (B, K, 1, 1) of the shares of an image that the classes take."""
        return self.part(self.penultimate(images).mean(dim=(2, 3)))[:, :, None, None]


class MergedHeads(_Composite):
    """The weighted sum of the main and the auxiliary head, as logits; needs "auxiliary".

    It shares its network with `model`: training one trains the other. Features and `heads` are
    those of the network.

    model: a plain Segmenter, or another MergedHeads, whose network it takes.
    merge: "probabilities" adds p + weight * q, "logits" adds the logits so.
    weight: of the auxiliary head.
    head: of the task; it says which probabilities logits stand for.
    Raises RunFailed for a model of another type.
    """

    def __init__(
        self,
        model: nn.Module,
        head: Head,
        merge: Literal["probabilities", "logits"],
        weight: float = 1.0,
    ) -> None:
        super().__init__(model)
        self.head, self.merge, self.weight = head, merge, weight

    @classmethod
    def _takes(cls, model: nn.Module) -> bool:
        return type(model) in (Segmenter, MergedHeads)

    def description(self) -> dict[str, Any]:
        """The head by its name, and how the heads are merged."""
        return {"head": self.head.name, "merge": self.merge, "weight": self.weight}

    @classmethod
    def from_description(cls, model: nn.Module, description: Mapping[str, Any]) -> Self:
        """The head is one of `HEADS`. Raises KeyError for another name."""
        return super().from_description(model, {**description, "head": HEADS[description["head"]]})

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> logits (B, K, H, W), float32."""
        main, auxiliary = self.heads(images)
        if self.merge == "logits":
            return main + self.weight * auxiliary
        p, q = self.head.probabilities(main), self.head.probabilities(auxiliary)
        mean = (p + self.weight * q) / (1 + self.weight)
        return self.head.logits(mean.clamp(LEAST, 1 - LEAST))


ALONE = "Part"  # what a description calls a part that stands in front of no network
COMPOSITES: dict[str, type[_Composite]] = {
    kind.__name__: kind for kind in (Normalised, Averaged, Sized, MergedHeads)
}


def describe(model: nn.Module) -> dict[str, Any] | None:
    """What `rebuild` needs to know of a deployed model besides its weights, as JSON types.

    None for a plain segmenter, and for one that learns while it predicts: it is kept as the plain
    segmenter that it has become. A Part alone, such as a source-side stage returns, is described as
    it is. Raises RunFailed for a model that weights and this description cannot bring back: of
    another type, with a part in front that is no Part in a file of ours or
    of an entry, with a hook, or with a method replaced on an instance.
    """
    plain = (Segmenter, OnlineSegmenter, *COMPOSITES.values())
    if type(model) not in plain and not isinstance(model, Part):
        raise RunFailed(
            f"the deployed model is of type {type(model).__name__}: return context.model(), or a "
            f"composite of sfdabench.models ({', '.join(COMPOSITES)})"
        )
    for name, module in model.named_modules():
        where = f"'{name}' of the deployed model" if name else "the deployed model"
        if module._forward_hooks or module._forward_pre_hooks:
            raise RunFailed(f"{where} has a forward hook, which no weights can bring back")
        for attribute in vars(module):
            if callable(getattr(type(module), attribute, None)):
                raise RunFailed(
                    f"{where} has its method {attribute} replaced, which no weights can bring back"
                )
    if isinstance(model, Part):
        return {"name": ALONE, "part": _named(model)}
    if not isinstance(model, _Composite):
        return None
    return {"name": type(model).__name__, **model.description()}


def _named(part: nn.Module) -> dict[str, Any]:
    """Where the class of a part is, and the values of its constructor."""
    kind, place = type(part), f"the part {type(part).__qualname__}"
    if not isinstance(part, Part):
        raise RunFailed(f"{place}, is no sfdabench.models.part.Part: it cannot be built anew")
    try:
        known = _part_class(kind.__module__, kind.__qualname__)
    except BadInput as error:
        raise RunFailed(f"{place}, cannot be built anew: {error}") from error
    if known is not kind:
        raise RunFailed(f"{place}, is another class than that of {kind.__module__} now")
    return {"module": kind.__module__, "class": kind.__qualname__, "arguments": part.arguments}


def rebuild(
    network: nn.Module,
    description: Mapping[str, Any] | None,
    state: Mapping[str, Tensor],
    origin: Path | str,
    precision: Precision = "float32",
) -> Segmenter:
    """The model that `describe` described and whose `weights()` are `state`, in eval mode.

    network: of the same entry, freshly built; it is taken over, and says on which device.
    Raises BadInput that names `origin` for weights or a description that do not fit.
    """
    plain = Segmenter(network, precision=precision)
    if description is None:
        fill(network, state, origin)
        return plain.eval()
    try:
        rest = dict(description)
        model = COMPOSITES[rest.pop("name")].from_description(plain, rest)
    except (BadInput, RunFailed) as error:
        raise BadInput(f"{origin}: composite: {error}") from error
    except (KeyError, TypeError, ValueError, *BROKEN) as error:
        reason = f"{type(error).__name__}: {error}"
        raise BadInput(f"{origin}: not the description of a composite ({reason})") from error
    device = next(iter(network.state_dict().values())).device
    model.fill(state, origin)
    return model.to(device).eval()


def rebuild_part(
    description: Mapping[str, Any], state: Mapping[str, Tensor], origin: Path | str
) -> Part:
    """The part that `describe` described by itself, in eval mode. Raises BadInput as `rebuild`."""
    try:
        part = description["part"]
        module = _part_class(part["module"], part["class"])(**part["arguments"])
    except BadInput as error:
        raise BadInput(f"{origin}: {error}") from error
    except (KeyError, TypeError, ValueError, *BROKEN) as error:
        reason = f"{type(error).__name__}: {error}"
        raise BadInput(f"{origin}: not the description of a part ({reason})") from error
    fill(module, state, origin)
    return module.eval()


def _part_class(module: str, name: str) -> type[Part]:
    """The Part of that name. Raises BadInput where it is not in one of the files that may hold one.

    Those are the files of this folder and the registered entries: a file that names a part must
    not be able to import anything else.
    """
    stem = module.removeprefix("sfdabench.models.")
    if stem != module and stem.isidentifier() and (FOLDER / f"{stem}.py").is_file():
        source = importlib.import_module(module)
    else:
        source = registry.entry_module(module)
    kind = vars(source).get(name)
    proper = isinstance(kind, type) and issubclass(kind, Part) and kind.__module__ == module
    if not proper or kind is Part:
        raise BadInput(f"{module} defines no part '{name}' at its top level")
    return cast(type[Part], kind)
