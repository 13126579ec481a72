"""What can be said about the corpus on the command line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

VIEWS = ("stream", "sentences", "pairs")


@dataclass
class DataConfig:
    """`data=`: which text, which part of it is held out, and the form in which it is cut."""

    name: str = "stdlib"
    """`stdlib` (English out of the running CPython) or `text` (your own files)."""
    train: Any = None
    """`data=text`: one path, a list of paths, or a glob."""
    valid: Any = None
    """Likewise; without it a part of `train` is held out."""
    test: Any = None
    """Likewise; measured once, at the end."""
    valid_fraction: float = 0.05
    """Share of the documents held out where `valid` is not given."""
    split_seed: int = 0
    """Which documents are held out; never the run's seed."""
    sentences: str = "split"
    """`split` (by rules for English and Chinese) or `lines` (the text has one a line)."""
    view: str | None = None
    """`stream`, `sentences` or `pairs`; without it, the one the objective asks for."""
    short_pairs: float = 0.1
    """Share of the pairs that are deliberately short (`short_seq_prob` of the authors' code)."""
