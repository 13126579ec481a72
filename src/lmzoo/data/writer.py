"""Writes parts of a store in a stream: memory does not grow with the text."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from lmzoo.types import SpecialTokens


class PartWriter:
    """Writes one part in a stream: memory does not grow with the text."""

    def __init__(self, folder: Path, special: SpecialTokens) -> None:
        folder.mkdir(parents=True)
        self._special = special
        self._folder = folder
        self._tokens = ArrayWriter(folder / "tokens.npy", "<u2" if special.vocab_size <= 2**16 else "<u4")
        self._documents = ArrayWriter(folder / "documents.npy", "<i8")
        self._sentences = ArrayWriter(folder / "sentences.npy", "<i8")
        self._document_sentences = ArrayWriter(folder / "document_sentences.npy", "<i8")
        self._unigrams = np.zeros(special.vocab_size, dtype=np.int64)
        self._last_document = -1
        self.num_documents = 0
        """Documents with at least one token."""

    def append(self, ids: np.ndarray, lengths: np.ndarray, document_numbers: np.ndarray) -> None:
        """Append sentences; a document may go on from one call to the next.

        Args:
            ids: (sum of lengths,) token ids of the sentences, without special tokens.
            lengths: (n,) tokens of each sentence; sentences without tokens are dropped.
            document_numbers: (n,) the document of each sentence, never falling, over all calls.
        """
        kept = lengths > 0
        lengths, document_numbers = lengths[kept], document_numbers[kept]
        if not len(lengths):
            return
        opens = np.diff(document_numbers, prepend=self._last_document) != 0
        # every opening document puts [SEP] of the one before it and its own [CLS] in front
        inserted = 2 * np.cumsum(opens) - (self._last_document < 0)
        starts = self._tokens.length + np.cumsum(lengths) - lengths + inserted
        flat = np.empty(len(ids) + inserted[-1], dtype=np.int64)
        is_text = np.ones(len(flat), dtype=bool)
        openings = starts[opens] - self._tokens.length - 1  # places of [CLS]
        is_text[openings] = False
        is_text[openings[openings > 0] - 1] = False
        flat[is_text] = ids
        flat[openings[openings > 0] - 1] = self._special.sep
        flat[openings] = self._special.cls

        self.num_documents += len(openings)
        self._documents.append(openings + self._tokens.length)
        self._document_sentences.append(self._sentences.length + np.flatnonzero(opens))
        self._sentences.append(starts)
        self._append_tokens(flat)
        self._last_document = int(document_numbers[-1])

    def close(self) -> None:
        """End the last document and finish the files."""
        if self._last_document >= 0:
            self._append_tokens(np.array([self._special.sep]))
        self._documents.append(np.array([self._tokens.length]))
        self._document_sentences.append(np.array([self._sentences.length]))
        for array in (self._tokens, self._documents, self._sentences, self._document_sentences):
            array.close()
        np.save(self._folder / "unigrams.npy", self._unigrams)

    def described(self) -> dict[str, Any]:
        """How many ``documents``, ``sentences`` and ``tokens``, and the ``dtype`` of these."""
        return {
            "documents": self.num_documents,
            "sentences": self._sentences.length,
            "tokens": self._tokens.length,
            "dtype": self._tokens.dtype.str,
        }

    def _append_tokens(self, flat: np.ndarray) -> None:
        self._unigrams += np.bincount(flat, minlength=len(self._unigrams))
        self._tokens.append(flat)


class ArrayWriter:
    """A one-dimensional ``.npy`` file that grows; its header is written again at the end."""

    def __init__(self, path: Path, dtype: str) -> None:
        self.length = 0
        self.dtype = np.dtype(dtype)
        self._file: BinaryIO = path.open("wb")
        self._write_header()

    def _write_header(self) -> None:
        # numpy leaves room in the header for the length to grow, so the second one fits over the first
        self._file.write(array_header(self.dtype, self.length))

    def append(self, values: np.ndarray) -> None:
        self._file.write(values.astype(self.dtype).data)
        self.length += len(values)

    def close(self) -> None:
        self._file.seek(0)
        self._write_header()
        self._file.close()


def array_header(dtype: np.dtype, length: int) -> bytes:
    """What a ``.npy`` file of a one-dimensional array begins with."""
    descr = np.lib.format.dtype_to_descr(dtype)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": descr, "fortran_order": False, "shape": (length,)})
    return header.getvalue()
