"""Texts out of a column of a Parquet file, some rows at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lmzoo.errors import LmzooError
from lmzoo.text.packed import too_much, unpacked_bound

_ROWS = 64
"""Rows held at a time; a row may be a whole book."""
_HELD_BYTES = 2**31
"""Fewer rows are held where each of them could be so large, by repeating, that they would be more than this."""
_BUFFER_BYTES = 2**20
"""Read at a time: without a buffer a whole column of a row group is, and a file may be one row group."""


def parquet_texts(
    path: Path,
    column: str,
    advance: Callable[[int], object] | None = None,
    max_bytes: float | None = None,
) -> Iterator[tuple[int, str]]:
    """The texts of a column.

    Args:
        path: the file.
        column: its name.
        advance: told how many more bytes of the file the rows given so far stand for; sums to its size.
        max_bytes: the most bytes that the column may unpack to, by the file's own index, and the most
            characters that are given; without it, what `packed.open_unpacked` grants such a file.

    Yields:
        number of the row, from 1, and its text.

    Raises:
        LmzooError: pyarrow is not installed; the file is damaged or unpacks to too much; it has no such
            column, or the column holds something else than text, or nothing; a text is not UTF-8.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise LmzooError(f"{path}: reading .parquet needs the extra hub: pip install 'lmzoo[hub]'") from None
    told = number = given = 0
    try:
        size, bound = path.stat().st_size, unpacked_bound(path, max_bytes)
        with pq.ParquetFile(path, buffer_size=_BUFFER_BYTES, pre_buffer=False) as file:
            _check_column(pa, file.schema_arrow, column, path)
            groups = _unpacked_sizes(file.metadata, column)
            if sum(groups) > bound:
                raise too_much(path, bound, max_bytes)
            total = max(1, file.metadata.num_rows)
            rows = max(1, min(_ROWS, _HELD_BYTES // max([1, *groups])))
            for batch in file.iter_batches(batch_size=rows, columns=[column]):
                for text in _as_texts(batch.column(0), path, number):
                    number += 1
                    if text is None:
                        raise LmzooError(f"{path}: row {number} has no text in its column {column!r}")
                    given += len(text)
                    if given > bound:
                        raise too_much(path, bound, max_bytes)
                    yield number, text
                if advance is not None:
                    advance(min(size, size * number // total) - told)
                    told = min(size, size * number // total)
    # a damaged file may give names that are no text, columns that are not there, sizes that no memory has
    except (pa.ArrowException, OSError, UnicodeError, IndexError, OverflowError, MemoryError) as error:
        if getattr(error, "errno", None):
            raise LmzooError(f"{path} cannot be read ({error.strerror})") from None  # type: ignore[union-attr]
        reason = " ".join(str(error).split()).rstrip(".")
        raise LmzooError(f"{path} is no Parquet file, or a damaged one ({reason}); fetch it again") from None
    if advance is not None:
        advance(size - told)


def _check_column(pa: Any, schema: Any, column: str, path: Path) -> None:
    """Raises LmzooError unless there is one column of this name, and it is of text."""
    count = schema.names.count(column)
    if not count:
        raise LmzooError(
            f"{path} has no column {column!r}; its columns are {', '.join(schema.names)}: "
            "name one with data.column="
        )
    if count > 1:
        raise LmzooError(f"{path} has {count} columns {column!r}; give each a name of its own")
    kind = schema.field(column).type
    if not _is_text(pa, kind):
        raise LmzooError(f"{path} has no text in its column {column!r}, but values of type {kind}")


def _unpacked_sizes(metadata: Any, column: str) -> list[int]:
    """Bytes of the column in each group of rows, unpacked, as the file's index has it."""
    places = [i for i in range(metadata.num_columns) if metadata.schema.column(i).path == column]
    return [
        sum(metadata.row_group(group).column(place).total_uncompressed_size for place in places)
        for group in range(metadata.num_row_groups)
    ]


def _is_text(pa: Any, kind: Any) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    checks = (pa.types.is_string, pa.types.is_large_string, getattr(pa.types, "is_string_view", None))
    return any(check is not None and check(kind) for check in checks)


def _as_texts(values: Any, path: Path, before: int) -> Iterator[str | None]:
    """One after the other: a column may write a long text down once, and repeat it in every row."""
    for number, value in enumerate(values, before + 1):
        try:
            yield value.as_py()
        except UnicodeDecodeError:
            raise LmzooError(f"{path}: row {number} is not UTF-8; write it again as text") from None
