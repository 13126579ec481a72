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

Where it was prepared in several shards, the tokens stay where the shards wrote them, in
``shards/00000/train/tokens.npy`` and so on, and the other arrays are an index over all of them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lmzoo.data.integrity import FORMAT, StoreDamage, damage, read_manifest, verify
from lmzoo.data.joined import JoinedArray
from lmzoo.errors import LmzooError
from lmzoo.text.tokenizer import TextTokenizer, load_tokenizer

__all__ = ["ARRAYS", "FORMAT", "PARTS", "Part", "Store", "StoreDamage", "content_of", "open_store"]

PARTS = ("train", "valid", "test")
ARRAYS = ("tokens", "documents", "sentences", "document_sentences", "unigrams")


class Part:
    """One part of a prepared corpus, memory-mapped; see the head of this file for the arrays.

    Args:
        folder: of its arrays.
        tokens: the files of its tokens, in order; ``tokens.npy`` in the folder where none are given.
    """

    def __init__(self, folder: Path, tokens: Sequence[Path] = ()) -> None:
        self.folder = folder
        self._token_files = tuple(tokens)
        maps = [_mapped(path) for path in self._token_files or [folder / "tokens.npy"]]
        self.tokens: np.ndarray | JoinedArray = maps[0] if len(maps) == 1 else JoinedArray(maps)
        self.documents, self.sentences, self.document_sentences, self.unigrams = (
            _mapped(folder / f"{name}.npy") for name in ARRAYS[1:]
        )

    def __reduce__(self) -> tuple[type[Part], tuple[Any, ...]]:
        # a worker process maps the files again instead of copying them
        return Part, (self.folder, self._token_files)

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

    def sentence_ends(self, first: int, after: int) -> np.ndarray:
        """(after - first,) int64 offsets at which the sentences from ``first`` to before ``after`` end."""
        following = self.sentences[first + 1 : after + 1]
        ends = following.copy() if after < len(self.sentences) else np.append(following, self.num_tokens - 1)
        # the last sentence of a document comes before the first of the next
        low, high = np.searchsorted(self.document_sentences, [first, after], side="right")
        ends[self.document_sentences[low:high] - 1 - first] = self.documents[low:high] - 1
        return ends


def _mapped(path: Path) -> np.ndarray:
    # a plain view of the map: indexing np.memmap itself costs microseconds a call
    return np.load(path, mmap_mode="r").view(np.ndarray)


@dataclass(frozen=True)
class Store:
    """A prepared corpus: its parts, its tokenizer, and the hash of all that made it."""

    folder: Path
    hash: str
    """Of all that made it: files with their times, settings, versions."""
    content: str
    """Of what came out: the same text and pieces give the same, wherever the files lay and however many
    shards it was prepared in."""
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
    """Open a store after checking that every file is there and as it was written; of one larger than a
    gigabyte see `integrity.verify`.

    Raises:
        StoreDamage: naming the file that is missing, cut short or changed.
        LmzooError: there is no store, or it cannot be read.
    """
    if not folder.is_dir():
        raise LmzooError(f"there is no prepared corpus in {folder}; run `python -m lmzoo.prepare`")
    try:
        manifest = _read(folder / "store.json")
        verify(folder, manifest["files"])
        return Store(
            folder=folder,
            hash=manifest["hash"],
            content=manifest["content"],
            tokenizer=load_tokenizer(folder / "tokenizer.json"),
            parts={
                part: Part(folder / part, [folder / name for name in names])
                for part, names in manifest["tokens"].items()
            },
            text_bytes=manifest["text_bytes"],
        )
    except OSError as error:
        where = error.filename or folder
        raise LmzooError(f"the prepared corpus cannot be opened: {error.strerror} ({where})") from error


def _read(path: Path) -> dict[str, Any]:
    manifest = read_manifest(path)
    try:
        tokens: dict[str, list[str]] = manifest["tokens"]
        needed = {f"{part}/{array}.npy" for part in tokens for array in ARRAYS[1:]}
        needed |= {name for names in tokens.values() for name in names} | {"tokenizer.json"}
        complete = (
            needed <= set(manifest["files"])
            and all(tokens.values())
            and {"train", "valid"} <= set(tokens) == set(manifest["text_bytes"])
            and manifest["hash"]
            and manifest["content"]
        )
    except (AttributeError, KeyError, TypeError):
        complete = False
    if not complete:
        raise damage(path, "is incomplete")
    return manifest


def content_of(checksums: Mapping[str, str]) -> str:
    """A hash of what a store holds, however it is laid out.

    Args:
        checksums: of the tokenizer's files and of ``PART/ARRAY.npy``, each array as one file.
    """
    return hashlib.blake2b(json.dumps(sorted(checksums.items())).encode(), digest_size=16).hexdigest()
