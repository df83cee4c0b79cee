"""Other values that a field may take, from its type hint: what the contract on fields tries."""

from __future__ import annotations

import types
from collections.abc import Iterator, Sequence
from dataclasses import fields
from itertools import combinations
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from sfdabench.core.errors import BadInput
from sfdabench.core.fields import override

Pair = tuple[Any, Any]


def field_hints(value: Any) -> dict[str, Any]:
    """Name -> type hint of each field of a dataclass, its bounds included."""
    hints = get_type_hints(type(value), include_extras=True)
    return {field.name: hints[field.name] for field in fields(value)}


def choices(hint: Any) -> tuple[Any, ...]:
    """All values of a Literal or a bool; empty for a type of many values."""
    if get_origin(hint) is Annotated:
        return choices(get_args(hint)[0])
    if hint is bool:
        return (False, True)
    return get_args(hint) if get_origin(hint) is Literal else ()


def contrasts(owner: Any, name: str, hint: Any, words: Sequence[str]) -> list[list[Pair]]:
    """Pairs of values of one field of the dataclass `owner`, in groups.

    At least one pair of each group must make a difference. Two choices of a Literal or of a bool
    are a group of their own, so all of its choices must differ; of numbers, text and tuples one
    other value is enough. words: what to try for text. Empty where no other value is known.
    """
    if options := choices(hint):
        return [[pair] for pair in combinations(options, 2)]
    value = getattr(owner, name)
    others: list[Any] = []
    for other in _others(hint, value, words):
        if other != value and other not in others and _is_valid(owner, name, other):
            others.append(other)
    return [[(value, other) for other in others]] if others else []


def _is_valid(owner: Any, name: str, value: Any) -> bool:
    try:
        override(owner, {name: value}, owner=type(owner).__name__)
    except BadInput:
        return False
    return True


def _others(hint: Any, value: Any, words: Sequence[str]) -> Iterator[Any]:
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        yield from _others(parts[0], value, words)
    elif origin in (Union, types.UnionType):
        for part in parts:
            yield from _others(part, value, words)
    elif hint is type(None):
        yield None
    elif options := choices(hint):
        yield from options
    elif hint in (int, float):
        start = value if isinstance(value, (int, float)) else 1
        for number in (start + 1, 2 * start, start / 2, start - 1, 0.5, 0, 1):
            yield hint(number)
    elif hint is str:
        yield from words
    elif origin is tuple and parts[1:] == (...,):
        items = value or ()
        yield items[:-1]
        for other in _others(parts[0], items[-1] if items else None, words):
            yield (*items[:-1], other)
            yield (*items, other)
