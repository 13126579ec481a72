"""The n-gram control beside a figure: of the same items, by the run's own training text, or the reason."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from corpora import made_documents, write_text
from inference_models import language_model
from lmzoo.data.config import DataConfig
from lmzoo.data.prepare import prepare
from lmzoo.errors import LmzooError
from lmzoo.text.config import TokenizerConfig
from lmzoo.yardsticks.base import Asked, Measured
from lmzoo.yardsticks.blocks import bits_per_byte
from lmzoo.yardsticks.counted import counted_of
from lmzoo.yardsticks.minimal_pairs import minimal_pairs
from lmzoo.yardsticks.ngram import NgramModel
from lmzoo.yardsticks.run import line
from lmzoo.yardsticks.streams import documents_of, read_stream
from test_minimal_pairs import rows_of, write_pairs

KINDS = [("elmo", "bilm"), ("gpt", "clm"), ("bert", "mlm"), ("bert", "mlm_nsp")]
REPEATED = ["Dogs bark. Cats sleep."] * 6 + ["Fish swim."]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("counted")
    train = write_text(folder / "train.txt", [*made_documents(30), *REPEATED])
    valid = write_text(folder / "valid.txt", made_documents(6, seed=5))
    data = DataConfig(source="text", train=str(train), valid=str(valid))
    return prepare(data, TokenizerConfig(vocab_size=320), folder / "cache")


def asked_of(store, **given) -> Asked:
    return Asked(counted=lambda: counted_of(store), batch_tokens=300, **given)


@pytest.mark.parametrize("family", ["gpt", "elmo"])
def test_bits_of_the_same_bytes_as_an_ngram_model_counted_by_hand(family, store, tmp_path):
    path = write_text(tmp_path / "held_out.txt", made_documents(5, seed=9))
    asked = asked_of(store, text=path, seq_len=13)
    model = language_model(family, {"gpt": "clm", "elmo": "bilm"}[family], store.tokenizer)
    measured = bits_per_byte(model, asked)
    part = store.parts["train"]
    by_hand = NgramModel.train(np.array(part.tokens), store.tokenizer.vocab_size, starts=part.documents[:-1])
    stream = read_stream(store.tokenizer, documents_of(asked)(), words=False)
    nats = sum(
        -by_hand.scores([stream.tokens[start:stop].tolist()])[0]
        for start, stop in zip(stream.documents[:-1], stream.documents[1:], strict=True)
    )
    ngram = measured.parts["ngram"]
    assert ngram["figure"] == pytest.approx(nats / math.log(2) / measured.parts["bytes"])
    assert (ngram["order"], ngram["tokens"]) == (5, part.num_tokens)
    assert sum(item["ngram"] for item in measured.items) == pytest.approx(nats)
    # what an item says belongs to its block: the first block alone, by the tokens that stand in it
    first = -by_hand.log_probabilities(stream.tokens, starts=stream.documents[:-1])[:13].sum()
    assert measured.items[0]["ngram"] == pytest.approx(first)
    assert f"(5-gram of its text: {ngram['figure']:.4f})" in line("bits_per_byte", measured, 1.0)


@pytest.mark.parametrize(("family", "objective"), KINDS)
def test_every_kind_of_model_has_the_control_beside_its_minimal_pairs(family, objective, store, tmp_path):
    rows = rows_of()
    for good, bad, row in zip(
        ("Dogs bark.", "Cats sleep."), ("Dogs sleep.", "Cats bark."), rows, strict=False
    ):
        row |= {"sentence_good": good, "sentence_bad": bad, "UID": "who_does_what"}
        row.pop("pairID", None)
    asked = asked_of(store, pairs=write_pairs(tmp_path / "pairs.jsonl", rows))
    measured = minimal_pairs(language_model(family, objective, store.tokenizer), asked)
    counted = counted_of(store)
    special = store.tokenizer.special
    right = []
    for row in rows:
        texts = (row["sentence_good"], row["sentence_bad"])
        ids = [[special.cls, *store.tokenizer.encode_batch([text])[0], special.sep] for text in texts]
        good, bad = counted.model.scores(ids)
        right.append(bool(good > bad))
    assert [item["ngram"] for item in measured.items] == right
    assert right[:2] == [True, True]  # it has seen these sentences, six times
    paradigms: dict[str, list[bool]] = {}
    for item, each in zip(measured.items, right, strict=True):
        paradigms.setdefault(item["paradigm"], []).append(each)
    expected = 100 * np.mean([np.mean(each) for each in paradigms.values()])
    assert measured.parts["ngram"]["figure"] == pytest.approx(expected)
    assert set(measured.parts["ngram"]["phenomena"]) == set(measured.parts["phenomena"])


def test_the_figure_itself_does_not_depend_on_the_control(store, tmp_path):
    asked = asked_of(store, pairs=write_pairs(tmp_path / "pairs.jsonl", rows_of()))
    model = language_model("gpt", "clm", store.tokenizer)
    alone = minimal_pairs(model, dataclasses.replace(asked, counted=None))
    beside = minimal_pairs(model, asked)
    assert alone.figure == beside.figure
    assert alone.items_hash == beside.items_hash
    assert alone.parts["ngram"] == {"figure": None, "reason": "there is no training text beside this model"}


def test_no_control_is_no_refusal_but_a_reason(store, tokenizer, tmp_path):
    path = write_text(tmp_path / "held_out.txt", made_documents(2))

    def refuse():
        raise LmzooError("the run's text cannot be had (train.txt is gone)")

    measured = bits_per_byte(language_model("gpt", "clm", tokenizer), Asked(text=path, counted=refuse))
    assert measured.parts["ngram"]["reason"] == "the run's text cannot be had (train.txt is gone)"
    assert "ngram" not in measured.items[0]
    other = bits_per_byte(language_model("gpt", "clm", tokenizer), asked_of(store, text=path))
    assert other.parts["ngram"]["reason"] == "the training text was cut by another tokenizer"
    assert "gram of" not in line("bits_per_byte", other, 1.0)
    assert isinstance(other, Measured)
