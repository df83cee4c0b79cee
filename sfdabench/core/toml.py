"""TOML files as pydantic models."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from sfdabench.core.errors import BadInput
from sfdabench.core.files import regular

Model = TypeVar("Model", bound=BaseModel)


class Part(BaseModel):
    """A table of such a file: frozen, of finite numbers, without a key that it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, defer_build=True)


def read(path: Path, model: type[Model]) -> Model:
    """The file's values. Raises BadInput that names the file and the entry at fault."""
    regular(path, "name another file")
    try:
        return model.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadInput(f"{path}: cannot be read ({error})") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise BadInput(f"{path}: {where}: {first['msg']}") from error
