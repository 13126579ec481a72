"""What can be said about the tokenizer on the command line."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class TokenizerConfig:
    """`tokenizer=`: trained on the training part of the corpus, or loaded from a file."""

    name: str = "bpe"
    """`bpe` (byte level, lossless) or `wordpiece` (BERT's, Chinese characters apart)."""
    vocab_size: int = 8192
    """Pieces, special tokens included."""
    lowercase: bool = False
    """Fold case and strip accents (wordpiece only: byte-level BPE must give the text back)."""
    file: str | None = None
    """A `tokenizer.json` to load instead of training one."""
    sample_megabytes: int = 32
    """Train on a sample of the documents of at most this many million bytes."""
