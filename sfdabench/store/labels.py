"""Names of runs, and field values as the texts that --set and --source-set take."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

Fields = dict[str, dict[str, Any]]  # method -> field -> value, as in a record


def text(value: Any) -> str:
    """Return a field's value as a flag takes it: a string as it is, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value)


def pairs(values: Mapping[str, Any]) -> tuple[str, ...]:
    """Return each field as 'field=value', sorted by name."""
    return tuple(f"{name}={text(value)}" for name, value in sorted(values.items()))


def settings(overrides: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
    """Return field values as texts of --set, each with the name of its method."""
    return tuple(
        f"{method}.{pair}" for method, values in overrides.items() for pair in pairs(values)
    )


def flat(method: str, fields: Mapping[str, Mapping[str, Any]]) -> tuple[tuple[str, Any], ...]:
    """Return each field as (name, value); in a chain the name begins with the method's."""
    chain = method.split("+")
    place = "{1}" if len(chain) == 1 else "{0}.{1}"
    return tuple(
        (place.format(part, name), value)
        for part in chain
        for name, value in sorted(fields.get(part, {}).items())
    )


def label(method: str, overrides: Mapping[str, Mapping[str, Any]]) -> str:
    """Name a run: 'cbmt alpha=0.5 ema=0.9', or 'adabn+cbmt cbmt.ema=0.9' for a chain."""
    return " ".join([method, *(f"{name}={text(v)}" for name, v in flat(method, overrides))])


def split(name: str) -> tuple[str, tuple[str, ...]]:
    """Split a label into its method and the texts of --set; a value may hold blanks."""
    method, *changes = re.split(r" (?=[\w.]+=)", name)
    return method, tuple(changes)
