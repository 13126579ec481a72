"""From finished shards to a store: an index over them, without copying their tokens.

The index has the offsets of documents and sentences in the whole, some tenth of what the tokens take. It is
made by one process with the memory of one shard's offsets. On the way every shard's files are read and held
against their checksums, and the store's `content` is found: the hash of what one file for all tokens would
hold, so that it does not tell in how many shards the same text was prepared.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from lmzoo.data.building import Building
from lmzoo.data.integrity import checksum, damage, entries, new_digest, remember, sync, write_manifest
from lmzoo.data.store import ARRAYS, PARTS, content_of
from lmzoo.data.writer import ArrayWriter, array_header
from lmzoo.progress import progress

_CHUNK = 2**20
_OFFSETS = ARRAYS[1:4]
"""What is told in places of the shard, and becomes places in the whole."""


def join_shards(building: Building, shards: list[dict[str, Any]], made_from: dict[str, Any]) -> None:
    """Write the index over finished shards, and `store.json` last.

    Args:
        building: where they lie.
        shards: what `Building.read_shard` gave of each, in order.
        made_from: for the store's manifest.

    Raises:
        StoreDamage: a file of a shard is not what was written.
    """
    folder = building.folder
    folders = [building.shard(number) for number in range(len(shards))]
    parts = [part for part in PARTS if any(part in shard["parts"] for shard in shards)]
    for part in parts:
        shutil.rmtree(folder / part, ignore_errors=True)  # of one who was killed here
    files = entries(folder, sorted(path for path in folder.glob("*.json") if path != building.plan))
    sums = {name: entry["blake2b"] for name, entry in files.items()}
    tokens = {}
    if len(shards) == 1:
        for part in parts:
            (folders[0] / part).rename(folder / part)
            tokens[part] = [f"{part}/tokens.npy"]
        files |= shards[0]["files"]
        sums |= {name: entry["blake2b"] for name, entry in shards[0]["files"].items()}
    else:
        total = sum(entry["bytes"] for shard in shards for entry in shard["files"].values())
        with progress("joining the shards", total) as advance:
            for part in parts:
                held = [
                    _Piece(path, part, shard)
                    for path, shard in zip(folders, shards, strict=True)
                    if part in shard["parts"]
                ]
                index = _write_index(folder / part, held, advance)
                files |= {f"{part}/{name}": entry for name, entry in index.items()}
                sums |= {f"{part}/{name}": entry["blake2b"] for name, entry in index.items()}
                sums[f"{part}/tokens.npy"] = _joined_checksum(held, advance)
                tokens[part] = [piece.file("tokens").relative_to(folder).as_posix() for piece in held]
                files |= {name: piece.entry("tokens") for name, piece in zip(tokens[part], held, strict=True)}
    manifest = {
        "hash": building.name,
        "content": content_of(sums),
        "made_from": made_from,
        "text_bytes": {
            part: sum(shard["parts"][part]["text_bytes"] for shard in shards if part in shard["parts"])
            for part in parts
        },
        "tokens": tokens,
        "files": dict(sorted(files.items())),
    }
    for part in parts:
        sync(folder / part)
    write_manifest(folder / "store.json", manifest)


def publish(building: Building, store: Path, files: dict[str, Any]) -> None:
    """Rename what `join_shards` has made to ``store``, without what it was made from; one that is there
    already is damaged, and goes.

    Args:
        building: whose folder has a `store.json`.
        store: the folder that it becomes.
        files: of that manifest.
    """
    folder = building.folder
    kept = {folder / name for name in files} | {folder / "store.json"}
    for path in [path for path in folder.rglob("*") if path.is_file() and path not in kept]:
        path.unlink()
    for path in sorted((path for path in folder.rglob("*") if path.is_dir()), reverse=True):
        if not any(path.iterdir()):
            path.rmdir()
    replaced = store.with_name(f"{store.name}.damaged")
    shutil.rmtree(replaced, ignore_errors=True)
    if store.exists():
        store.rename(replaced)
    folder.rename(store)
    sync(store.parent)
    remember(store, files)
    shutil.rmtree(replaced, ignore_errors=True)


class _Piece:
    """One part of one shard."""

    def __init__(self, folder: Path, part: str, shard: dict[str, Any]) -> None:
        self.folder = folder / part
        self.counts: dict[str, Any] = shard["parts"][part]
        self._files = {name: shard["files"][f"{part}/{name}.npy"] for name in ARRAYS}

    def file(self, array: str) -> Path:
        return self.folder / f"{array}.npy"

    def entry(self, array: str) -> dict[str, Any]:
        """Bytes and checksum as they were written."""
        return self._files[array]

    def read(self, array: str, advance: Callable[[int], object]) -> np.ndarray:
        """An array, after a look at its checksum."""
        self.check(array, checksum(self.file(array), advance))
        return np.load(self.file(array))

    def check(self, array: str, found: str) -> None:
        if found != self.entry(array)["blake2b"]:
            raise damage(self.file(array), "has changed since it was written")


def _write_index(folder: Path, pieces: list[_Piece], advance: Callable[[int], object]) -> dict[str, Any]:
    """The arrays of a part but its tokens; gives what a manifest says of them, by their names."""
    folder.mkdir()
    writers = {name: ArrayWriter(folder / f"{name}.npy", "<i8") for name in _OFFSETS}
    unigrams: Any = 0
    num_tokens = num_sentences = 0
    for piece in pieces:
        documents, sentences, document_sentences = (piece.read(name, advance) for name in _OFFSETS)
        # the end of each but the last is the beginning of the next
        writers["documents"].append(documents[:-1] + num_tokens)
        writers["sentences"].append(sentences + num_tokens)
        writers["document_sentences"].append(document_sentences[:-1] + num_sentences)
        unigrams = unigrams + piece.read("unigrams", advance)
        num_tokens += piece.counts["tokens"]
        num_sentences += piece.counts["sentences"]
    writers["documents"].append(np.array([num_tokens]))
    writers["document_sentences"].append(np.array([num_sentences]))
    for writer in writers.values():
        writer.close()
    np.save(folder / "unigrams.npy", unigrams)
    files = sorted(folder.iterdir())
    for path in files:
        sync(path)
    return entries(folder, files)


def _joined_checksum(pieces: list[_Piece], advance: Callable[[int], object]) -> str:
    """What `checksum` would say of one file with the tokens of all; each file's own is checked by the way."""
    dtype = np.dtype(pieces[0].counts["dtype"])
    header = array_header(dtype, sum(piece.counts["tokens"] for piece in pieces))
    whole = new_digest()
    whole.update(header)
    for piece in pieces:
        own = new_digest()
        with piece.file("tokens").open("rb") as file:
            own.update(file.read(len(header)))  # as long in every file
            while chunk := file.read(_CHUNK):
                own.update(chunk)
                whole.update(chunk)
                advance(len(chunk))
        piece.check("tokens", own.hexdigest())
    return whole.hexdigest()
