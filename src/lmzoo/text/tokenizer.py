"""Subword tokenizers: byte-level BPE or WordPiece, trained on the corpus or loaded from a file."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from lmzoo.errors import LmzooError, one_of
from lmzoo.text.config import TokenizerConfig
from lmzoo.text.sentences import WIDE_STOP
from lmzoo.types import SpecialTokens

NAMES = ("bpe", "wordpiece")

_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_CONTINUATION = "##"
_ALPHABET = 256
_COVERAGE = 0.9995
"""WordPiece's alphabet: at least so many characters, and so large a share of the text; SentencePiece's
default (Kudo and Richardson 2018)."""
_TEXTS_A_BATCH = 256
_PROBE = "A probe: naïve 中文。”“🙂\n\n  \t\x00 [SEP] "


class TextTokenizer:
    """A `tokenizers.Tokenizer` with the special tokens that every model here needs.

    Raises:
        LmzooError: a special token is missing.
    """

    def __init__(self, tokenizer: Tokenizer, source: str) -> None:
        vocabulary = tokenizer.get_vocab()
        missing = [token for token in _SPECIAL if token not in vocabulary]
        if missing:
            raise LmzooError(
                f"{source} has no token {', '.join(missing)}; "
                f"add it, or train a tokenizer of your own by leaving out tokenizer.file"
            )
        # A file may carry the settings of whoever saved it; here the views cut and pad.
        tokenizer.no_padding()
        tokenizer.no_truncation()
        # A corpus that writes "[SEP]" means these five characters.
        tokenizer.encode_special_tokens = True
        self._tokenizer = tokenizer
        self.vocab_size: int = 1 + max(vocabulary.values())
        """V, special tokens included; one more than the highest id, should a file have holes."""
        self.special = SpecialTokens(self.vocab_size, *(vocabulary[token] for token in _SPECIAL))
        self.lossless: bool = isinstance(tokenizer.decoder, decoders.ByteLevel) and self._gives_back(_PROBE)
        """Whether decoding gives the very text back, byte by byte."""

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of every text, special tokens not added; a special token spelt out in it is text."""
        encoded = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encoded]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of the ids, special tokens left out."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=True)

    def save(self, path: Path) -> None:
        """Write ``tokenizer.json``, which `tokenizers` and `transformers` read as it is."""
        path.write_text(self._json(), encoding="utf-8")

    def fingerprint(self) -> str:
        """Hash of all that decides what it does."""
        return hashlib.blake2b(self._json().encode(), digest_size=16).hexdigest()

    def id_bytes(self) -> np.ndarray | None:
        """(V,) int64 bytes of text that each id stands for, 0 for special tokens; None if not lossless."""
        if not self.lossless:
            return None
        lengths = np.zeros(self.vocab_size, dtype=np.int64)
        for piece, number in self._tokenizer.get_vocab().items():
            lengths[number] = len(piece)  # at byte level each character of a piece stands for one byte
        for number, token in self._tokenizer.get_added_tokens_decoder().items():
            lengths[number] = 0 if token.special else len(token.content.encode())
        lengths[list(self.special.ids)] = 0
        return lengths

    def _gives_back(self, text: str) -> bool:
        every_byte = set(pre_tokenizers.ByteLevel.alphabet()) <= self._tokenizer.get_vocab().keys()
        return (
            every_byte
            and self._tokenizer.normalizer is None
            and self.decode(self.encode_batch([text])[0]) == text
        )

    def _json(self) -> str:
        return self._tokenizer.to_str(pretty=True)


def load_tokenizer(path: Path) -> TextTokenizer:
    """Read a ``tokenizer.json``.

    Raises:
        LmzooError: no such file, not a tokenizer, or without one of the special tokens.
    """
    try:
        given = path.read_text(encoding="utf-8")
    except OSError as error:
        raise LmzooError(f"tokenizer.file={path} cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise LmzooError(f"tokenizer.file={path} is not UTF-8; give a tokenizer.json") from None
    try:
        tokenizer = Tokenizer.from_str(given)
    except Exception as error:  # the library raises nothing narrower
        raise LmzooError(f"tokenizer.file={path} is no tokenizer.json, or a damaged one ({error})") from None
    return TextTokenizer(tokenizer, f"tokenizer.file={path}")


def train_tokenizer(config: TokenizerConfig, texts: Iterable[str]) -> TextTokenizer:
    """Train on texts; the same texts in the same order give the same tokenizer, with any number of threads.

    The special tokens have the ids 0 to 4 in the order of `SpecialTokens`. ``bpe`` is GPT-2's (Radford et
    al. 2019, section 2.2): byte level with all 256 bytes and so without unknowns, but with words cut after
    Chinese stops too, where a sentence may start. ``wordpiece`` is BERT's (Devlin et al. 2019, section 3):
    Chinese characters and punctuation apart, pieces inside a word marked by ``##``. The file that `save`
    writes also adds [CLS] and [SEP] as BERT does, for use elsewhere.

    Raises:
        LmzooError: an unknown kind, case folding at byte level, a vocabulary too small for the alphabet or
            too large for the texts.
    """
    one_of("tokenizer.name", config.name, NAMES)
    if config.name == "bpe":
        if config.lowercase:
            raise LmzooError("tokenizer.lowercase=true needs tokenizer=wordpiece: bpe keeps the text")
        tokenizer = _train_bpe(config.vocab_size, texts)
    else:
        tokenizer = _train_wordpiece(config.vocab_size, config.lowercase, list(texts))
    reached = tokenizer.get_vocab_size()
    if reached > config.vocab_size:
        raise LmzooError(
            f"tokenizer.vocab_size={config.vocab_size} is too small: "
            f"special tokens and alphabet alone take {reached}; set {reached} or more"
        )
    if reached < config.vocab_size:
        raise LmzooError(
            f"tokenizer.vocab_size={config.vocab_size} is more than the training text can fill; "
            f"set tokenizer.vocab_size={reached} or less"
        )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )
    return TextTokenizer(tokenizer, "the trained tokenizer")


def _train_bpe(vocab_size: int, texts: Iterable[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WIDE_STOP), "merged_with_previous"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(_SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_batches(texts), trainer)
    return tokenizer


def _train_wordpiece(vocab_size: int, lowercase: bool, texts: list[str]) -> Tokenizer:
    normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    splitter = pre_tokenizers.BertPreTokenizer()
    alphabet, inside = _wordpiece_alphabet(texts, normalizer, splitter)
    # The trainer numbers the ## characters in the order of a hash map that differs from run to run, and
    # numbers break its ties; numbered here, as special tokens for as long as training lasts, they cannot.
    continuing = [_CONTINUATION + character for character in inside]
    training = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    training.normalizer = normalizer
    training.pre_tokenizer = splitter
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        special_tokens=[*_SPECIAL, *continuing],
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        continuing_subword_prefix=_CONTINUATION,
        show_progress=False,
    )
    training.train_from_iterator(_batches(texts), trainer)

    tokenizer = Tokenizer(models.WordPiece(training.get_vocab(), unk_token="[UNK]"))
    tokenizer.add_special_tokens(list(_SPECIAL))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.WordPiece(prefix=_CONTINUATION)
    return tokenizer


def _wordpiece_alphabet(
    texts: list[str],
    normalizer: normalizers.BertNormalizer,
    splitter: pre_tokenizers.BertPreTokenizer,
) -> tuple[list[str], list[str]]:
    """The characters that become pieces, and those of them that can stand inside a word and so take a
    second piece; words with a rarer one become [UNK]."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text)
    folded: Counter[str] = Counter()
    for character, count in counts.items():
        for part in normalizer.normalize_str(character).replace(" ", ""):
            folded[part] += count
    alphabet: list[str] = []
    covered = 0
    for character, count in sorted(folded.items(), key=lambda item: (-item[1], item[0])):
        if len(alphabet) >= _ALPHABET and covered >= _COVERAGE * folded.total():
            break
        alphabet.append(character)
        covered += count
    joined = ((c, normalizer.normalize_str("a" + c)) for c in alphabet)
    inside = [c for c, word in joined if len(splitter.pre_tokenize_str(word)) == 1]
    return alphabet, inside


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    """Texts in lists, which cross into the library at once."""
    held: list[str] = []
    for text in texts:
        held.append(text)
        if len(held) == _TEXTS_A_BATCH:
            yield held
            held = []
    if held:
        yield held
