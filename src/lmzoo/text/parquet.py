"""Texts out of a column of a Parquet file, some rows at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lmzoo.errors import LmzooError

_ROWS = 64
"""Rows held at a time; a row may be a whole book."""
_BUFFER_BYTES = 2**20
"""Read at a time: without a buffer a whole column of a row group is, and a file may be one row group."""


def parquet_texts(
    path: Path, column: str, advance: Callable[[int], object] | None = None
) -> Iterator[tuple[int, str]]:
    """The texts of a column.

    Args:
        path: the file.
        column: its name.
        advance: told how many more bytes of the file the rows given so far stand for; sums to its size.

    Yields:
        number of the row, from 1, and its text.

    Raises:
        LmzooError: pyarrow is not installed; the file is damaged; it has no such column, or the column
            holds something else than text, or nothing; a text is not UTF-8.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise LmzooError(f"{path}: reading .parquet needs the extra hub: pip install 'lmzoo[hub]'") from None
    size = path.stat().st_size
    told = number = 0
    try:
        with pq.ParquetFile(path, buffer_size=_BUFFER_BYTES, pre_buffer=False) as file:
            schema, total = file.schema_arrow, file.metadata.num_rows
            if column not in schema.names:
                raise LmzooError(
                    f"{path} has no column {column!r}; its columns are {', '.join(schema.names)}: "
                    "name one with data.column="
                )
            kind = schema.field(column).type
            if not _is_text(pa, kind):
                raise LmzooError(f"{path} has no text in its column {column!r}, but values of type {kind}")
            for batch in file.iter_batches(batch_size=_ROWS, columns=[column]):
                for text in _as_texts(batch.column(0), path, number):
                    number += 1
                    if text is None:
                        raise LmzooError(f"{path}: row {number} has no text in its column {column!r}")
                    yield number, text
                if advance is not None:
                    advance(size * number // total - told)
                    told = size * number // total
    except (pa.ArrowException, OSError) as error:
        if getattr(error, "errno", None):
            raise LmzooError(f"{path} cannot be read ({error.strerror})") from None  # type: ignore[union-attr]
        reason = " ".join(str(error).split()).rstrip(".")
        raise LmzooError(f"{path} is no Parquet file, or a damaged one ({reason}); fetch it again") from None
    if advance is not None:
        advance(size - told)


def _is_text(pa: Any, kind: Any) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    checks = (pa.types.is_string, pa.types.is_large_string, getattr(pa.types, "is_string_view", None))
    return any(check is not None and check(kind) for check in checks)


def _as_texts(values: Any, path: Path, before: int) -> list[str | None]:
    try:
        return values.to_pylist()
    except UnicodeDecodeError:
        for number, value in enumerate(values, before + 1):
            try:
                value.as_py()
            except UnicodeDecodeError:
                raise LmzooError(f"{path}: row {number} is not UTF-8; write it again as text") from None
        raise
