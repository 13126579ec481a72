"""What a model folder says of itself before any weight is read: JSON, indexes and headers. Without torch."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from lmzoo.errors import LmzooError

CONFIG = "config.json"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLED, PICKLED_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
GENERATOR_FOLDER = "generator"
"""In the folder of an ELECTRA that was written here, its other half."""
NAMES = (WEIGHTS, INDEX, PICKLED, PICKLED_INDEX)
"""Where weights are looked for in a folder, in this order."""
ADVICE = "export or fetch it again"


def weights_file(folder: Path) -> Path | None:
    """The first of the files that may hold a folder's weights, or say which ones do."""
    return next((folder / name for name in NAMES if (folder / name).is_file()), None)


def read_json(path: Path) -> dict[str, Any]:
    """An object written as JSON.

    Raises:
        LmzooError: the file cannot be read, or is no JSON object.
    """
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise LmzooError(f"{path} cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise LmzooError(f"{path} is damaged ({first_line(error)}); {ADVICE}") from error
    if not isinstance(read, dict):
        raise LmzooError(f"{path} is damaged (no JSON object); {ADVICE}")
    return read


def weight_map(index: Path) -> dict[str, str]:
    """Which file of the index's own folder holds which tensor.

    Raises:
        LmzooError: the index is damaged, or names a file outside its folder.
    """
    named = read_json(index).get("weight_map")
    if not isinstance(named, dict) or not all(isinstance(name, str) for name in named.values()):
        raise LmzooError(f"{index} is damaged (no weight_map of file names); {ADVICE}")
    ending = ".safetensors" if index.name == INDEX else ".bin"
    for name in named.values():
        if not _is_plain_name(name) or not name.endswith(ending):
            raise LmzooError(f"{index} names {name!r}, which is no {ending} file of its own folder; refused")
    return named


def _is_plain_name(name: str) -> bool:
    """Whether ``name`` is that of a file in a folder, and cannot lead out of it."""
    return bool(name) and name not in (".", "..") and not set(name) & {"/", "\\", "\0"}


def tensor_names(folder: Path) -> list[str] | None:
    """Names of the tensors in a folder, from an index or a safetensors header; None where neither is there.

    Raises:
        LmzooError: the file is damaged.
    """
    found = weights_file(folder)
    if found is None or found.name == PICKLED:
        return None
    if found.name == WEIGHTS:
        return list(read_header(found))
    return list(weight_map(found))


def read_header(path: Path) -> dict[str, Any]:
    """What a safetensors file says of each tensor: its dtype, shape and place.

    Raises:
        LmzooError: the header is damaged.
    """
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > path.stat().st_size:
                raise ValueError("its header is cut off")
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        return header
    except (OSError, ValueError, AttributeError, RecursionError, struct.error) as error:
        raise LmzooError(f"{path} is damaged ({first_line(error)}); {ADVICE}") from error


def first_line(error: Exception) -> str:
    """What an error says, without the advice that libraries add below."""
    return (str(error).splitlines() or [type(error).__name__])[0]
