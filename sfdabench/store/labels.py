"""What a run is called, and its field values as the texts of --set and --source-set."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

Fields = dict[str, dict[str, Any]]  # method -> field -> value, as in a record


def text(value: Any) -> str:
    """A field's value as a flag takes it: a string as it is, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value)


def pairs(values: Mapping[str, Any]) -> tuple[str, ...]:
    """'field=value' of each, by name."""
    return tuple(f"{name}={text(value)}" for name, value in sorted(values.items()))


def settings(overrides: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
    """Field values as texts of --set, each with its method's name."""
    return tuple(
        f"{method}.{pair}" for method, values in overrides.items() for pair in pairs(values)
    )


def flat(method: str, fields: Mapping[str, Mapping[str, Any]]) -> tuple[tuple[str, Any], ...]:
    """(name, value) of each field as a label names it: in a chain each has its method."""
    chain = method.split("+")
    place = "{1}" if len(chain) == 1 else "{0}.{1}"
    return tuple(
        (place.format(part, name), value)
        for part in chain
        for name, value in sorted(fields.get(part, {}).items())
    )


def label(method: str, overrides: Mapping[str, Mapping[str, Any]]) -> str:
    """'cbmt alpha=0.5 ema=0.9'; in a chain each field has its method: 'adabn+cbmt cbmt.ema=0.9'."""
    return " ".join([method, *(f"{name}={text(v)}" for name, v in flat(method, overrides))])


def split(name: str) -> tuple[str, tuple[str, ...]]:
    """A label -> its method and the texts of --set; a value may hold blanks."""
    method, *changes = re.split(r" (?=[\w.]+=)", name)
    return method, tuple(changes)
