"""Tokenizers: the same each time, lossless where they say so, Chinese apart, and clear refusals."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from lmzoo.errors import LmzooError
from lmzoo.text.config import TokenizerConfig
from lmzoo.text.sentences import sentence_spans
from lmzoo.text.tokenizer import TextTokenizer, load_tokenizer, train_tokenizer
from lmzoo.types import SpecialTokens

SHARED = Path(__file__).resolve().parents[1].parent / "shared" / "data"
REAL = ("pretrain/books.valid.txt.gz", "zh/wikipedia_zh.train.txt.gz")
TEXTS = [
    "The quick brown fox jumps over the lazy dog. It's the dog's day, isn't it?",
    "我们在学习语言模型。“他来了！”“我走了。”他说：好；走吧……",
    "  Unaffable words, naïve café Ünïcödé\n\n\tand 12345 numbers.\r\n",
] * 20
ODD = [
    "",
    " ",
    "\n\n  \t\r\n ",
    "naïve 中文。”“🙂👩‍👩‍👧 e\u0301 \u00e9",
    "".join(map(chr, range(0x100))),
    "\x00\x01\x7f\x80\ufeff\u200b\u202e\ufffd\U0010ffff",
    "[CLS] and [SEP] and [PAD][MASK] are text here",
    "Ġ Ċ âĢľ",
    "。”“。！？；；……—— 。　。",
]


def _train(name: str, vocab_size: int = 400, texts: list[str] = TEXTS, **settings) -> TextTokenizer:
    return train_tokenizer(TokenizerConfig(name=name, vocab_size=vocab_size, **settings), texts)


@pytest.fixture(scope="module")
def bpe() -> TextTokenizer:
    return _train("bpe")


@pytest.fixture(scope="module")
def wordpiece() -> TextTokenizer:
    return _train("wordpiece", 160)


def _pieces(tokenizer: TextTokenizer, text: str) -> list[str]:
    return [tokenizer.decode([number]) for number in tokenizer.encode_batch([text])[0]]


def test_special_tokens(bpe: TextTokenizer, wordpiece: TextTokenizer) -> None:
    assert bpe.special == SpecialTokens(400, pad=0, unk=1, cls=2, sep=3, mask=4)
    assert wordpiece.special == SpecialTokens(160, pad=0, unk=1, cls=2, sep=3, mask=4)
    assert (bpe.vocab_size, wordpiece.vocab_size) == (400, 160)


@pytest.mark.parametrize("text", ODD, ids=range(len(ODD)))
def test_bpe_gives_the_text_back(bpe: TextTokenizer, text: str) -> None:
    (ids,) = bpe.encode_batch([text])
    assert bpe.decode(ids) == text
    assert not set(ids) & set(bpe.special.ids)
    lengths = bpe.id_bytes()
    assert lengths is not None
    assert lengths[ids].sum() == len(text.encode())


def test_bpe_bytes_of_ids(bpe: TextTokenizer) -> None:
    lengths = bpe.id_bytes()
    assert lengths is not None
    assert lengths.shape == (400,)
    assert lengths[:5].tolist() == [0] * 5
    assert lengths[5:261].tolist() == [1] * 256
    assert lengths[261:].min() >= 2


def test_bpe_is_gpt2_with_chinese_stops(bpe: TextTokenizer) -> None:
    words = _train("bpe", 280, ["don't stop 12"] * 50 + TEXTS)
    assert _pieces(words, "don't stop 12") == ["don", "'t", " stop", " 12"]
    # GPT-2 would make one word of 。”“; a sentence starts inside it.
    stops = _train("bpe", 262 + 5, ["。”“"] * 50 + TEXTS)
    assert _pieces(stops, "。”“") == ["。”", "“"]


def test_wordpiece_keeps_chinese_apart(wordpiece: TextTokenizer) -> None:
    assert wordpiece.lossless is False
    assert wordpiece.id_bytes() is None
    assert _pieces(wordpiece, "我们在学习语言模型。") == list("我们在学习语言模型。")
    assert _pieces(wordpiece, "学习the模型dog") == ["学", "习", "the", "模", "型", "dog"]
    assert wordpiece.encode_batch(["龘"]) == [[wordpiece.special.unk]]
    assert wordpiece.decode(wordpiece.encode_batch(["The dog's day"])[0]) == "The dog ' s day"


def test_wordpiece_continues_words(wordpiece: TextTokenizer, tmp_path: Path) -> None:
    wordpiece.save(tmp_path / "tokenizer.json")
    vocabulary = json.loads((tmp_path / "tokenizer.json").read_text())["model"]["vocab"]
    names = {number: piece for piece, number in vocabulary.items()}
    pieces = [names[number] for number in wordpiece.encode_batch(["thedog"])[0]]
    assert pieces[0] == "the"
    assert len(pieces) > 1
    assert all(piece.startswith("##") for piece in pieces[1:])
    assert "".join(piece.removeprefix("##") for piece in pieces) == "thedog"


def test_bpe_places_are_in_characters(bpe: TextTokenizer) -> None:
    encoded = bpe.encode_with_offsets(ODD + TEXTS[:3])
    assert [ids for ids, _ in encoded] == bpe.encode_batch(ODD + TEXTS[:3])
    spelt = bpe.spellings()
    for text, (ids, places) in zip(ODD + TEXTS[:3], encoded, strict=True):
        assert b"".join(spelt[number] for number in ids) == text.encode()
        sizes = [len(character.encode()) for character in text]
        read = 0
        for number, (start, end) in zip(ids, places, strict=True):
            # from the character that holds its first byte through the one that holds its last
            assert start < end
            assert sum(sizes[:start]) <= read < sum(sizes[: start + 1])
            read += len(spelt[number])
            assert sum(sizes[: end - 1]) < read <= sum(sizes[:end])


def test_bytes_of_a_character_share_its_place() -> None:
    words = _train("bpe", 261, ["a"])  # no merges: a token is a byte
    ((_, places),) = words.encode_with_offsets(["é中🙂a"])
    assert places == [(0, 1)] * 2 + [(1, 2)] * 3 + [(2, 3)] * 4 + [(3, 4)]


@pytest.mark.parametrize("lowercase", [False, True])
def test_wordpiece_places_are_in_the_text_as_given(lowercase: bool) -> None:
    tokenizer = _train("wordpiece", 140, lowercase=lowercase)
    text = "The\x00 CAFÉ e\u0301a,\u3000我们🙂 dog\u200b ﬁ."
    ((ids, places),) = tokenizer.encode_with_offsets([text])
    assert tokenizer.encode_batch([text]) == [ids]
    spelt = tokenizer.spellings()
    normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    known = 0
    for number, (start, end) in zip(ids, places, strict=True):
        if number != tokenizer.special.unk:
            known += 1
            assert spelt[number].decode() == normalizer.normalize_str(text[start:end]).strip()
    assert known >= 7
    words = [text[start:end] for start, end in places]
    assert "我" in words
    assert "".join(words[:3]).replace("\0", "").startswith("The")


@pytest.mark.parametrize("name", ["bpe", "wordpiece"])
def test_spellings_and_names(bpe: TextTokenizer, wordpiece: TextTokenizer, name: str) -> None:
    tokenizer = {"bpe": bpe, "wordpiece": wordpiece}[name]
    spelt = tokenizer.spellings()
    assert len(spelt) == tokenizer.vocab_size
    assert spelt[:5] == [b"", b"[UNK]", b"", b"", b""]
    assert all(spelt[5:])
    assert tokenizer.unknown_ids == {1}
    assert tokenizer.special_names == {
        "pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]",
    }  # fmt: skip
    if name == "bpe":
        lengths = bpe.id_bytes()
        assert lengths is not None
        assert [len(piece) for piece in spelt[5:]] == lengths[5:].tolist()
        assert sorted(spelt[5:261]) == [bytes([byte]) for byte in range(256)]
    else:
        assert b"dog" in spelt
        assert not any(piece.startswith(b"##") for piece in spelt if len(piece) > 2)


def test_what_others_write_around_a_text(bpe: TextTokenizer, tmp_path: Path) -> None:
    (a,) = bpe.encode_batch(["dog"])
    assert Tokenizer.from_str(bpe.json()).encode("dog").ids == [2, *a, 3]
    assert Tokenizer.from_str(bpe.json(ending=False)).encode("dog").ids == [2, *a]
    assert Tokenizer.from_str(bpe.json()).encode("dog").ids == [2, *a, 3]  # the one asked for last stays
    # it changes nothing of what this tokenizer does, so the fingerprint is the same
    (tmp_path / "a.json").write_text(bpe.json(ending=False), encoding="utf-8")
    assert load_tokenizer(tmp_path / "a.json").fingerprint() == bpe.fingerprint()
    assert load_tokenizer(tmp_path / "a.json").json() == bpe.json()


def test_a_vocabulary_without_a_mask(tmp_path: Path) -> None:
    vocabulary = {"hello": 0, "[SEP]": 1, "[CLS]": 2, "[UNK]": 3, "[PAD]": 4}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    loaded = load_tokenizer(_saved(tmp_path / "a.json", tokenizer))
    assert loaded.special == SpecialTokens(5, pad=4, unk=3, cls=2, sep=1, mask=None)
    assert loaded.special.ids == (1, 2, 3, 4)
    assert "mask" not in loaded.special_names
    assert loaded.spellings() == [b"hello", b"", b"", b"[UNK]", b""]


def test_wordpiece_folds_case_when_asked() -> None:
    folded = _train("wordpiece", 150, lowercase=True)
    assert folded.encode_batch(["THE CAFÉ"]) == folded.encode_batch(["the cafe"])
    kept = _train("wordpiece", 150)
    assert kept.encode_batch(["THE CAFÉ"]) != kept.encode_batch(["the cafe"])


@pytest.mark.parametrize("name", ["bpe", "wordpiece"])
def test_save_load(tmp_path: Path, name: str) -> None:
    trained = _train(name, 350 if name == "bpe" else 160)
    trained.save(tmp_path / "tokenizer.json")
    loaded = load_tokenizer(tmp_path / "tokenizer.json")
    assert loaded.encode_batch(TEXTS + ODD) == trained.encode_batch(TEXTS + ODD)
    assert (loaded.fingerprint(), loaded.special, loaded.lossless) == (
        trained.fingerprint(),
        trained.special,
        trained.lossless,
    )
    assert _train(name, 351 if name == "bpe" else 159).fingerprint() != trained.fingerprint()


def test_file_adds_special_tokens_for_others(tmp_path: Path, bpe: TextTokenizer) -> None:
    bpe.save(tmp_path / "tokenizer.json")
    encoded = Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode("dog", "day")
    a, b = bpe.encode_batch(["dog", "day"])
    assert encoded.ids == [2, *a, 3, *b, 3]
    assert encoded.type_ids == [0] * (len(a) + 2) + [1] * (len(b) + 1)


_TRAIN_AND_PRINT = """
import gzip, sys
from lmzoo.text.config import TokenizerConfig
from lmzoo.text.tokenizer import train_tokenizer
texts = gzip.decompress(open(sys.argv[1], "rb").read()).decode()[:200_000].split("\\n\\n")
for name in ("bpe", "wordpiece"):
    print(train_tokenizer(TokenizerConfig(name=name, vocab_size=5000), texts).fingerprint())
"""


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data are not here")
@pytest.mark.parametrize("name", REAL)
def test_training_is_deterministic(name: str) -> None:
    # In processes of their own: the library's hash maps differ from process to process.
    printed = [
        subprocess.run(
            [sys.executable, "-c", _TRAIN_AND_PRINT, str(SHARED / name)],
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
@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize("kind", ["bpe", "wordpiece"])
def test_sentence_by_sentence_is_the_whole_text(name: str, kind: str) -> None:
    text = gzip.decompress((SHARED / name).read_bytes()).decode()
    documents = text[:200_000].split("\n\n") + TEXTS + ODD
    tokenizer = _train(kind, 4500, documents)
    whole = tokenizer.encode_batch(documents)
    assert _joined(tokenizer, documents, "split") == whole
    assert _joined(tokenizer, documents, "lines") == whole
    if kind == "bpe":
        assert [tokenizer.decode(ids) for ids in whole] == documents


def test_any_characters_around_a_stop(bpe: TextTokenizer) -> None:
    marks = '。！…!"”）、—“ \u3000\x1c好1🙂'
    texts = [f"好{a}{b}{c}{d}好" for a in "。.！!…" for b in marks for c in marks for d in marks]
    both = zip(texts, _joined(bpe, texts, "split"), bpe.encode_batch(texts), strict=True)
    assert [text for text, joined, whole in both if joined != whole] == []


def _joined(tokenizer: TextTokenizer, texts: list[str], how: str) -> list[list[int]]:
    """Ids of each text, encoded sentence by sentence."""
    parts = []
    for text in texts:
        starts = sentence_spans(text, how)
        parts.append([text[a:b] for a, b in zip(starts, [*starts[1:], len(text)], strict=True)])
    encoded = iter(tokenizer.encode_batch([sentence for sentences in parts for sentence in sentences]))
    return [[number for _ in sentences for number in next(encoded)] for sentences in parts]


def test_an_error_in_the_texts_is_passed_on() -> None:
    def texts() -> Iterator[str]:
        yield "One."
        raise LmzooError("a.txt:3 is not UTF-8")

    for name in ("bpe", "wordpiece"):
        with pytest.raises(LmzooError, match=r"a\.txt:3 is not UTF-8"):
            train_tokenizer(TokenizerConfig(name=name, vocab_size=300), texts())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"name": "unigram"},
            "tokenizer.name=unigram is not known; choose one of: bpe, wordpiece, word, char",
        ),
        ({"name": "bpe", "lowercase": True}, "lowercase=true does not go with .*choose tokenizer=wordpiece"),
        ({"name": "char", "lowercase": True}, "lowercase=true does not go with tokenizer=char, which keeps"),
        ({"name": "bpe", "min_count": 3}, "min_count=3 does not go with .*choose tokenizer=word or char"),
        ({"name": "char", "unknown_classes": False}, "unknown_classes=false .*choose tokenizer=word$"),
        ({"name": "bpe", "vocab_size": 100}, "tokenizer.vocab_size=100 is too small: .* take 261"),
        ({"name": "wordpiece", "vocab_size": 20}, r"tokenizer.vocab_size=20 is too small: .* take \d+; set"),
    ],
)
def test_refused_settings(settings: dict, message: str) -> None:
    with pytest.raises(LmzooError, match=message):
        train_tokenizer(TokenizerConfig(**settings), TEXTS)


@pytest.mark.parametrize("name", ["bpe", "wordpiece"])
def test_vocabulary_larger_than_the_text_can_fill(name: str) -> None:
    with pytest.raises(LmzooError, match=r"can fill; set tokenizer.vocab_size=(\d+) or less") as caught:
        _train(name, 8192)
    reached = int(str(caught.value).split("=")[-1].split()[0])
    assert _train(name, reached).vocab_size == reached
    assert _train(name, reached - 1).vocab_size == reached - 1


BAD_FILES = {
    "empty.json": b"",
    "cut.json": b'{"version": "1.0", "truncation": null,',
    "other.json": b'{"text": "no tokenizer"}',
    "list.json": b"[1, 2]",
    "binary.json": b"\xff\xfe\x00\x01",
}


@pytest.mark.parametrize("name", [*BAD_FILES, "missing.json", "folder"])
def test_refused_files(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name in BAD_FILES:
        path.write_bytes(BAD_FILES[name])
    elif name == "folder":
        path.mkdir()
    with pytest.raises(LmzooError, match=f"the tokenizer .*{name} (cannot be read|is no|is not)") as caught:
        load_tokenizer(path)
    assert "\n" not in str(caught.value)


def _saved(path: Path, tokenizer: Tokenizer) -> Path:
    tokenizer.save(str(path))
    return path


def test_missing_special_tokens_are_named(tmp_path: Path) -> None:
    tokenizer = Tokenizer(models.WordLevel({"[PAD]": 0, "[CLS]": 1, "[SEP]": 2}, unk_token="[PAD]"))
    with pytest.raises(LmzooError, match=r"a.json has no token \[UNK\] and none that could"):
        load_tokenizer(_saved(tmp_path / "a.json", tokenizer))


def test_special_tokens_elsewhere_are_found(tmp_path: Path) -> None:
    vocabulary = {"hello": 0, "[MASK]": 1, "[SEP]": 5, "[CLS]": 6, "[UNK]": 7, "[PAD]": 9}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.enable_padding(length=8)
    tokenizer.enable_truncation(2)
    loaded = load_tokenizer(_saved(tmp_path / "a.json", tokenizer))
    assert loaded.special == SpecialTokens(10, pad=9, unk=7, cls=6, sep=5, mask=1)
    assert loaded.encode_batch(["hello hello hello bye"]) == [[0, 0, 0, 7]]


@pytest.mark.parametrize("change", ["normalizer", "prefix space", "byte missing", "none"])
def test_lossless_is_found_out(tmp_path: Path, bpe: TextTokenizer, change: str) -> None:
    bpe.save(tmp_path / "tokenizer.json")
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    if change == "normalizer":
        tokenizer.normalizer = normalizers.NFC()
    elif change == "prefix space":
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    elif change == "byte missing":
        content = json.loads(tokenizer.to_str())
        merged = {piece for merge in content["model"]["merges"] for piece in merge}
        unused = next(p for p, n in content["model"]["vocab"].items() if n >= 5 and p not in merged)
        content["model"]["vocab"][unused + "Ġ"] = content["model"]["vocab"].pop(unused)
        tokenizer = Tokenizer.from_str(json.dumps(content))
    loaded = load_tokenizer(_saved(tmp_path / "changed.json", tokenizer))
    assert loaded.lossless is (change == "none")
