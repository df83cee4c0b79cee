"""Overrides `field=value`: validated against a dataclass, with errors that name the field."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Annotated, Any, TypeVar, get_type_hints

from annotated_types import Ge, Gt, Interval

from sfdabench.core.errors import BadInput
from sfdabench.core.near import unknown

Fraction = Annotated[float, Interval(ge=0, le=1)]
Positive = Annotated[float, Gt(0)]
NonNegative = Annotated[float, Ge(0)]
PositiveInt = Annotated[int, Gt(0)]

T = TypeVar("T")


@cache
def _adapter(hint: Any) -> Any:
    from pydantic import ConfigDict, TypeAdapter

    return TypeAdapter(hint, config=ConfigDict(allow_inf_nan=False))


def describe(hint: Any) -> str:
    """A type hint as a user would read it."""
    text = hint.__name__ if isinstance(hint, type) else str(hint)
    for noise in ("typing.", "annotated_types.", "pathlib._local.", "pathlib."):
        text = text.replace(noise, "")
    return text


def split_pair(text: str, flag: str) -> tuple[str, str]:
    """'field=value' -> (field, value); BadInput where there is no '='."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise BadInput(f"{flag} {text}: expected field=value")
    return name.strip(), value.strip()


def _parse(text: str) -> Any:
    """JSON where it is JSON (numbers, lists, objects, null), else the text itself."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return {"none": None, "true": True, "false": False}.get(text.lower(), text)


def override(value: T, changes: Mapping[str, Any], *, owner: str, flag: str = "--set") -> T:
    """A copy of the dataclass instance `value` with `changes` applied.

    Text is parsed to the field's type. Raises BadInput that names the field for an unknown name,
    a value of another type, or one out of range.
    """
    from pydantic import ValidationError

    hints = get_type_hints(type(value), include_extras=True)
    known = [f.name for f in dataclasses.fields(value)]  # type: ignore[arg-type]
    checked = {}
    for name, given in changes.items():
        if name not in known:
            raise BadInput(f"{flag} {name}: {unknown(f'field of {owner}', name, known)}")
        candidates = [given] if not isinstance(given, str) else [given, _parse(given)]
        problem = None
        for candidate in candidates:
            try:
                checked[name] = _adapter(hints[name]).validate_python(candidate)
            except ValidationError as error:
                problem = problem or error.errors()[0]["msg"]
                continue
            if isinstance(candidate, bool) and not isinstance(checked[name], bool):
                problem = "true and false are no numbers"  # pydantic would take them for 1 and 0
                continue
            break
        else:
            raise BadInput(f"{flag} {name}={given}: {problem} (field '{name}' of {owner})")
    return dataclasses.replace(value, **checked)  # type: ignore[type-var]


def pairs(texts: Sequence[str], flag: str) -> dict[str, str]:
    """Several 'field=value' -> a dict; a field given twice is an error."""
    found: dict[str, str] = {}
    for text in texts:
        name, value = split_pair(text, flag)
        if name in found:
            raise BadInput(f"{flag} {name}: given twice")
        found[name] = value
    return found


def plain(value: Any) -> Any:
    """A dataclass (or any nesting of plain values) as JSON types, for hashes and records."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted(plain(v) for v in value)
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return str(value)
