"""The base of what stands beside a network, such as a normaliser or a translator of images."""

from __future__ import annotations

import functools
import inspect
import json
from typing import Any

from torch import nn

PLAIN = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


class Part(nn.Module):
    """A module that remembers what it was constructed from, so that it can be built anew.

    In front of a network it maps images (B, C, H, W) to images of that shape. A subclass writes its
    `__init__` as ever; its arguments must be plain JSON values (numbers, texts, lists and the
    like), and each must have a name: TypeError where they are not. It stands at the top of a file
    in `sfdabench.models`, or of a method's, a plug-in's included.

    arguments: the values of the constructor by name, defaults included; lists where it took tuples.
    """

    def __init__(self) -> None:
        super().__init__()
        self._remember({})

    def __init_subclass__(cls, **named: Any) -> None:
        """Let the subclass's own constructor record its arguments."""
        super().__init_subclass__(**named)
        if "__init__" in vars(cls):
            cls.__init__ = _recording(cls)  # type: ignore[method-assign]

    @property
    def arguments(self) -> dict[str, Any]:
        """The values of the constructor, by name."""
        return json.loads(self.__dict__["_arguments"])

    def _remember(self, arguments: dict[str, Any]) -> None:
        # Not an attribute set as usual: torch refuses those before its own constructor ran. The
        # outermost constructor comes first, and its arguments are those that build the part.
        if "_arguments" not in self.__dict__:
            try:
                text = json.dumps(arguments, allow_nan=False)
            except (TypeError, ValueError) as error:
                raise TypeError(
                    f"{type(self).__name__}: its arguments must be plain JSON values ({error})"
                ) from error
            self.__dict__["_arguments"] = text


def _recording(cls: type[Part]) -> Any:
    constructor = cls.__init__
    signature = inspect.signature(constructor)
    _, *parameters = signature.parameters.values()
    if unnamed := [p.name for p in parameters if p.kind not in PLAIN]:
        raise TypeError(f"{cls.__name__}: {', '.join(unnamed)} of its constructor cannot be named")

    @functools.wraps(constructor)
    def record(self: Part, *values: Any, **named: Any) -> None:
        bound = signature.bind(self, *values, **named)
        bound.apply_defaults()
        _, *given = bound.arguments.items()
        self._remember(dict(given))
        constructor(self, *values, **named)

    return record
