"""Segmenters that do more than call their network, and how they are stored and rebuilt."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self, cast

import torch
from torch import Tensor, nn

from sfdabench.core import registry
from sfdabench.core.errors import BadInput, RunFailed
from sfdabench.core.head import HEADS, Head
from sfdabench.models.part import Part
from sfdabench.models.segmenter import OnlineSegmenter, Precision, Segmenter
from sfdabench.models.weights import fill

LEAST = 1e-6  # probability that a mean is cut to, and one minus it
FOLDER = Path(__file__).parent
BROKEN = (AttributeError, ArithmeticError, RuntimeError)  # what constructors end in as well


class _Composite(Segmenter):
    """Takes over the network of a segmenter, so that the network's weights keep their names.

    The part in front computes in float32, whatever the precision of the network.

    place: the attribute, and the beginning of the names, of the part in front.
    Raises RunFailed for a model that has a part in front already, and for one that learns while
    it predicts.
    """

    place = ""

    def __init__(self, model: nn.Module, part: nn.Module) -> None:
        if type(model) is not Segmenter:
            raise RunFailed(
                f"{type(self).__name__} goes around a plain Segmenter, not a {type(model).__name__}"
            )
        last = model.memory_format == torch.channels_last
        super().__init__(model.network, precision=model.precision, channels_last=last)
        if any(name.startswith(f"{self.place}.") for name in model.network.state_dict()):
            raise RunFailed(f"the network has weights called {self.place}.* itself; rename them")
        self.add_module(self.place, part)

    @property
    def part(self) -> nn.Module:
        """What stands in front of the network."""
        return self.get_submodule(self.place)

    def options(self) -> dict[str, Any]:
        """The constructor's values other than the model and the part, as JSON types."""
        return {}

    @classmethod
    def from_options(cls, model: nn.Module, part: nn.Module, options: Mapping[str, Any]) -> Self:
        """The composite of which `options` said this. Raises TypeError for options of another."""
        return cls(model, part, **options)

    def weights(self) -> dict[str, Tensor]:
        """The network's state under its own names, and that of the part in front of it."""
        own = {f"{self.place}.{name}": value for name, value in self.part.state_dict().items()}
        return {**super().weights(), **own}


class Normalised(_Composite):
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


class Averaged(_Composite):
    """The mean of the probabilities of the images and of their translation, as logits.

    Features are those of the images alone: a mean of probabilities has none.

    model: the Segmenter whose network it takes. translate: images (B, C, H, W) -> the same shape.
    head: of the task; it says which probabilities logits stand for.
    """

    place = "translate"

    def __init__(self, model: nn.Module, translate: nn.Module, head: Head) -> None:
        super().__init__(model, translate)
        self.head = head

    def options(self) -> dict[str, Any]:
        """The head, by name."""
        return {"head": self.head.name}

    @classmethod
    def from_options(cls, model: nn.Module, part: nn.Module, options: Mapping[str, Any]) -> Self:
        """The head is one of `HEADS`. Raises KeyError for another name."""
        return super().from_options(model, part, {**options, "head": HEADS[options["head"]]})

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


class MergedHeads(Segmenter):
    """What the main and the auxiliary head say together, as logits; needs "auxiliary".

    It shares the network of a segmenter, and is about whatever that one is trained to. Features
    and `heads` are those of the network.

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
        if type(model) not in (Segmenter, MergedHeads):
            raise RunFailed(
                f"MergedHeads goes around a plain Segmenter, not a {type(model).__name__}"
            )
        plain = cast(Segmenter, model)
        last = plain.memory_format == torch.channels_last
        super().__init__(plain.network, precision=plain.precision, channels_last=last)
        self.head, self.merge, self.weight = head, merge, weight

    def options(self) -> dict[str, Any]:
        """The constructor's values other than the model, as JSON types."""
        return {"head": self.head.name, "merge": self.merge, "weight": self.weight}

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> logits (B, K, H, W), float32."""
        main, auxiliary = self.heads(images)
        if self.merge == "logits":
            return main + self.weight * auxiliary
        p, q = self.head.probabilities(main), self.head.probabilities(auxiliary)
        mean = (p + self.weight * q) / (1 + self.weight)
        return self.head.logits(mean.clamp(LEAST, 1 - LEAST))


ALONE = "Part"  # what a description calls a part that stands in front of no network
MERGED = "MergedHeads"
COMPOSITES: dict[str, type[_Composite]] = {"Normalised": Normalised, "Averaged": Averaged}


def describe(model: nn.Module) -> dict[str, Any] | None:
    """What `rebuild` needs to know of a deployed model besides its weights, as JSON types.

    None for a plain segmenter, and for one that learns while it predicts: it is kept as the plain
    segmenter that it has become. A Part alone, such as a source-side stage returns, is described as
    it is. Raises RunFailed for a model that weights and this description cannot bring back: of
    another type, with a part in front that is no Part in a file of ours or
    of an entry, with a hook, or with a method replaced on an instance.
    """
    plain = (Segmenter, OnlineSegmenter, MergedHeads, *COMPOSITES.values())
    if type(model) not in plain and not isinstance(model, Part):
        raise RunFailed(
            f"the deployed model is of type {type(model).__name__}: return context.model(), or a "
            f"composite of sfdabench.models ({', '.join((*COMPOSITES, MERGED))})"
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
    if isinstance(model, MergedHeads):
        return {"name": MERGED, **model.options()}
    if not isinstance(model, _Composite):
        return None
    return {"name": type(model).__name__, "part": _named(model.part), **model.options()}


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
        name = rest.pop("name")
        if name == MERGED:
            merged = MergedHeads(plain, **rest | {"head": HEADS[rest["head"]]})
            fill(network, state, origin)
            return merged.eval()
        part = rest.pop("part")
        composite = COMPOSITES[name]
        entry = _part_class(part["module"], part["class"])
        model = composite.from_options(plain, entry(**part["arguments"]), rest)
    except (BadInput, RunFailed) as error:
        raise BadInput(f"{origin}: composite: {error}") from error
    except (KeyError, TypeError, ValueError, *BROKEN) as error:
        reason = f"{type(error).__name__}: {error}"
        raise BadInput(f"{origin}: not the description of a composite ({reason})") from error
    device = next(iter(network.state_dict().values())).device
    prefix = f"{model.place}."
    fill(network, {n: v for n, v in state.items() if not n.startswith(prefix)}, origin)
    own = {n.removeprefix(prefix): v for n, v in state.items() if n.startswith(prefix)}
    fill(model.part, own, origin)
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
