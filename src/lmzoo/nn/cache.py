"""What an encoder keeps of the tokens it has read, so that the next ones cost no second reading.

Rows are read side by side, column by column; a shorter row is padded before its first token.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lmzoo.types import Context


def past_only(context: Context) -> TypeError:
    """What is raised where later tokens change the states of earlier ones, so that none can be kept."""
    return TypeError(f"only an encoder of the past can keep a cache; this one's context is {context.value}")


class LayerMemory:
    """Keys and values of one layer, in room set aside when the first come."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.length = 0
        self._kept: Tensor | None = None  # (2, B, H, capacity, D/H)

    def append(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Add those of T tokens, (B, H, T, D/H) each; gives all there are, (B, H, length, D/H) each."""
        rows, heads, added, size = key.shape
        if self._kept is None:
            self._kept = key.new_empty(2, rows, heads, self.capacity, size)
        keys, values = self._kept.unbind()
        keys[:, :, self.length : self.length + added] = key
        values[:, :, self.length : self.length + added] = value
        self.length += added
        return keys[:, :, : self.length], values[:, :, : self.length]

    def select(self, rows: Tensor) -> None:
        """Keep these (B',) rows in this order."""
        kept = self._kept
        if kept is None:
            return
        chosen = kept[:, :, :, : self.length].index_select(1, rows)
        if len(rows) != kept.shape[1]:
            kept = kept.new_empty(2, len(rows), *kept.shape[2:])
        kept[:, :, :, : self.length] = chosen
        self._kept = kept


class KeyValueCache:
    """A causal Transformer's: the keys and values of every layer."""

    def __init__(self, rows: int, capacity: int, num_layers: int, device: torch.device) -> None:
        self.capacity = capacity
        self.length = 0
        """Columns read."""
        self.layers = [LayerMemory(capacity) for _ in range(num_layers)]
        self._is_text = torch.zeros(rows, capacity, dtype=torch.bool, device=device)

    def admit(self, is_text: Tensor) -> Tensor:
        """Take note of T further columns, and say which columns their queries may see.

        A query of padding sees itself, so that none is left without any key.

        Args:
            is_text: (B, T) bool, False where a column is padding.

        Returns:
            (B, 1, T, length) bool, queries by keys.

        Raises:
            ValueError: there is no room.
        """
        rows, added = is_text.shape
        if rows != len(self._is_text) or self.length + added > self.capacity:
            raise ValueError(
                f"a cache of {len(self._is_text)} rows and {self.capacity} tokens, {self.length} of them "
                f"taken, has no room for {rows} rows of {added} tokens"
            )
        self._is_text[:, self.length : self.length + added] = is_text
        self.length += added
        columns = torch.arange(self.length, device=is_text.device)
        queries = columns[-added:, None]
        text = self._is_text[:, None, None, : self.length]
        return (text & (columns < queries)) | (columns == queries)

    def select(self, rows: Tensor) -> None:
        self._is_text = self._is_text.index_select(0, rows)
        for layer in self.layers:
            layer.select(rows)


class StateCache:
    """An LSTM's: the last state of every layer, which stands for any number of tokens."""

    def __init__(self, rows: int, widths: tuple[int, int], num_layers: int, device: torch.device) -> None:
        """
        Args:
            rows: B.
            widths: P of a projected state and C of the cells.
            num_layers: of the stack.
            device: where the states are kept, in 32 bits.
        """
        zeros = [torch.zeros(1, rows, width, device=device) for width in widths]
        self.states: list[tuple[Tensor, Tensor]] = [(zeros[0], zeros[1])] * num_layers
        """(1, B, P) projected state and (1, B, C) cells of each layer."""
        self._begun = torch.zeros(rows, dtype=torch.bool, device=device)

    def admit(self, is_text: Tensor) -> Tensor:
        """Take note of (B, T) further columns; gives (B, T) bool, True where a row's text begins."""
        begun = torch.cat([self._begun[:, None], is_text], dim=1).cummax(1).values
        self._begun = begun[:, -1]
        return begun[:, 1:] & ~begun[:, :-1]

    def select(self, rows: Tensor) -> None:
        self._begun = self._begun.index_select(0, rows)
        self.states = [
            (state.index_select(1, rows), cell.index_select(1, rows)) for state, cell in self.states
        ]
