"""How tokens read to people."""

from __future__ import annotations

import json
from collections.abc import Sequence

from lmzoo.text.tokenizer import TextTokenizer
from lmzoo.types import SpecialTokens


class Pieces:
    """The spelling of every token of a vocabulary."""

    def __init__(self, tokenizer: TextTokenizer, special: SpecialTokens) -> None:
        self._spellings = tokenizer.spellings()
        self._unknown = tokenizer.unknown_ids
        self._names = {getattr(special, part): name for part, name in tokenizer.special_names.items()}
        added = {entry["id"]: entry for entry in json.loads(tokenizer.json())["added_tokens"]}
        mask = added.get(special.mask, {})
        self.mask_takes_blanks: tuple[bool, bool] = mask.get("lstrip", False), mask.get("rstrip", False)
        """Whether the tokenizer counts the blanks before and after a mask token to it."""

    def name(self, token: int) -> str:
        """A token's own spelling, or the name of a special one; bytes that are no whole character as
        escapes, e.g. ``\\xe7``."""
        if token in self._names:
            return self._names[token]
        if token >= len(self._spellings):  # a row of the model that no token uses
            return f"[{token}]"
        return self._spellings[token].decode("utf-8", "backslashreplace")

    def of(self, text: str, ids: Sequence[int], offsets: Sequence[tuple[int, int]]) -> list[str]:
        """The tokens of a text; one that the vocabulary lacks as it stands there."""
        return [
            text[start:end] if token in self._unknown else self.name(token)
            for token, (start, end) in zip(ids, offsets, strict=True)
        ]
