"""Bits per byte and pseudo-likelihood per byte, against loops written out and training's own figure."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from corpora import made_documents, write_text
from inference_models import language_model
from lmzoo.data.config import DataConfig
from lmzoo.data.prepare import prepare
from lmzoo.data.stream import StreamView
from lmzoo.errors import LmzooError
from lmzoo.text.config import TokenizerConfig
from lmzoo.text.tokenizer import train_tokenizer
from lmzoo.types import Batch
from lmzoo.yardsticks.base import Asked
from lmzoo.yardsticks.blocks import bits_per_byte, pseudo_likelihood
from lmzoo.yardsticks.likelihoods import word_ends, word_spans
from lmzoo.yardsticks.run import sentences_of
from lmzoo.yardsticks.streams import bounded, documents_of, read_stream
from test_inference_score import log_probabilities

TEXT = """\
The cat sat on the mat.
A dog sat.

猫坐在垫子上。 naïve 🙂 cats!

One. Two. Three words here, and more of them.
"""
LENGTH = 11


@pytest.fixture
def asked(tmp_path) -> Asked:
    path = tmp_path / "held_out.txt"
    path.write_text(TEXT, encoding="utf-8")
    return Asked(text=path, seq_len=LENGTH, batch_tokens=40)


def stream_of(tokenizer, asked):
    return read_stream(tokenizer, documents_of(asked)(), words=True)


def naive_nats(model, stream, part: str) -> np.ndarray:
    """What is paid for every token of a stream, each predicted from a row of its own; NaN of none."""
    found = np.full(stream.num_tokens, np.nan)
    for start, stop in zip(stream.documents[:-1], stream.documents[1:], strict=True):
        ids = stream.tokens[start:stop].tolist()
        for place in range(len(ids)):
            source = place - 1 if part != "backward" else place + 1
            if not 0 <= source < len(ids):
                continue
            block = (start + source) // LENGTH * LENGTH - start  # where the block of the state begins
            if part == "backward":
                row, at = ids[source : block + LENGTH], 0
            else:
                row = ids[max(block, 0) : source + 1]
                at = len(row) - 1
            found[start + place] = -float(log_probabilities(model, row, at, part)[ids[place]])
    return found


@pytest.mark.parametrize(
    ("family", "objective"), [("gpt", "clm"), ("elmo", "clm"), ("elmo", "bilm"), ("gpt", "bilm")]
)
def test_every_byte_is_paid_for_once_as_a_loop_over_tokens_says(family, objective, tokenizer, asked):
    model = language_model(family, objective, tokenizer, sharpness=3.0)
    stream = stream_of(tokenizer, asked)
    num_bytes = len(TEXT.strip().replace("\n\n", "").encode())
    found = bits_per_byte(model, asked)
    directions = {"clm": ["clm"], "bilm": ["forward", "backward"]}[objective]
    paid = {part: naive_nats(model, stream, part) for part in directions}
    for part, nats in paid.items():
        assert found.parts[part] == pytest.approx(np.nansum(nats) / math.log(2) / num_bytes, rel=1e-5)
        # one special token of every document is given, all else is asked for
        assert np.isnan(nats).sum() == len(stream.documents) - 1
    mean = sum(np.nansum(nats) for nats in paid.values()) / len(directions)
    assert found.figure == pytest.approx(mean / math.log(2) / num_bytes, rel=1e-5)
    assert found.parts["bytes"] == sum(item["bytes"] for item in found.items) == num_bytes
    assert found.parts["tokens"] == sum(item["tokens"] for item in found.items)
    assert [item["id"] for item in found.items] == list(range(-(-stream.num_tokens // LENGTH)))
    for item in found.items:
        block = slice(item["id"] * LENGTH, (item["id"] + 1) * LENGTH)
        want = sum(np.nansum(nats[block]) for nats in paid.values()) / len(directions)
        assert item["nats"] == pytest.approx(want, rel=1e-4, abs=1e-4)
    assert (found.unit, found.higher_is_better) == ("bits a byte", False)
    assert found.kind == {"clm": "log-likelihood", "bilm": "mean of two directions"}[objective]


@pytest.mark.parametrize("batch_tokens", [1, 8192])
def test_neither_batch_nor_limit_changes_a_block(batch_tokens, tokenizer, asked):
    model = language_model("gpt", "clm", tokenizer)
    whole = bits_per_byte(model, asked)
    other = bits_per_byte(model, Asked(text=asked.text, seq_len=LENGTH, batch_tokens=batch_tokens))
    assert other.figure == pytest.approx(whole.figure, rel=1e-5)
    assert other.items_hash == whole.items_hash
    some = bits_per_byte(model, Asked(text=asked.text, seq_len=LENGTH, limit=3))
    assert [item["id"] for item in some.items] == [0, 1, 2]
    for item, same in zip(some.items, whole.items, strict=False):
        assert item == pytest.approx(same, rel=1e-4)
    assert some.items_hash != whole.items_hash


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    train = write_text(folder / "train.txt", made_documents(30))
    valid = write_text(
        folder / "valid.txt", [*made_documents(9, seed=5), "猫坐在垫子上。垫子。\nNaïve cats 🙂."]
    )
    data = DataConfig(source="text", train=str(train), valid=str(valid))
    return prepare(data, TokenizerConfig(vocab_size=300), folder / "cache")


@pytest.mark.parametrize(("family", "objective"), [("gpt", "clm"), ("elmo", "bilm")])
def test_within_blocks_it_is_the_figure_of_trainings_own_validation(family, objective, store):
    model = language_model(family, objective, store.tokenizer, sharpness=3.0)
    module, part = model.engine.module, store.parts["valid"]
    module.objective.token_bytes = torch.from_numpy(store.tokenizer.id_bytes())
    view = StreamView(part, store.tokenizer.special, 32)
    module._start_scores()
    rows = np.arange(len(view))
    with torch.no_grad():
        module._score(view.batch(rows, rows, rows))
    metrics = module.objective.metrics(module._scores)
    asked = Asked(validation=lambda: sentences_of(store), seq_len=32)
    found = bits_per_byte(model, asked)
    for name, value in found.parts["within_blocks"].items():
        key = "bits_per_byte" if name == "clm" else f"{name}_bits_per_byte"
        assert value == pytest.approx(metrics[key], rel=1e-5)
        # a block's first tokens are one in 32, and not more surprising
        assert found.parts[name] == pytest.approx(value, rel=0.02)
    assert found.parts["bytes"] == store.text_bytes["valid"]


def test_the_stream_of_a_text_is_that_of_its_prepared_corpus(store):
    part = store.parts["valid"]
    for words in (False, True):
        stream = read_stream(store.tokenizer, sentences_of(store), words=words)
        assert stream.tokens.tolist() == part.tokens.tolist()
        assert stream.documents.tolist() == part.documents.tolist()
        special = store.tokenizer.special
        assert stream.special.tolist() == [token in (special.cls, special.sep) for token in part.tokens]


# ---------------------------------------------------------------------------------- masked models


def naive_masked(model, stream, *, words: bool) -> np.ndarray:
    """What is paid for each token of a stream, its block run anew with that token (and its word) masked."""
    special = model.engine.special
    view = StreamView(stream, special, LENGTH)  # type: ignore[arg-type]
    found = np.zeros(stream.num_tokens)
    for place in np.flatnonzero(~stream.special):
        row, column = divmod(int(place), LENGTH)
        batch = view.batch(np.array([row]), np.array([0]), np.array([0]))
        tokens = batch.tokens.clone()
        last = min(int(stream.ends[place]), (row + 1) * LENGTH - 1) % LENGTH if words else column
        tokens[0, column : last + 1] = special.mask
        with torch.no_grad():
            hidden = model.engine.backbone(Batch(tokens, batch.documents, batch.positions, batch.samples))
            states = model.engine.objective.stream(hidden, "mlm")[0, column]
            logits = model.engine.objective.head.logits(states[None])[0]
        found[place] = -float(logits.log_softmax(-1)[stream.tokens[place]])
    return found


@pytest.mark.parametrize(
    ("family", "objective"), [("bert", "mlm"), ("bert_2018", "mlm_nsp"), ("elmo", "mlm")]
)
def test_a_masked_model_pays_what_a_loop_over_tokens_says(family, objective, tokenizer, asked):
    model = language_model(family, objective, tokenizer, sharpness=3.0)
    stream = stream_of(tokenizer, asked)
    found = pseudo_likelihood(model, asked)
    num_bytes = found.parts["bytes"]
    alone, within = (naive_masked(model, stream, words=words) for words in (False, True))
    assert within.sum() != pytest.approx(alone.sum(), rel=1e-6)
    assert found.parts["pseudo_log_likelihood"] == pytest.approx(
        alone.sum() / math.log(2) / num_bytes, rel=1e-5
    )
    assert found.parts["within_word"] == pytest.approx(within.sum() / math.log(2) / num_bytes, rel=1e-5)
    assert found.figure == found.parts["within_word"]
    for item in found.items:
        block = slice(item["id"] * LENGTH, (item["id"] + 1) * LENGTH)
        assert item["nats"] == pytest.approx(within[block].sum(), rel=1e-4)
        assert item["pseudo_log_likelihood"] == pytest.approx(alone[block].sum(), rel=1e-4)
    assert found.kind == "pseudo-log-likelihood"
    again = pseudo_likelihood(model, Asked(text=asked.text, seq_len=LENGTH, batch_tokens=5000))
    assert again.figure == pytest.approx(found.figure, rel=1e-5)


def test_no_kind_is_given_the_figure_of_another(tokenizer, asked):
    masked, causal = language_model("bert", "mlm", tokenizer), language_model("gpt", "clm", tokenizer)
    for found, reason in (
        (bits_per_byte(masked, asked), "its own yardstick is pseudo_likelihood"),
        (pseudo_likelihood(causal, asked), "its own yardstick is bits_per_byte"),
        (pseudo_likelihood(language_model("elmo", "bilm", tokenizer), asked), "bits_per_byte"),
    ):
        assert (found.figure, found.items, found.parts) == (None, [], {})
        assert reason in found.reason


@pytest.mark.parametrize("name", ["wordpiece", "word", "char"])
def test_a_tokenizer_that_loses_text_gives_no_figure_but_a_reason(name, asked):
    own = {"wordpiece": {"vocab_size": 75}, "word": {"min_count": 1, "vocab_size": 90},
           "char": {"min_count": 1, "vocab_size": 90}}[name]  # fmt: skip
    config = TokenizerConfig(name=name, **own)
    lossy = train_tokenizer(config, [TEXT * 9])
    for family, objective, take in (("gpt", "clm", bits_per_byte), ("bert", "mlm", pseudo_likelihood)):
        found = take(language_model(family, objective, lossy), asked)
        assert found.figure is None
        assert "does not give the text back" in found.reason


def test_a_text_that_is_not_given_back_is_named(tokenizer, asked, monkeypatch):
    whole = type(tokenizer).decode
    monkeypatch.setattr(type(tokenizer), "decode", lambda self, ids: whole(self, ids).replace("Two", "2"))
    found = bits_per_byte(language_model("gpt", "clm", tokenizer), asked)
    assert found.figure is None
    assert "document 3, which begins 'One.'" in found.reason


def test_without_a_text_it_says_what_to_give(tokenizer, tmp_path):
    model = language_model("gpt", "clm", tokenizer)
    with pytest.raises(LmzooError, match="give text=FILE"):
        bits_per_byte(model, Asked())
    with pytest.raises(LmzooError, match=r"text=.*none\.txt does not exist"):
        bits_per_byte(model, Asked(text=tmp_path / "none.txt"))
    (tmp_path / "bad.txt").write_bytes(b"ok\n\xff\n")
    with pytest.raises(LmzooError, match=r"bad\.txt:2 is not UTF-8"):
        bits_per_byte(model, Asked(text=tmp_path / "bad.txt"))


# ---------------------------------------------------------------------------------- how much, and words


def test_of_a_long_text_the_beginnings_of_documents_are_taken():
    documents = [[f"{n:03} sentence {i}. " for i in range(20)] for n in range(100)]
    size = sum(len(s) for d in documents for s in d)
    assert bounded(documents, size) is documents
    some = bounded(documents, 3200)
    assert len(some) == 16
    assert sum(len(s) for d in some for s in d) <= 3200
    assert all(200 - 17 < sum(map(len, document)) <= 200 for document in some)
    assert (some[0][0], some[-1][0]) == ("000 sentence 0. ", "099 sentence 0. ")
    assert bounded([["猫" * 1000]], 100) == [["猫" * 33]]  # 3 bytes each


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Don't stop—now, 3rd l’eau_de", ["Don't", "stop", "now", "3rd", "l’eau", "de"]),
        ("猫坐在abc上。", ["猫", "坐", "在", "abc", "上"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("'quoted' x'", ["quoted", "x"]),
        (" 🙂 … ", []),
        ("", []),
    ],
)
def test_words_are_found_in_any_script(text, words):
    assert [text[start:end] for start, end in word_spans(text)] == words


def test_thai_is_cut_between_characters_but_not_before_marks():
    spans = word_spans("กินข้าว")
    assert "".join("กินข้าว"[a:b] for a, b in spans) == "กินข้าว"
    assert len(spans) == 5  # a vowel sign or a tone mark stays with its letter


@pytest.mark.parametrize("name", ["bpe", "wordpiece", "word", "char"])
def test_the_tokens_of_a_word_are_found_whatever_the_tokenizer(name):
    text = "unseen words, 猫🙂 don't"
    settings = {
        "bpe": {},
        "wordpiece": {"lowercase": True},
        "word": {"min_count": 1},
        "char": {"min_count": 1},
    }
    size = {"bpe": 270, "wordpiece": 42, "word": 60, "char": 60}[name]
    made = train_tokenizer(
        TokenizerConfig(name=name, vocab_size=size, **settings[name]),
        ["unseen words, 猫🙂 don't seen in word " * 5],
    )
    ids, places = made.encode_with_offsets([text])[0]
    ends = word_ends(text, places)
    assert len(ends) == len(ids)
    first: dict[int, int] = {}
    for (start, _), last in zip(places, ends, strict=True):
        first.setdefault(last, start)
    pieces = [text[start : places[last][1]].strip() for last, start in first.items()]
    assert [piece for piece in pieces if piece] == ["unseen", "words", ",", "猫", "🙂", "don't"]
    if name in ("bpe", "char"):
        assert len(set(ends)) < len(ends)
