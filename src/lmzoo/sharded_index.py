"""The index of a folder of shards, and its checksums: looked at before anything in it is used.

``torch.distributed.checkpoint`` keeps its index as a pickle, which could run anything. Here it may name
torch's own description of tensors and nothing else; see "Restricting Globals" in the manual of ``pickle``.
"""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import torch

from lmzoo.errors import LmzooError

SUMS, REST, INDEX = "checksums.json", "rest.pt", ".metadata"
ADVICE = "go on from another checkpoint, or start the run again"
_CHUNK = 1 << 24


def reason_of(error: BaseException) -> str:
    """The first line of what an error says; of several ranks' errors, of the first."""
    failures = getattr(error, "failures", None)
    if failures:  # torch's report of what each rank ran into
        error = next(iter(failures.values()))[0]
    return (str(error).splitlines() or [type(error).__name__])[0]


def checksum(path: Path) -> dict[str, Any]:
    """Size and checksum of a file, as ``checksums.json`` has them."""
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while part := file.read(_CHUNK):
            digest.update(part)
    return {"bytes": path.stat().st_size, "blake2b": digest.hexdigest()}


def verify(path: Path) -> None:
    """Raises LmzooError, naming the file, where one is missing, cut short or changed."""
    try:
        files = json.loads((path / SUMS).read_text(encoding="utf-8"))["files"]
        named = {name: (entry["bytes"], entry["blake2b"]) for name, entry in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise LmzooError(f"{path / SUMS} cannot be read ({reason_of(error)}); {ADVICE}") from error
    for name, (size, digest) in named.items():
        file = path / name
        if PurePosixPath(name).name != name or not file.is_file():
            raise LmzooError(f"{path} has no file {name!r}, which its {SUMS} names; {ADVICE}")
        if file.stat().st_size != size or checksum(file)["blake2b"] != digest:
            raise LmzooError(f"{file} is damaged (its checksum does not fit); {ADVICE}")
    missing = sorted({INDEX, REST} - set(named))
    if missing:
        raise LmzooError(f"{path / SUMS} does not name {missing[0]}; {ADVICE}")


_DESCRIBING = {
    "torch.distributed.checkpoint.metadata": {
        *("Metadata", "MetadataIndex", "StorageMeta", "TensorProperties", "TensorStorageMetadata"),
        *("BytesStorageMetadata", "ChunkStorageMetadata", "_MEM_FORMAT_ENCODING"),
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch": {"Size"},
    "torch.serialization": {"_get_layout"},
}
"""All that an index may name, beside torch's types of numbers."""


class _IndexReader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("pathlib") and name.endswith("Path"):
            return PurePosixPath  # where it was written; nobody looks there
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        if name not in _DESCRIBING.get(module, ()):
            raise _Refused(f"{module}.{name}")
        return super().find_class(module, name)


class _Refused(Exception):
    """An index names something else than a description of tensors."""


def read_index(path: Path) -> Any:
    """The ``Metadata`` of a folder of shards.

    Raises:
        LmzooError: it is damaged, carries code, holds anything but tensors, or leads out of the folder.
    """
    from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata

    try:
        with (path / INDEX).open("rb") as file:
            index = _IndexReader(file).load()
    except _Refused as error:
        raise LmzooError(f"{path / INDEX} carries code ({error}), which was not run; {ADVICE}") from error
    except Exception as error:  # pickle raises what it happens to raise
        raise LmzooError(f"{path / INDEX} is damaged ({reason_of(error)}); {ADVICE}") from error
    if not isinstance(index, Metadata) or not isinstance(index.storage_data, dict):
        raise LmzooError(f"{path / INDEX} is no index of shards; {ADVICE}")
    for key, entry in index.state_dict_metadata.items():
        if not isinstance(entry, TensorStorageMetadata):
            raise LmzooError(f"{path / INDEX} names {key}, which is no tensor, and was not read; {ADVICE}")
    for place in index.storage_data.values():
        if PurePosixPath(place.relative_path).name != place.relative_path:
            raise LmzooError(f"{path / INDEX} leads out of its folder ({place.relative_path}); refused")
    return index


def reader(path: Path) -> Any:
    """What ``torch.distributed.checkpoint`` reads a folder through, its index looked at before."""
    from torch.distributed.checkpoint.filesystem import FileSystemReader

    class Reader(FileSystemReader):
        index = read_index(path)

        def read_metadata(self) -> Any:  # type: ignore[override]  # torch's own would run what it names
            return self.index

    return Reader(path)


@contextmanager
def told(path: Path) -> Iterator[None]:
    """Turn torch's report of what each rank ran into, while it read, into one line."""
    from torch.distributed.checkpoint.api import CheckpointException

    try:
        yield
    except CheckpointException as error:
        raise LmzooError(f"{path} cannot be read ({reason_of(error)}); {ADVICE}") from error
