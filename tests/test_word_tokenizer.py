"""Tokenizers of whole words and of characters: their vocabularies, unknown words, and the text again."""

from __future__ import annotations

import gzip
import json
import os
import random
import subprocess
import sys
import unicodedata
from collections import Counter
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from corpora import write_text
from lmzoo.data.config import DataConfig
from lmzoo.data.prepare import prepare
from lmzoo.errors import LmzooError
from lmzoo.text.config import TokenizerConfig
from lmzoo.text.sentences import sentence_spans
from lmzoo.text.tokenizer import TextTokenizer, load_tokenizer, train_tokenizer
from lmzoo.text.unknown import CAPITAL, NUMBER, class_of
from lmzoo.types import SpecialTokens

SHARED = Path(__file__).resolve().parents[1].parent / "shared" / "data"
REAL = ("pretrain/books.valid.txt.gz", "zh/wikipedia_zh.train.txt.gz")
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
TEXTS = [
    "The sea, the SEA! The 3 boats of 1984 lay by the sea. B b",
    "a b a b c É é e\u0301 naïve",
    "我们在学习语言模型。我们在学习。",
    "\tTwo  spaces\nand 2 lines.\r\n",
]


def trained(name: str, texts: list[str] = TEXTS, **settings) -> TextTokenizer:
    return train_tokenizer(TokenizerConfig(name=name, **settings), texts)


def pieces_of(tokenizer: TextTokenizer) -> list[str]:
    vocabulary = json.loads(tokenizer.json())["model"]["vocab"]
    return sorted(vocabulary, key=vocabulary.__getitem__)


def read_as(tokenizer: TextTokenizer, text: str) -> list[str]:
    names = pieces_of(tokenizer)
    return [names[number] for number in tokenizer.encode_batch([text])[0]]


# -- words


def test_words_most_frequent_first_then_by_codepoint() -> None:
    words = ["b", ".", "The", "a", "sea", "the", "。", "们", "在", "学", "习", "我"]
    assert pieces_of(trained("word")) == [*SPECIAL, NUMBER, CAPITAL, *words[:7], *sorted(words[7:])]


def by_hand(texts: list[str], least: int) -> list[str]:
    """The words by counting in Python what the splitting gives."""
    normalizer, splitter = normalizers.BertNormalizer(lowercase=False), pre_tokenizers.BertPreTokenizer()
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(word for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text)))
    kept = [(-count, word) for word, count in counts.items() if count >= least]
    return [word for _, word in sorted(kept)]


@pytest.mark.parametrize("least", [1, 2, 3])
@pytest.mark.parametrize("most", [9, 12, 8192])
def test_the_count_and_the_size_bound_the_vocabulary(least: int, most: int) -> None:
    words = trained("word", min_count=least, vocab_size=most)
    assert pieces_of(words)[7:] == by_hand(TEXTS, least)[: most - 7]
    assert words.special == SpecialTokens(words.vocab_size)
    characters = trained("char", min_count=least, vocab_size=most)
    counts = Counter("".join(TEXTS))
    kept = sorted((-count, one) for one, count in counts.items() if count >= least)
    assert pieces_of(characters) == SPECIAL + [one for _, one in kept][: most - 5]


def test_words_keep_case_and_accents_unless_they_are_folded() -> None:
    kept = trained("word", ["Café cafe CAFE café"] * 2)
    assert read_as(kept, "Café cafe CAFE café, cafè") == ["Café", "cafe", "CAFE", "café", "[UNK]", "[UNK]"]
    folded = trained("word", ["Café cafe CAFE café"] * 2, lowercase=True)
    assert pieces_of(folded) == [*SPECIAL, NUMBER, "cafe"]
    assert read_as(folded, "Café cafe CAFE café cafè Other 5") == ["cafe"] * 5 + ["[UNK]", NUMBER]


def test_chinese_characters_are_words() -> None:
    words = trained("word")
    assert read_as(words, "我们the学习龘。") == ["我", "们", "the", "学", "习", "[UNK]", "。"]
    assert words.decode(words.encode_batch(["the sea, 我们。"])[0]) == "the sea 我 们 。"


CLASSES = {
    "5": NUMBER, "1984": NUMBER, "3rd": NUMBER, "−5": NUMBER, "€20": NUMBER, "½": NUMBER, "Ⅳ": NUMBER,
    "٣": NUMBER, "²": NUMBER, "+1": NUMBER,
    "Zürich": CAPITAL, "B52": CAPITAL, "Éa": CAPITAL, "Ж": CAPITAL, "ǅ": CAPITAL, "€A5": CAPITAL,
    "florid": None, "i18n": None, "éA": None, "龘": None, "卅": None, "一": None, "": None,
    "🙂": None, "--": None,
}  # fmt: skip


@pytest.mark.parametrize("word", CLASSES, ids=ascii)
def test_classes_of_unknown_words(word: str) -> None:
    assert class_of(word) == CLASSES[word]


def test_unknown_words_are_told_apart_by_the_text_itself() -> None:
    words = trained("word")
    text = "The Zürich of 5 −7 florid\u0000 e\u0301x X\u0301 龘 🙂 ½ [UNK_NUMBER] BOAT."
    ((ids, places),) = words.encode_with_offsets([text])
    names = pieces_of(words)
    found = [(names[token], text[start:end]) for token, (start, end) in zip(ids, places, strict=True)]
    assert found == [
        ("The", "The"), (CAPITAL, "Zürich"), ("[UNK]", "of"), (NUMBER, "5"), (NUMBER, "−7"),
        ("[UNK]", "florid"), ("[UNK]", "e\u0301x"), (CAPITAL, "X\u0301"), ("[UNK]", "龘"), ("[UNK]", "🙂"),
        (NUMBER, "½"), ("[UNK]", "["), (CAPITAL, "UNK"), ("[UNK]", "_"), (CAPITAL, "NUMBER"), ("[UNK]", "]"),
        (CAPITAL, "BOAT"), (".", "."),
    ]  # fmt: skip
    assert words.encode_batch([text, text]) == [ids, ids]
    assert words.unknown_ids == {1, 5, 6}


def test_without_classes_all_are_one() -> None:
    words = trained("word", unknown_classes=False)
    assert pieces_of(words)[:6] == [*SPECIAL, "b"]
    assert read_as(words, "Zürich 77 florid") == ["[UNK]"] * 3
    assert words.unknown_ids == {1}


def test_the_classes_are_found_in_a_file(tmp_path: Path) -> None:
    vocabulary = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4, "a": 5, NUMBER: 6}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(tmp_path / "a.json"))
    loaded = load_tokenizer(tmp_path / "a.json")
    assert loaded.encode_batch(["a B 12 c"]) == [[5, 1, 6, 1]]
    assert loaded.unknown_ids == {1, 6}


def test_what_words_spell() -> None:
    words = trained("word")
    spelt = words.spellings()
    assert spelt[:7] == [b"", b"[UNK]", b"", b"", b"", b"[UNK_NUMBER]", b"[UNK_CAPITAL]"]
    assert spelt[7:] == [word.encode() for word in by_hand(TEXTS, 2)]
    assert words.special_names == dict(zip(("pad", "unk", "cls", "sep", "mask"), SPECIAL, strict=True))
    assert words.decode([2, 5, 8, 6, 1, 3]) == "[UNK_NUMBER]. [UNK_CAPITAL]"


# -- characters


def test_characters_give_the_text_back() -> None:
    characters = trained("char", min_count=1)
    texts = [*TEXTS, "".join(TEXTS), "", " ", "\n\n", "\r\n\t", "e\u0301 é"]
    encoded = characters.encode_batch(texts)
    assert [len(ids) for ids in encoded] == [len(text) for text in texts]
    assert [characters.decode(ids) for ids in encoded] == texts
    assert characters.lossless is False
    assert characters.id_bytes() is None


def test_rare_characters_are_unknown_one_by_one() -> None:
    characters = trained("char")
    text = "the 龘龘 sea🙂\n[SEP] Q"
    ((ids, places),) = characters.encode_with_offsets([text])
    assert places == [(i, i + 1) for i in range(len(text))]
    known = set(pieces_of(characters))
    assert [token == 1 for token in ids] == [one not in known for one in text]
    assert ids.count(1) == 9
    assert characters.decode(ids) == "the  sea\n "
    assert characters.spellings()[5:] == [one.encode() for one in pieces_of(characters)[5:]]


# -- both

both = pytest.mark.parametrize("name", ["word", "char"])


@both
def test_the_same_again_from_the_file(tmp_path: Path, name: str) -> None:
    ours = trained(name)
    ours.save(tmp_path / "tokenizer.json")
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer.json"]
    loaded = load_tokenizer(tmp_path / "tokenizer.json")
    odd = [*TEXTS, "Some 77 Other\u3000words 🙂", "", "\x00\x85"]
    assert loaded.encode_with_offsets(odd) == ours.encode_with_offsets(odd)
    assert loaded.fingerprint() == ours.fingerprint()
    assert loaded.fingerprint() != trained(name, min_count=3).fingerprint()


@both
def test_elsewhere_it_is_the_same_but_for_the_classes(tmp_path: Path, name: str) -> None:
    transformers = pytest.importorskip("transformers")
    ours = trained(name, min_count=1)
    ours.save(tmp_path / "tokenizer.json")
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    for text in TEXTS:
        (ids,) = ours.encode_batch([text])
        assert theirs(text)["input_ids"] == [2, *ids, 3]
    assert theirs("Q 77 龘", add_special_tokens=False)["input_ids"].count(1) == (3 if name == "word" else 4)


_TRAIN_AND_PRINT = """
import gzip, sys
from lmzoo.text.config import TokenizerConfig
from lmzoo.text.tokenizer import train_tokenizer
texts = gzip.decompress(open(sys.argv[1], "rb").read()).decode()[:200_000].split("\\n\\n")
for name in ("word", "char"):
    print(train_tokenizer(TokenizerConfig(name=name, vocab_size=2000), texts).fingerprint())
"""


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data are not here")
@pytest.mark.parametrize("text", REAL)
def test_training_is_deterministic(text: str) -> None:
    printed = [
        subprocess.run(
            [sys.executable, "-c", _TRAIN_AND_PRINT, str(SHARED / text)],
            env={**os.environ, "RAYON_NUM_THREADS": threads},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for threads in ("1", "4")
    ]
    assert len(printed[0].split()) == 2
    assert len(set(printed)) == 1


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data are not here")
@pytest.mark.parametrize("text", REAL)
@both
def test_real_text_sentence_by_sentence(name: str, text: str) -> None:
    documents = gzip.decompress((SHARED / text).read_bytes()).decode()[:200_000].split("\n\n")
    ours = trained(name, documents, min_count=5)
    for document, whole in zip(documents, ours.encode_batch(documents), strict=True):
        starts = sentence_spans(document, "split")
        parts = [document[a:b] for a, b in zip(starts, [*starts[1:], len(document)], strict=True)]
        assert [token for ids in ours.encode_batch(parts) for token in ids] == whole
    # each word or character is what stands at its place
    names = pieces_of(ours)
    for document, (ids, places) in zip(documents[:50], ours.encode_with_offsets(documents[:50]), strict=True):
        for token, (start, end) in zip(ids, places, strict=True):
            if token in ours.unknown_ids:
                expected = class_of(document[start:end]) if name == "word" else None
                assert names[token] == (expected or "[UNK]")
            else:
                assert names[token] == document[start:end]


@both
def test_a_store_of_words_or_characters(tmp_path: Path, name: str) -> None:
    random.seed(0)
    documents = [f"Document {i} has 5{i} words. 第{i}句！" + random.choice(["Zz.", "Yy."]) for i in range(40)]
    data = DataConfig(source="text", train=str(write_text(tmp_path / "a.txt", documents)), valid_fraction=0.2)
    settings = {"min_count": 3, "vocab_size": 500}
    store = prepare(data, TokenizerConfig(name=name, **settings), tmp_path / "cache")
    assert store.tokenizer.vocab_size < 60
    counts = store.parts["train"].unigrams + store.parts["valid"].unigrams
    if name == "word":
        assert counts[5] >= 40  # numbers
        assert counts[6] == 0  # every capitalised word stands there more than twice
    else:
        part = store.parts["train"]
        read = [
            store.tokenizer.decode(part.tokens[a:b].tolist())
            for a, b in zip(part.documents[:-1], part.documents[1:], strict=True)
        ]
        assert set(read) <= set(documents)
    assert sum(store.text_bytes.values()) == sum(len(document.encode()) for document in documents)
    other = prepare(data, TokenizerConfig(name=name, **settings | {"min_count": 4}), tmp_path / "cache")
    assert other.hash != store.hash
    if name == "word":
        plain = TokenizerConfig(name=name, **settings, unknown_classes=False)
        assert prepare(data, plain, tmp_path / "cache").hash not in (store.hash, other.hash)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"name": "word", "min_count": 99},
            "no word stands tokenizer.min_count=99 times in the training text",
        ),
        ({"name": "char", "min_count": 99}, "no character stands tokenizer.min_count=99 times"),
        ({"name": "word", "vocab_size": 7}, "tokenizer.vocab_size=7 is too small: .* take 7; set 8 or more"),
        ({"name": "word", "vocab_size": 6}, "tokenizer.vocab_size=6 is too small: .* take 7; set 8 or more"),
        ({"name": "char", "vocab_size": 5}, "tokenizer.vocab_size=5 is too small: .* take 5; set 6 or more"),
    ],
)
def test_refused(settings: dict, message: str) -> None:
    with pytest.raises(LmzooError, match=message):
        train_tokenizer(TokenizerConfig(**settings), TEXTS)


def test_categories_are_those_that_the_docstring_names() -> None:
    """Over all of Unicode: a character alone is a number, a capital, or neither."""
    for number in range(0x20, 0x20000, 7):
        category = unicodedata.category(chr(number))
        expected = NUMBER if category in ("Nd", "Nl", "No") else CAPITAL if category in ("Lu", "Lt") else None
        assert class_of(chr(number)) == expected
