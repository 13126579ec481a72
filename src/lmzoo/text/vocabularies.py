"""Tokenizers trained on texts: byte-level BPE, WordPiece, whole words, single characters."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from lmzoo.text.sentences import WHITE_SPACE, WIDE_STOP
from lmzoo.text.unknown import CAPITAL, NUMBER

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
"""The special tokens of a trained tokenizer, at the ids 0 to 4."""
_UNKNOWN = "[UNK]"
_CONTINUATION = "##"
_ALPHABET = 256
_COVERAGE = 0.9995
"""WordPiece's alphabet: at least so many characters, and so large a share of the text; SentencePiece's
default (Kudo and Richardson 2018)."""
_TEXTS_A_BATCH = 256
_LONGEST_WORD = 1000
_LONG_RUN = re.compile(
    rf"(?<![^{WHITE_SPACE}])[^{WHITE_SPACE}]{{{_LONGEST_WORD},}}+|(?<![{WHITE_SPACE}])[{WHITE_SPACE}]{{{_LONGEST_WORD},}}+"
)
"""Looked for where a word or a gap begins, and nowhere else: so each character is looked at once or twice."""


def train_bpe(vocab_size: int, texts: Iterable[str]) -> Tokenizer:
    """GPT-2's byte-level BPE, with words cut after Chinese stops too."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WIDE_STOP), "merged_with_previous"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    # a word brings the blank before it along: a gap that left it outside would ask for words without one
    gap = AddedToken(SPECIAL[-1], lstrip=True, special=True, normalized=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[*SPECIAL[:-1], gap],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_batches(without_long_words(texts)), trainer)
    return tokenizer


def train_wordpiece(vocab_size: int, lowercase: bool, texts: list[str]) -> Tokenizer:
    """BERT's WordPiece."""
    normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    splitter = pre_tokenizers.BertPreTokenizer()
    alphabet, inside = _wordpiece_alphabet(texts, normalizer, splitter)
    # The trainer numbers the ## characters in the order of a hash map that differs from run to run, and
    # numbers break its ties; numbered here, as special tokens for as long as training lasts, they cannot.
    continuing = [_CONTINUATION + character for character in inside]
    training = Tokenizer(models.WordPiece(unk_token=_UNKNOWN))
    training.normalizer = normalizer
    training.pre_tokenizer = splitter
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        special_tokens=[*SPECIAL, *continuing],
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        continuing_subword_prefix=_CONTINUATION,
        show_progress=False,
    )
    training.train_from_iterator(_batches(without_long_words(texts)), trainer)

    tokenizer = Tokenizer(models.WordPiece(training.get_vocab(), unk_token=_UNKNOWN))
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.WordPiece(prefix=_CONTINUATION)
    return tokenizer


def train_word(
    vocab_size: int, lowercase: bool, min_count: int, classes: bool, texts: Iterable[str]
) -> Tokenizer:
    """Whole words of BERT's splitting: white space and punctuation part them, Chinese characters stand alone.

    The classes of unknown words follow the special tokens; where case is folded there are no capitals.
    """
    reserved: list[str] = list(SPECIAL)
    if classes:
        reserved += [NUMBER] if lowercase else [NUMBER, CAPITAL]
    counting = Tokenizer(models.WordLevel(unk_token=_UNKNOWN))
    counting.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    counting.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer = Tokenizer(
        models.WordLevel(_counted(counting, vocab_size, min_count, reserved, texts), _UNKNOWN)
    )
    tokenizer.add_special_tokens(list(SPECIAL))  # the classes are no special tokens: they are read aloud
    tokenizer.normalizer = counting.normalizer
    tokenizer.pre_tokenizer = counting.pre_tokenizer
    # puts spaces between words but not before a stop; no word begins with ##, which is punctuation
    tokenizer.decoder = decoders.WordPiece(prefix=_CONTINUATION)
    return tokenizer


def train_char(vocab_size: int, min_count: int, texts: Iterable[str]) -> Tokenizer:
    """Every character a piece, white space and line breaks included."""
    counting = Tokenizer(models.WordLevel(unk_token=_UNKNOWN))
    counting.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    vocabulary = _counted(counting, vocab_size, min_count, list(SPECIAL), texts)
    # BPE without merges: the same pieces three times as fast as cutting the text by a pattern
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token=_UNKNOWN, cache_capacity=0))
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.decoder = decoders.Fuse()
    return tokenizer


def _counted(
    counting: Tokenizer, vocab_size: int, min_count: int, reserved: list[str], texts: Iterable[str]
) -> dict[str, int]:
    """The reserved tokens, then the most frequent words; of equally frequent ones the lower codepoints."""
    trainer = trainers.WordLevelTrainer(
        vocab_size=vocab_size, min_frequency=min_count, special_tokens=reserved, show_progress=False
    )
    counting.train_from_iterator(_batches(texts), trainer)
    return counting.get_vocab()


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


def without_long_words(texts: Iterable[str]) -> Iterator[str]:
    """Texts whose words and gaps of more than a thousand characters are cut into texts of their own.

    The library merges the pieces of a word in a time that grows with the square of its length: a line of a
    million letters without a space would take an hour, and no word is as long.
    """
    for text in texts:
        start = 0
        for run in _LONG_RUN.finditer(text):
            for cut in range(run.start() + _LONGEST_WORD, run.end() + 1, _LONGEST_WORD):
                yield text[start:cut]
                start = cut
        if start < len(text) or not text:
            yield text[start:]


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
