"""What can be said about the tokenizer on the command line."""

from __future__ import annotations

from dataclasses import dataclass

from lmzoo.errors import LmzooError, one_of

TOKENIZERS = ("bpe", "wordpiece", "word", "char")
UNUSED = {
    "bpe": ("min_count", "unknown_classes"),
    "wordpiece": ("min_count", "unknown_classes"),
    "char": ("unknown_classes",),
}
"""Settings that a kind does not look at, and that are refused with it unless they stay as they are."""
_FOLDING = ("wordpiece", "word")


@dataclass
class TokenizerConfig:
    """`tokenizer=`: trained on the training part of the corpus, or loaded from a file."""

    name: str = "bpe"
    """`bpe` (byte level, lossless), `wordpiece` (BERT's, Chinese characters apart), `word` or `char`."""
    vocab_size: int = 8192
    """Pieces, special tokens included; `word` and `char` may end with fewer."""
    lowercase: bool = False
    """Fold case and strip accents (wordpiece and word only: the others must give the text back)."""
    min_count: int = 2
    """How often a word or a character must stand in the sample to become a piece (word and char)."""
    unknown_classes: bool = True
    """Tell unknown numbers and unknown capitalised words from the other unknown ones (word)."""
    file: str | None = None
    """Load instead of training: a `tokenizer.json`, or a folder in Hugging Face's layout."""
    sample_megabytes: int = 32
    """Train on a sample of the documents of at most this many million bytes."""


def check_tokenizer(config: TokenizerConfig) -> None:
    """Check which settings go with which kind of tokenizer.

    Raises:
        LmzooError: an unknown kind, or a setting that its training would not look at.
    """
    one_of("tokenizer.name", config.name, TOKENIZERS)
    if config.lowercase and config.name not in _FOLDING:
        raise LmzooError(
            f"tokenizer.lowercase=true does not go with tokenizer={config.name}, which keeps the text; "
            "choose tokenizer=wordpiece or word"
        )
    for setting in UNUSED.get(config.name, ()):
        given = getattr(config, setting)
        if given != getattr(TokenizerConfig, setting):
            takers = [name for name in TOKENIZERS if setting not in UNUSED.get(name, ())]
            raise LmzooError(
                f"tokenizer.{setting}={str(given).lower()} does not go with tokenizer={config.name}; "
                f"choose tokenizer={' or '.join(takers)}"
            )
