"""Files of weights (safetensors) as bytes: their content hash and their metadata, without torch.

What a confined process wrote is read here by the process that trusts nobody.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sfdabench.core.errors import BadInput

METADATA = "__metadata__"
TYPES = {
    **{"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"},
    **{"I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8"},
    "BOOL": "bool",
}  # safetensors' name of a type -> torch's


def content_hash(data: bytes, origin: Path | str) -> str:
    """Return the hash of names, types, shapes and values, as `models.weights.sha256` computes it.

    Raises BadInput naming `origin` where `data` is no whole safetensors file.
    """
    header, values = _parts(data, origin)
    total = hashlib.sha256()
    try:
        for name in sorted(header.keys() - {METADATA}):
            entry = header[name]
            start, end = entry["data_offsets"]
            if not 0 <= start <= end <= len(values):
                raise ValueError(f"{name} lies outside the file")
            shape = tuple(map(int, entry["shape"]))
            total.update(f"{name} torch.{TYPES[entry['dtype']]} {shape}\n".encode())
            total.update(values[start:end])
    except (KeyError, TypeError, ValueError) as error:
        raise BadInput(f"{origin}: not a whole safetensors file ({error})") from error
    return total.hexdigest()


def metadata(data: bytes, origin: Path | str) -> dict[str, str]:
    """Return the metadata of a file. Raises BadInput as `content_hash` does."""
    return dict(_parts(data, origin)[0].get(METADATA) or {})


def with_metadata(data: bytes, about: Mapping[str, str], origin: Path | str) -> bytes:
    """Return the file with other metadata. Raises BadInput as `content_hash` does."""
    header, values = _parts(data, origin)
    names = [name for name in header if name != METADATA]
    text = json.dumps({METADATA: dict(about), **{name: header[name] for name in names}})
    text += " " * (-len(text) % 8)  # the values are aligned
    return b"".join([len(text).to_bytes(8, "little"), text.encode(), values])


def _parts(data: bytes, origin: Path | str) -> tuple[dict[str, Any], memoryview]:
    length = int.from_bytes(data[:8], "little")
    try:
        if len(data) < 8 + length:
            raise ValueError("it is cut short")
        header = json.loads(data[8 : 8 + length])
        if not isinstance(header, dict):
            raise ValueError("its header is no object")
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{origin}: not a whole safetensors file ({error})") from error
    return header, memoryview(data)[8 + length :]
