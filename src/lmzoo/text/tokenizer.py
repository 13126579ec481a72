"""Tokenizers: byte-level BPE, WordPiece, words or characters, trained on the corpus or loaded from files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
from tokenizers import Encoding, Tokenizer, decoders, pre_tokenizers, processors

from lmzoo.errors import LmzooError
from lmzoo.text.config import TokenizerConfig, check_tokenizer
from lmzoo.text.folders import PARTS, choose_special, open_tokenizer
from lmzoo.text.joints import joints
from lmzoo.text.lossless import is_lossless
from lmzoo.text.parts import parts_of
from lmzoo.text.readers import refuse_half_characters
from lmzoo.text.spelling import spelling
from lmzoo.text.unknown import CLASSES, class_of
from lmzoo.text.vocabularies import SPECIAL, train_bpe, train_char, train_word, train_wordpiece
from lmzoo.types import SpecialTokens

_OWN_NAMES = dict(zip(PARTS, SPECIAL, strict=True))
_LONGEST = 2**20
"""Characters that are encoded at once, where the kind of tokenizer allows to cut a text."""
_HOLES = 2**16
"""Ids without a token that a vocabulary may have beside one for each token: each takes memory like a token."""


class TextTokenizer:
    """A `tokenizers.Tokenizer` with the special tokens that every model here needs.

    One token may play several parts: in GPT-2's vocabulary ``<|endoftext|>`` plays all but that of the
    mask, which nothing plays there. Unknown words are told apart by class (see `unknown`) where the
    vocabulary has tokens for the classes; these are words like others to an objective, to be predicted,
    masked and drawn, because "a number" is a guess that can be right.

    Raises:
        LmzooError: a special token is missing, or the ids are far more than the tokens.
    """

    def __init__(self, tokenizer: Tokenizer, source: str, roles: Mapping[str, str] | None = None) -> None:
        """
        Args:
            tokenizer: taken over, and changed.
            source: where it comes from, for messages.
            roles: tokens by Hugging Face's names for their roles; see `folders.choose_special`.
        """
        vocabulary = tokenizer.get_vocab()
        self.special_names: dict[str, str] = choose_special(vocabulary, roles or {}, source)
        """Token of each part: ``pad unk cls sep``, and ``mask`` if there is one."""
        # A file may carry the settings of whoever saved it; here the views cut and pad.
        tokenizer.no_padding()
        tokenizer.no_truncation()
        added = tokenizer.get_added_tokens_decoder().values()
        known = {token.content for token in added if token.special}
        tokenizer.add_special_tokens([name for name in self._names() if name not in known])
        # A corpus that writes "[SEP]" means these five characters.
        tokenizer.encode_special_tokens = True
        self._tokenizer = tokenizer
        self.vocab_size: int = 1 + max(vocabulary.values())
        """V, special tokens included; one more than the highest id, should a file have holes."""
        if self.vocab_size > 2 * len(vocabulary) + _HOLES:
            raise LmzooError(
                f"{source} has {len(vocabulary):,} tokens and ids up to {self.vocab_size - 1:,}, each of which "
                "would take a row of the model; number the tokens one after the other"
            )
        self._source = source
        ids = {part: vocabulary[name] for part, name in self.special_names.items()}
        self.special = SpecialTokens(self.vocab_size, **({"mask": None} | ids))  # type: ignore[arg-type]
        self._class_ids = {name: vocabulary[name] for name in CLASSES if name in vocabulary}
        self.unknown_ids: frozenset[int] = frozenset([self.special.unk, *self._class_ids.values()])
        """What stands for words that the vocabulary does not have."""
        tokenizer.post_processor = self._template(ending=True)
        self.lossless: bool = is_lossless(tokenizer, self._names())
        """Whether decoding gives the very text back, byte by byte."""
        # the kinds of which it is known that a part of a text has the same pieces as in the text
        self._divisible = (
            self.lossless
            or isinstance(tokenizer.pre_tokenizer, pre_tokenizers.BertPreTokenizer)
            or (tokenizer.pre_tokenizer is None and isinstance(tokenizer.decoder, decoders.Fuse))
        )

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of every text, special tokens not added; a special token spelt out in it is text.

        Of a text of more than a million characters the parts are encoded one after the other: see `parts`.

        Raises:
            LmzooError: a text holds half a surrogate pair, or what a tokenizer from elsewhere has no token for.
        """
        if self._class_ids:  # told by the words themselves, so their places are needed
            return [ids for ids, _ in self.encode_with_offsets(texts)]
        if self._all_short(texts):
            encoded = self._encode(self._tokenizer.encode_batch_fast, texts)
            return [encoding.ids for encoding in encoded]
        short = iter(self.encode_batch([text for text in texts if len(text) <= _LONGEST]))
        return [
            next(short)
            if len(text) <= _LONGEST
            else list(chain.from_iterable(self.encode_batch([part])[0] for part in parts_of(text, _LONGEST)))
            for text in texts
        ]

    def encode_with_offsets(self, texts: Sequence[str]) -> list[tuple[list[int], list[tuple[int, int]]]]:
        """Ids of every text as `encode_batch` gives them, and where each token stands.

        Returns:
            for every text its ids, and start and end of each token in characters of the text. Tokens that
            are bytes of one character all have that character's place; at byte level the space before a
            word belongs to it.

        Raises:
            LmzooError: as ``encode_batch``.
        """
        if self._all_short(texts):
            encoded = self._encode(self._tokenizer.encode_batch, texts)
            return [
                (self._classified(text, encoding), encoding.offsets)
                for text, encoding in zip(texts, encoded, strict=True)
            ]
        short = iter(self.encode_with_offsets([text for text in texts if len(text) <= _LONGEST]))
        return [next(short) if len(text) <= _LONGEST else self._long_with_offsets(text) for text in texts]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of the ids, special tokens left out."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=True)

    def spellings(self) -> list[bytes]:
        """(V,) the UTF-8 bytes that each id spells; half a character's bytes where an id is no more.

        Nothing for special tokens and unused ids; ``[UNK]`` and the classes of unknown words spell their
        names. The marks of a word's inside or end (``##``, ``</w>``) are no part of it.
        """
        parts = json.loads(self._tokenizer.to_str())
        spelt = [b""] * self.vocab_size
        for piece, number in self._tokenizer.get_vocab().items():
            spelt[number] = spelling(piece, parts)
        for number, token in self._tokenizer.get_added_tokens_decoder().items():
            spelt[number] = b"" if token.special else token.content.encode()
        spelt[self.special.unk] = self.special_names["unk"].encode()
        for part, name in self.special_names.items():
            if part != "unk":
                spelt[self._id(name)] = b""
        return spelt

    def joints(self) -> np.ndarray:
        """(V,) uint8 which ids make one word with their neighbours: see ``lmzoo.text.joints``."""
        parts = json.loads(self._tokenizer.to_str())
        return joints(self._tokenizer.get_vocab(), self.vocab_size, self.special.ids, parts)

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

    def json(self, ending: bool = True) -> str:
        """The content of a ``tokenizer.json`` for `tokenizers` and `transformers`.

        Elsewhere it adds the special tokens itself: ``[CLS] A [SEP]`` and ``[CLS] A [SEP] B [SEP]`` with
        type ids. Classes of unknown words are not told apart there: all are the unknown token.

        Args:
            ending: whether the last ``[SEP]`` is written; a causal model goes on where the text stops.
        """
        if ending:
            return self._tokenizer.to_str(pretty=True)
        other = Tokenizer.from_str(self._tokenizer.to_str())
        other.post_processor = self._template(ending=False)
        return other.to_str(pretty=True)

    def save(self, path: Path) -> None:
        """Write ``tokenizer.json``; and beside it, where a special token has not the name that it has in
        our own vocabularies, ``special_tokens_map.json``, without which its part could not be known."""
        path.write_text(self.json(), encoding="utf-8")
        if self.special_names != _OWN_NAMES:
            roles = {f"{part}_token": name for part, name in self.special_names.items()}
            beside = path.with_name("special_tokens_map.json")
            beside.write_text(json.dumps(roles, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    def fingerprint(self) -> str:
        """Hash of all that decides which ids a text gets; what others write around it does not count."""
        parts = json.loads(self._tokenizer.to_str()) | {"post_processor": None}
        content = json.dumps([parts, self.special_names], sort_keys=True)
        return hashlib.blake2b(content.encode(), digest_size=16).hexdigest()

    def _names(self) -> list[str]:
        """Every special token once."""
        return list(dict.fromkeys(self.special_names.values()))

    def _id(self, name: str) -> int:
        number = self._tokenizer.token_to_id(name)
        assert number is not None
        return number

    def _all_short(self, texts: Sequence[str]) -> bool:
        return not self._divisible or all(len(text) <= _LONGEST for text in texts)

    def _encode(self, encode: Callable[..., list[Encoding]], texts: Sequence[str]) -> list[Encoding]:
        try:
            return encode(list(texts), add_special_tokens=False)
        except Exception as error:
            for text in texts:
                refuse_half_characters(text, "a text")
            if type(error) is not Exception:  # the library raises nothing narrower
                raise
            raise LmzooError(
                f"{self._source} cannot encode a text ({' '.join(str(error).split())}); mend it, or give another"
            ) from None

    def _long_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        found: list[int] = []
        places: list[tuple[int, int]] = []
        before = 0
        for part in parts_of(text, _LONGEST):
            ((ids, inside),) = self.encode_with_offsets([part])
            found += ids
            places += [(start + before, end + before) for start, end in inside]
            before += len(part)
        return found, places

    def _classified(self, text: str, encoding: Encoding) -> list[int]:
        ids = encoding.ids
        unknown = self.special.unk
        if not self._class_ids or unknown not in ids:
            return ids
        return [
            token if token != unknown else self._class_ids.get(class_of(text[start:end]) or "", unknown)
            for token, (start, end) in zip(ids, encoding.offsets, strict=True)
        ]

    def _template(self, *, ending: bool) -> processors.TemplateProcessing:
        last = (" [SEP]", " [SEP]:1") if ending else ("", "")
        marks = (("[CLS]", self.special_names["cls"]), ("[SEP]", self.special_names["sep"]))
        return processors.TemplateProcessing(
            single=f"[CLS] $A{last[0]}",
            pair=f"[CLS] $A [SEP] $B:1{last[1]}",
            # under names of its own, because a token's name may hold what a template cannot
            special_tokens=[{"id": mark, "ids": [self._id(name)], "tokens": [name]} for mark, name in marks],  # type: ignore[misc]
        )


def load_tokenizer(path: Path) -> TextTokenizer:
    """Read a ``tokenizer.json``, or a folder in Hugging Face's layout (see `folders`).

    Raises:
        LmzooError: no such file, not a tokenizer, or without one of the special tokens.
    """
    tokenizer, roles = open_tokenizer(path)
    return TextTokenizer(tokenizer, f"the tokenizer {path}", roles)


def train_tokenizer(config: TokenizerConfig, texts: Iterable[str]) -> TextTokenizer:
    """Train on texts; the same texts in the same order give the same tokenizer, with any number of threads.

    The special tokens have the ids 0 to 4 in the order of `SpecialTokens`. ``bpe`` is GPT-2's (Radford et
    al. 2019, section 2.2): byte level with all 256 bytes and so without unknowns, but with words cut after
    Chinese stops too, where a sentence may start. ``wordpiece`` is BERT's (Devlin et al. 2019, section 3):
    Chinese characters and punctuation apart, pieces inside a word marked by ``##``. ``word`` has those same
    words whole, and ``char`` characters, both the most frequent first. The file that `save` writes also
    adds [CLS] and [SEP] as BERT does, for use elsewhere.

    Raises:
        LmzooError: an unknown kind, a setting that does not go with it, a vocabulary too small for the
            alphabet or too large for the texts.
    """
    check_tokenizer(config)
    match config.name:
        case "bpe":
            tokenizer = train_bpe(config.vocab_size, texts)
        case "wordpiece":
            tokenizer = train_wordpiece(config.vocab_size, config.lowercase, list(texts))
        case "word":
            tokenizer = train_word(
                config.vocab_size, config.lowercase, config.min_count, config.unknown_classes, texts
            )
        case _:
            tokenizer = train_char(config.vocab_size, config.min_count, texts)
    _check_size(config, tokenizer)
    return TextTokenizer(tokenizer, "the trained tokenizer")


def _check_size(config: TokenizerConfig, tokenizer: Tokenizer) -> None:
    reached = tokenizer.get_vocab_size()
    counted = config.name in ("word", "char")
    reserved = len({*SPECIAL, *CLASSES} & tokenizer.get_vocab().keys())
    if reached > config.vocab_size or (counted and reached == config.vocab_size == reserved):
        least = reserved + 1 if counted else reached
        raise LmzooError(
            f"tokenizer.vocab_size={config.vocab_size} is too small: "
            f"special tokens and alphabet alone take {reached}; set {least} or more"
        )
    if counted:
        if reached == reserved:
            what = "character" if config.name == "char" else "word"
            raise LmzooError(
                f"no {what} stands tokenizer.min_count={config.min_count} times in the training text; "
                "lower it, or give more text"
            )
    elif reached < config.vocab_size:
        raise LmzooError(
            f"tokenizer.vocab_size={config.vocab_size} is more than the training text can fill; "
            f"set tokenizer.vocab_size={reached} or less"
        )
