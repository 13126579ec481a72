"""From texts to a store, once for every (corpus, tokenizer).

1. Describe all that decides the outcome, and hash it; a store of that hash is opened as it is.
2. Under a lock, read every document, tell training from validation by a hash of its text, and keep a
   bounded sample of the training part.
3. Train the tokenizer on the sample (or load it).
4. Read again, cut into sentences, encode, and append to the store in a temporary folder.
5. Rename the folder into place.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from lmzoo.data.config import DataConfig
from lmzoo.data.corpus import Corpus, Sample
from lmzoo.data.store import FORMAT, PARTS, Store, open_store
from lmzoo.data.writer import PartWriter, sync, write_manifest
from lmzoo.errors import LmzooError
from lmzoo.progress import console, progress
from lmzoo.text.config import UNUSED, TokenizerConfig
from lmzoo.text.readers import Document
from lmzoo.text.sentences import sentence_spans
from lmzoo.text.tokenizer import TextTokenizer, load_tokenizer, train_tokenizer

TEXT_VERSION = 2
"""Part of every store's hash: raise it when reading, sentence splitting, the split into parts or the
training of tokenizers gives something else for the same text."""
_BATCH_CHARACTERS = 2_000_000
"""Encoded at a time; an encoding takes some hundred times the memory of its text."""


def default_cache_dir() -> Path:
    """Where stores lie unless the user says otherwise: ``LMZOO_CACHE`` or the platform's cache folder."""
    from platformdirs import user_cache_path

    given = os.environ.get("LMZOO_CACHE")
    return Path(given).expanduser() if given else user_cache_path("lmzoo")


def prepare(data: DataConfig, tokenizer: TokenizerConfig, cache_dir: Path) -> Store:
    """The store of this corpus and tokenizer: found in ``cache_dir``, or built there.

    Any number of processes may ask at once: one builds, the others wait for it. Nothing half-written
    stays behind an error or Ctrl-C, and what a killed process leaves is removed by the next that builds.

    Raises:
        LmzooError: anything wrong with the text, the config or the store.
    """
    corpus = Corpus(data)
    made_from = _describe(corpus, tokenizer)
    name = hashlib.blake2b(json.dumps(made_from, sort_keys=True).encode(), digest_size=12).hexdigest()
    stores = cache_dir / "stores"
    if not (stores / name).exists():
        try:
            stores.mkdir(parents=True, exist_ok=True)
            with _lock(stores, name):
                if not (stores / name).exists():
                    _remove_leftovers(stores)
                    _build(corpus, tokenizer, made_from, stores, name)
        except OSError as error:
            where = error.filename or stores
            raise LmzooError(
                f"the corpus cannot be prepared in {stores}: {error.strerror} ({where})"
            ) from error
    return open_store(stores / name)


def _describe(corpus: Corpus, tokenizer: TokenizerConfig) -> dict[str, Any]:
    """All that decides what the store holds."""
    if tokenizer.file is None:
        pieces: dict[str, Any] = asdict(tokenizer)
        for setting in UNUSED.get(tokenizer.name, ()):
            del pieces[setting]
    else:
        # loaded here too, so that a wrong file is refused before anything is read or written
        pieces = {"fingerprint": load_tokenizer(Path(tokenizer.file)).fingerprint()}
    return {
        "format": FORMAT,
        "text_version": TEXT_VERSION,
        "corpus": corpus.describe(),
        "tokenizer": pieces,
    }


@contextmanager
def _lock(stores: Path, name: str) -> Iterator[None]:
    lock = FileLock(stores / f"{name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        console.print("waiting for another process that is preparing the same corpus …", markup=False)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _remove_leftovers(stores: Path) -> None:
    """Remove what killed builders left: building folders whose lock nobody holds any more."""
    for leftover in stores.glob("*.building"):
        lock = FileLock(stores / f"{leftover.stem}.lock")
        try:
            with lock.acquire(timeout=0):
                shutil.rmtree(leftover)
        except Timeout:
            continue


def _build(
    corpus: Corpus, tokenizer: TokenizerConfig, made_from: dict[str, Any], stores: Path, name: str
) -> None:
    folder = stores / f"{name}.building"
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir()
        pieces = _make_tokenizer(corpus, tokenizer)
        pieces.save(folder / "tokenizer.json")
        text_bytes = _encode(corpus, pieces, folder)
        if _describe(corpus, tokenizer) != made_from:
            raise LmzooError("the text was changed while it was read; run again when it is at rest")
        write_manifest(folder, name, made_from, text_bytes)
        folder.rename(stores / name)
        sync(stores)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _make_tokenizer(corpus: Corpus, config: TokenizerConfig) -> TextTokenizer:
    if config.file is not None:
        return load_tokenizer(Path(config.file))
    if config.sample_megabytes < 1:
        raise LmzooError(
            f"tokenizer.sample_megabytes={config.sample_megabytes} is too small; give at least 1"
        )
    sample = Sample(config.sample_megabytes * 1_000_000)
    counts = Counter[str]()
    with progress("reading the text", corpus.total) as advance:
        for part, document in corpus.read(advance):
            counts[part] += 1
            if part == "train":
                sample.add(document.text)
    _check_parts(corpus, counts)
    with progress("training the tokenizer"):
        return train_tokenizer(config, sample.texts())


def _check_parts(corpus: Corpus, counts: dict[str, int]) -> None:
    held_out = f"data.valid_fraction={corpus.data.valid_fraction} holds out {counts.get('valid', 0)}"
    total = counts.get("train", 0) + counts.get("valid", 0)
    if not counts.get("train"):
        raise LmzooError(
            f"no document is left for training: {held_out} of {total}; lower it or add documents"
        )
    if not counts.get("valid"):
        raise LmzooError(
            f"no document is left for validation: {held_out} of {total}; raise data.valid_fraction, give "
            "data.valid, or give more documents (a blank line parts them)"
        )


def _encode(corpus: Corpus, tokenizer: TextTokenizer, folder: Path) -> dict[str, int]:
    """Write the parts; gives the UTF-8 bytes of each."""
    encoders: dict[str, _PartEncoder] = {}
    with progress("encoding the text", corpus.total) as advance:
        for part, document in corpus.read(advance):
            if part not in encoders:
                encoders[part] = _PartEncoder(tokenizer, corpus.data.sentences, folder / part)
            encoders[part].add(document)
        for encoder in encoders.values():
            encoder.close()
    _check_parts(corpus, {part: encoder.writer.num_documents for part, encoder in encoders.items()})
    return {part: encoders[part].text_bytes for part in PARTS if part in encoders}


class _PartEncoder:
    """Cuts documents into sentences, and encodes and writes them some megabytes at a time."""

    def __init__(self, tokenizer: TextTokenizer, sentences: str, folder: Path) -> None:
        self.writer = PartWriter(folder, tokenizer.special)
        self.text_bytes = 0
        self._tokenizer = tokenizer
        self._how = sentences
        self._num_documents = 0
        self._sentences: list[str] = []
        self._documents: list[int] = []
        self._characters = 0

    def add(self, document: Document) -> None:
        text = document.text
        starts = sentence_spans(text, self._how)
        for start, end in zip(starts, [*starts[1:], len(text)], strict=True):
            self._sentences.append(text[start:end])
            self._documents.append(self._num_documents)
            self._characters += end - start
            if self._characters >= _BATCH_CHARACTERS:
                self._flush()
        self._num_documents += 1
        self.text_bytes += len(text.encode())

    def close(self) -> None:
        self._flush()
        self.writer.close()

    def _flush(self) -> None:
        encoded = self._tokenizer.encode_batch(self._sentences)
        lengths = np.fromiter(map(len, encoded), dtype=np.int64, count=len(encoded))
        ids = np.fromiter(chain.from_iterable(encoded), dtype=np.int64, count=int(lengths.sum()))
        self.writer.append(ids, lengths, np.array(self._documents, dtype=np.int64))
        self._sentences, self._documents, self._characters = [], [], 0
