"""The store: a corpus as flat token ids on disk, memory-mapped, written once and verified when opened.

A store folder holds::

    store.json        format, hash, what it was made from, sizes and checksums; written last
    tokenizer.json
    train/ valid/     one folder a part (and test/ where there is one)
        tokens.npy              (N,) uint16 or uint32: each document is [CLS] its tokens [SEP]
        documents.npy           (documents + 1,) int64: where each document starts, and the end
        sentences.npy           (sentences,) int64: where each sentence starts
        document_sentences.npy  (documents + 1,) int64: number of each document's first sentence, and the end
        unigrams.npy            (V,) int64: how often each id occurs in the part
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lmzoo.errors import LmzooError
from lmzoo.text.tokenizer import TextTokenizer, load_tokenizer

FORMAT = 1
"""Version of the layout above; part of every store's hash."""
PARTS = ("train", "valid", "test")
_ARRAYS = ("tokens", "documents", "sentences", "document_sentences", "unigrams")
_FULL_CHECK_BYTES = 2**30
"""Up to this size, opening reads everything (about a second); beyond it, only sizes are compared."""


class Part:
    """One part of a prepared corpus, memory-mapped; see the head of this file for the arrays."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tokens, self.documents, self.sentences, self.document_sentences, self.unigrams = (
            # a plain view of the map: indexing np.memmap itself costs microseconds a call
            np.load(folder / f"{name}.npy", mmap_mode="r").view(np.ndarray)
            for name in _ARRAYS
        )

    def __reduce__(self) -> tuple[type[Part], tuple[Path]]:
        return Part, (self.folder,)  # a worker process maps the files again instead of copying them

    @property
    def num_tokens(self) -> int:
        """Tokens, [CLS] and [SEP] included."""
        return len(self.tokens)

    @property
    def num_documents(self) -> int:
        return len(self.documents) - 1

    def sentence_bounds(self, i_doc: int) -> tuple[np.ndarray, np.ndarray]:
        """Where each sentence of a document starts and ends, as offsets into ``tokens``.

        Returns:
            starts, ends: (n,) int64 each. A sentence ends where the next starts, the last before [SEP].
        """
        first, after = self.document_sentences[i_doc], self.document_sentences[i_doc + 1]
        starts = self.sentences[first:after]
        return starts, np.append(starts[1:], self.documents[i_doc + 1] - 1)


@dataclass(frozen=True)
class Store:
    """A prepared corpus: its parts, its tokenizer, and the hash of all that made it."""

    folder: Path
    hash: str
    """Of all that made it: files with their times, settings, versions."""
    content: str
    """Of what came out: the same text and pieces give the same, wherever the files lay."""
    tokenizer: TextTokenizer
    parts: dict[str, Part]
    """``train``, ``valid`` and perhaps ``test``."""
    text_bytes: dict[str, int]
    """UTF-8 bytes of each part's documents."""

    def unigram_entropy(self, part: str = "valid") -> float:
        """What a model that has learned nothing of context pays, in nats a token.

        The cross-entropy of ``part``'s tokens under the training part's frequencies, add-one smoothed
        over the whole vocabulary, the special tokens left out of both.
        """
        special = list(self.tokenizer.special.ids)
        seen = np.delete(self.parts["train"].unigrams, special) + 1.0
        measured = np.delete(self.parts[part].unigrams, special)
        return float(-(measured * np.log(seen / seen.sum())).sum() / measured.sum())


def open_store(folder: Path) -> Store:
    """Open a store after checking that every file is there and as it was written.

    Raises:
        LmzooError: naming the file that is missing, cut short or changed.
    """
    if not folder.is_dir():
        raise LmzooError(f"there is no prepared corpus in {folder}; run `python -m lmzoo.prepare`")
    manifest = _read_manifest(folder)
    total = sum(entry["bytes"] for entry in manifest["files"].values())
    for name, entry in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            raise _damage(path, "is missing", folder)
        if path.stat().st_size != entry["bytes"]:
            raise _damage(path, f"has {path.stat().st_size:,} bytes instead of {entry['bytes']:,}", folder)
        if total < _FULL_CHECK_BYTES and checksum(path) != entry["blake2b"]:
            raise _damage(path, "has changed since it was written", folder)
    return Store(
        folder=folder,
        hash=manifest["hash"],
        content=_content(manifest),
        tokenizer=load_tokenizer(folder / "tokenizer.json"),
        parts={name: Part(folder / name) for name in manifest["text_bytes"]},
        text_bytes=manifest["text_bytes"],
    )


def _content(manifest: dict[str, Any]) -> str:
    """A hash of the files' checksums: the same text and pieces, wherever the files were and whenever."""
    sums = sorted((name, entry["blake2b"]) for name, entry in manifest["files"].items())
    return hashlib.blake2b(json.dumps(sums).encode(), digest_size=16).hexdigest()


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / "store.json"
    try:
        manifest = json.loads(path.read_bytes())
        found = manifest.get("format")
    except FileNotFoundError:
        raise _damage(path, "is missing", folder) from None
    except (ValueError, AttributeError):
        raise _damage(path, "cannot be read", folder) from None
    if found != FORMAT:
        raise _damage(path, f"has format {found} where this version of lmzoo reads {FORMAT}", folder)
    try:
        listed = {
            name: (int(entry["bytes"]), str(entry["blake2b"])) for name, entry in manifest["files"].items()
        }
        needed = {f"{part}/{array}.npy" for part in manifest["text_bytes"] for array in _ARRAYS}
        complete = manifest["hash"] and {"train", "valid"} <= set(manifest["text_bytes"])
    except (AttributeError, KeyError, TypeError, ValueError):
        raise _damage(path, "is incomplete", folder) from None
    if not complete or not needed | {"tokenizer.json"} <= set(listed):
        raise _damage(path, "is incomplete", folder)
    return manifest


def _damage(path: Path, what: str, folder: Path) -> LmzooError:
    return LmzooError(
        f"the prepared corpus is damaged: {path} {what}; "
        f"delete the folder {folder} and run again to rebuild it"
    )


def checksum(path: Path) -> str:
    """blake2b of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
