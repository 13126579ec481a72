"""Arrays of several files as one, without copying: the tokens of a corpus that was prepared in shards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


class JoinedArray:
    """Arrays end to end, read as one of them is: by slices, by an index, by an array of indices.

    What is asked for is gathered array by array, so that a batch from all over the corpus costs a sort of
    its places and one look into each array that it touches.

    Args:
        arrays: one-dimensional, of one type; some may be empty.
    """

    def __init__(self, arrays: Sequence[np.ndarray]) -> None:
        self._arrays = list(arrays)
        self._starts = np.cumsum([0, *map(len, self._arrays)], dtype=np.int64)
        self.dtype: np.dtype[Any] = self._arrays[0].dtype

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def shape(self) -> tuple[int]:
        return (len(self),)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        whole = np.concatenate(self._arrays)
        return whole if dtype is None else whole.astype(dtype)

    def __getitem__(self, where: Any) -> Any:
        if isinstance(where, slice):
            return self._slice(*where.indices(len(self)))
        places = np.asarray(where)
        if places.dtype.kind not in "iu":
            raise IndexError(f"whole numbers and slices are taken as indices, not {places.dtype}")
        flat = places.astype(np.int64, copy=False).ravel()
        if not len(flat):
            return np.empty(places.shape, dtype=self.dtype)
        if flat.min() < 0:
            flat = np.where(flat < 0, flat + len(self), flat)
        if flat.min() < 0 or flat.max() >= len(self):
            raise IndexError(f"an index is out of range: there are {len(self)} elements")
        found = self._take(flat).reshape(places.shape)
        return found if places.ndim else found[()]

    def _slice(self, start: int, stop: int, step: int) -> np.ndarray:
        if step != 1:
            return self[np.arange(start, stop, step)]
        stop = max(start, stop)
        # the last array that begins at or before it: an empty one shares its beginning with the next
        first = int(np.searchsorted(self._starts[:-1], start, side="right")) - 1
        last = max(first, int(np.searchsorted(self._starts[:-1], stop, side="left")) - 1)
        pieces = [
            self._arrays[number][max(start - int(self._starts[number]), 0) : stop - int(self._starts[number])]
            for number in range(first, last + 1)
        ]
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def _take(self, flat: np.ndarray) -> np.ndarray:
        """Elements at (n,) places that are in range."""
        holder = np.searchsorted(self._starts, flat, side="right") - 1
        first, last = int(holder.min()), int(holder.max())
        if first == last:
            return self._arrays[first][flat - self._starts[first]]
        inside = flat - self._starts[holder]
        numbers = holder.astype(np.uint16)  # 16 bits are sorted by radix, in linear time
        order = np.argsort(numbers, kind="stable")
        bounds = np.searchsorted(numbers[order], np.arange(first, last + 2))
        found = np.empty(len(flat), dtype=self.dtype)
        for number in range(first, last + 1):
            chosen = order[bounds[number - first] : bounds[number - first + 1]]
            if len(chosen):
                found[chosen] = self._arrays[number][inside[chosen]]
        return found
