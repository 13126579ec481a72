"""Vectors into files: ``.npy``, ``.parquet`` or ``.jsonl``, text by text, whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol

import numpy as np

from lmzoo.errors import LmzooError

if TYPE_CHECKING:  # a target is refused before torch is there
    from lmzoo.inference.embed import TokenVectors

SUFFIXES = (".npy", ".parquet", ".jsonl")
_ROWS_A_GROUP = 512
"""Texts that are written to a Parquet file at once."""


class Sink(Protocol):
    """An open file of vectors."""

    def add(self, text: str, found: TokenVectors | np.ndarray) -> None:
        """Write what was found for one text."""
        ...

    def close(self) -> None:
        """Write what is left."""
        ...


def check_target(to: str, suffixes: tuple[str, ...] = SUFFIXES) -> Path:
    """The path to write to; its folder is made.

    Raises:
        LmzooError: another kind of file, a folder, or a folder that cannot be made; for Parquet, pyarrow
            is not installed.
    """
    path = Path(to).expanduser()
    if path.suffix not in suffixes:
        raise LmzooError(f"to={to}: the name must end in {' or '.join(suffixes)}")
    if path.is_dir():
        raise LmzooError(f"to={to} is a folder; give a file in it")
    if path.suffix == ".parquet":
        _pyarrow()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LmzooError(f"to={to}: {path.parent} cannot be made ({error.strerror})") from None
    return path


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A path beside ``path`` to write to, renamed to it at the end of the block, or removed.

    Raises:
        LmzooError: the disk is full, or the folder cannot be written to.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield beside
        beside.replace(path)
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise
        raise LmzooError(f"{path} cannot be written ({error.strerror})") from error
    finally:
        with suppress(OSError):
            beside.unlink()


def offsets_path(path: Path) -> Path:
    """Where the places of the tokens in ``path`` stand: ``x.offsets.npy`` beside ``x.npy``."""
    return path.with_suffix(".offsets.npy")


@contextmanager
def vector_sink(path: Path, *, tokens: bool) -> Iterator[Sink]:
    """Open ``path`` for vectors.

    ``.npy``: (N, D) float32, or (N, L, D) for all layers, a row a text; with ``tokens`` a row a token, and
    beside it ``x.offsets.npy``, (tokens, 3) int64: number of the text from 0, start and end of the token
    in it. ``.parquet``: columns ``text`` and ``vector``; with ``tokens``: ``text``, ``tokens``, ``starts``,
    ``ends``, ``vectors``. ``.jsonl``: the same names. With ``tokens`` each list has an entry a token,
    for all layers of L vectors.

    Raises:
        LmzooError: it cannot be written.
    """
    with whole(path) as beside:
        if path.suffix == ".npy" and tokens:
            with whole(offsets_path(path)) as places, beside.open("wb") as file, places.open("wb") as other:
                yield from _closed(_NpyTokens(file, other))
        elif path.suffix == ".npy":
            with beside.open("wb") as file:
                yield from _closed(_NpyTexts(file))
        elif path.suffix == ".jsonl":
            with beside.open("w", encoding="utf-8") as lines:
                yield from _closed(_Jsonl(lines))
        else:
            yield from _closed(_Parquet(beside, tokens))


def _closed(sink: Sink) -> Iterator[Sink]:
    try:
        yield sink
    except BaseException:
        with suppress(Exception):  # what went wrong first is told
            sink.close()
        raise
    sink.close()


def record(text: str, found: TokenVectors | np.ndarray) -> dict[str, Any]:
    """One text's vectors as plain values."""
    if isinstance(found, np.ndarray):
        return {"text": text, "vector": found.tolist()}
    return {
        "text": text,
        "tokens": found.tokens,
        "starts": [start for start, _ in found.offsets],
        "ends": [end for _, end in found.offsets],
        "vectors": _token_first(found).tolist(),
    }


def _token_first(found: TokenVectors) -> np.ndarray:
    """(T, D), or (T, L, D) for all layers."""
    return found.vectors if found.vectors.ndim == 2 else found.vectors.swapaxes(0, 1)


class _Npy:
    """A .npy file whose first dimension grows; its header has room for any number there."""

    def __init__(self, file: IO[bytes], dtype: str) -> None:
        self.file = file
        self.dtype = np.dtype(dtype)
        self.shape: tuple[int, ...] | None = None

    def extend(self, rows: np.ndarray) -> None:
        if self.shape is None:
            self.shape = (0, *rows.shape[1:])
            self._write_header()
        self.file.write(np.ascontiguousarray(rows, dtype=self.dtype).tobytes())
        self.shape = (self.shape[0] + len(rows), *self.shape[1:])

    def close(self) -> None:
        if self.shape is None:
            self.shape = (0, 0)
        self.file.seek(0)
        self._write_header()

    def _write_header(self) -> None:
        described = {"descr": self.dtype.str, "fortran_order": False, "shape": self.shape}
        np.lib.format.write_array_header_1_0(self.file, described)


class _NpyTexts:
    def __init__(self, file: IO[bytes]) -> None:
        self.vectors = _Npy(file, "<f4")

    def add(self, text: str, found: TokenVectors | np.ndarray) -> None:
        assert isinstance(found, np.ndarray)
        self.vectors.extend(found[None])

    def close(self) -> None:
        self.vectors.close()


class _NpyTokens:
    def __init__(self, file: IO[bytes], other: IO[bytes]) -> None:
        self.vectors, self.places = _Npy(file, "<f4"), _Npy(other, "<i8")
        self.count = 0

    def add(self, text: str, found: TokenVectors | np.ndarray) -> None:
        assert not isinstance(found, np.ndarray)
        self.vectors.extend(_token_first(found))
        places = [(self.count, start, end) for start, end in found.offsets]
        self.places.extend(np.array(places, dtype=np.int64).reshape(-1, 3))
        self.count += 1

    def close(self) -> None:
        self.vectors.close()
        self.places.close()


class _Jsonl:
    def __init__(self, file: IO[str]) -> None:
        self.file = file

    def add(self, text: str, found: TokenVectors | np.ndarray) -> None:
        self.file.write(json.dumps(record(text, found), ensure_ascii=False) + "\n")

    def close(self) -> None:
        pass


class _Parquet:
    def __init__(self, path: Path, tokens: bool) -> None:
        self.path, self.tokens = path, tokens
        self.held: list[tuple[str, Any]] = []
        self.writer: Any = None

    def add(self, text: str, found: TokenVectors | np.ndarray) -> None:
        self.held.append((text, found))
        if len(self.held) == _ROWS_A_GROUP:
            self._write()

    def close(self) -> None:
        self._write()
        self.writer.close()

    def _write(self) -> None:
        pyarrow = _pyarrow()
        table = self._table(pyarrow)
        if self.writer is None:
            self.writer = pyarrow.parquet.ParquetWriter(self.path, table.schema)
        self.writer.write_table(table)
        self.held = []

    def _table(self, pyarrow: Any) -> Any:
        texts = pyarrow.array([text for text, _ in self.held], pyarrow.string())
        if not self.tokens:
            vectors = np.stack([found for _, found in self.held]) if self.held else np.zeros((0, 0), "f4")
            return pyarrow.table({"text": texts, "vector": _nested(pyarrow, vectors)})
        found = [tokens for _, tokens in self.held]
        ends = np.cumsum([0, *(len(tokens.tokens) for tokens in found)]).astype(np.int32)
        flat = np.concatenate([_token_first(tokens) for tokens in found]) if found else np.zeros((0, 0), "f4")
        columns = {
            "tokens": pyarrow.array([t for tokens in found for t in tokens.tokens], pyarrow.string()),
            "starts": pyarrow.array([s for tokens in found for s, _ in tokens.offsets], pyarrow.int64()),
            "ends": pyarrow.array([e for tokens in found for _, e in tokens.offsets], pyarrow.int64()),
            "vectors": _nested(pyarrow, flat),
        }
        lists = {name: pyarrow.ListArray.from_arrays(ends, column) for name, column in columns.items()}
        return pyarrow.table({"text": texts} | lists)


def _nested(pyarrow: Any, array: np.ndarray) -> Any:
    """An (N, …, D) array as a column of lists (of lists) of float32."""
    nested = pyarrow.array(np.ascontiguousarray(array, dtype=np.float32).reshape(-1))
    for place in range(array.ndim - 1, 0, -1):
        count = int(np.prod(array.shape[:place]))
        bounds = np.arange(count + 1, dtype=np.int32) * array.shape[place]
        nested = pyarrow.ListArray.from_arrays(bounds, nested)
    return nested


def _pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise LmzooError(
            ".parquet needs pyarrow: pip install 'lmzoo[hub]', or write .npy or .jsonl"
        ) from None
    return pyarrow
