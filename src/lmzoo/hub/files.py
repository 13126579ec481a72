"""Weights on disk: safetensors with a checksum, whole or in shards, and PyTorch's own files without code.

Whatever is read is tensors and nothing else. A file that was cut off or has changed is refused before any
of it is used.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import pickle
import re
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lmzoo.errors import LmzooError
from lmzoo.hub.headers import ADVICE, PICKLED, WEIGHTS, first_line, weight_map, weights_file

CHECKSUM = "lmzoo_blake2b"
"""Key of the metadata of our own files: blake2b, 16 bytes in hexadecimal, of all that follows the header."""
_CHUNK = 1 << 24
_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def write_weights(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file with a checksum; there is the whole file or none.

    Raises:
        LmzooError: the disk does not take it.
    """
    kept = {name: tensor.detach().cpu().contiguous() for name, tensor in sorted(tensors.items())}
    checksum = hashlib.blake2b(digest_size=16)
    header: dict[str, Any] = {}
    end = 0
    for name, tensor in kept.items():
        content = _bytes_of(tensor)
        checksum.update(content)
        start, end = end, end + len(content)
        described = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape)}
        header[name] = described | {"data_offsets": [start, end]}
    metadata = {"format": "pt", CHECKSUM: checksum.hexdigest()}
    text = json.dumps({"__metadata__": metadata} | header).encode()
    text += b" " * (-len(text) % 8)  # the format wants the tensors to start at a multiple of 8
    beside = path.with_name(path.name + ".tmp")
    try:
        with beside.open("wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            for tensor in kept.values():
                file.write(_bytes_of(tensor))
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise LmzooError(f"{path} cannot be written ({error.strerror})") from error


def _bytes_of(tensor: Tensor) -> memoryview:
    return tensor.reshape(-1).view(torch.uint8).numpy().data


def read_weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of a model folder, on the CPU, in the types they were saved in.

    Raises:
        LmzooError: no weights; a file that is damaged, carries code or lies outside the folder.
    """
    found = weights_file(folder)
    if found is None:
        raise LmzooError(f"{folder} holds no weights; give a folder with {WEIGHTS} or {PICKLED}")
    if found.name == WEIGHTS:
        return read_safetensors(found)
    if found.name == PICKLED:
        return read_pickled(found)
    return _read_shards(found)


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of one file, whose checksum is verified where it has one.

    Raises:
        LmzooError: the file is damaged.
    """
    try:
        with safe_open(str(path), framework="pt") as file:  # checks the header against the file's size
            expected = (file.metadata() or {}).get(CHECKSUM)
            if expected is not None and expected != _checksum(path):
                raise LmzooError(f"{path} is damaged (its checksum does not fit); {ADVICE}")
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise LmzooError(f"{path} is damaged ({first_line(error)}); {ADVICE}") from error


def _checksum(path: Path) -> str:
    checksum = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        (header,) = struct.unpack_from("<Q", content)
        with memoryview(content) as view:
            for start in range(8 + header, len(content), _CHUNK):
                with view[start : start + _CHUNK] as part:
                    checksum.update(part)
    return checksum.hexdigest()


def read_pickled(path: Path) -> dict[str, Tensor]:
    """Tensors of a file by ``torch.save``, whose pickle may name tensors and plain containers alone.

    Raises:
        LmzooError: the file carries code or other objects, of which nothing is run, or is damaged.
    """
    read = unpickle(path)
    if not isinstance(read, dict) or not all(isinstance(tensor, Tensor) for tensor in read.values()):
        raise LmzooError(f"{path} holds something else than named tensors; give the model as {WEIGHTS}")
    return dict(read)


def unpickle(path: Path, *, checked: bool = False, advice: str = ADVICE) -> Any:
    """What ``torch.save`` wrote, if it is tensors and plain containers.

    Args:
        path: of the file.
        checked: whether it is known to be as it was written.
        advice: what to do where it is damaged; nothing, if it is said elsewhere.

    Raises:
        LmzooError: as ``read_pickled``.
    """
    then = f"; {advice}" if advice else ""
    try:
        if not checked and zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as packed:  # torch itself does not look at the checksums
                if any(entry.compress_type != zipfile.ZIP_STORED for entry in packed.infolist()):
                    raise ValueError("its parts are compressed, which torch.save never does: a bomb?")
                damaged = packed.testzip()
            if damaged:
                raise ValueError(f"{damaged} has changed since it was written")
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        if named is None:
            raise LmzooError(f"{path} is damaged, or no file of tensors{then}") from error
        raise LmzooError(
            f"{path} carries code ({named[1]}), which was not run; give the model as {WEIGHTS}"
        ) from error
    except Exception as error:  # torch raises what its readers happen to raise
        raise LmzooError(f"{path} is damaged ({first_line(error)}){then}") from error


def _read_shards(index: Path) -> dict[str, Tensor]:
    places = weight_map(index)
    tensors: dict[str, Tensor] = {}
    for name in sorted(set(places.values())):
        shard = index.parent / name
        if not shard.is_file():
            raise LmzooError(f"{index} names {name}, which is not there; {ADVICE}")
        read = read_safetensors(shard) if name.endswith(".safetensors") else read_pickled(shard)
        tensors |= {key: tensor for key, tensor in read.items() if places.get(key) == name}
    missing = sorted(set(places) - set(tensors))
    if missing:
        raise LmzooError(
            f"{index} places {missing[0]} in {places[missing[0]]}, which has no such tensor; {ADVICE}"
        )
    return tensors
