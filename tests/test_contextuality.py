"""Self-similarity, intra-sentence similarity and anisotropy against loops, and on planted vectors."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest

from corpora import made_documents
from inference_models import language_model
from lmzoo.errors import LmzooError
from lmzoo.yardsticks import contextuality as module
from lmzoo.yardsticks.base import Asked
from lmzoo.yardsticks.contextuality import contextuality
from lmzoo.yardsticks.likelihoods import word_spans
from lmzoo.yardsticks.word_vectors import WordVectors

SENTENCES = [document.split("\n") for document in made_documents(12)]


def asked(**changes) -> Asked:
    return Asked(**{"validation": lambda: SENTENCES, "batch_tokens": 400, **changes})


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


@pytest.mark.parametrize(("family", "objective"), [("elmo", "bilm"), ("gpt", "clm"), ("bert", "mlm")])
def test_every_measure_as_loops_over_pairs_have_it(family, objective, tokenizer, monkeypatch):
    monkeypatch.setattr(module, "OCCURRENCES", 1000)  # all there are, so that a loop need not draw
    monkeypatch.setattr(module, "BASELINE", 10**6)
    model = language_model(family, objective, tokenizer, sharpness=2)
    measured = contextuality(model, asked())

    texts = [sentence for document in SENTENCES for sentence in document]
    texts = [text for text in dict.fromkeys(texts) if 3 <= len(word_spans(text)) <= 60]
    uses: dict[str, list] = {}
    intra, everything = [], []
    for text in texts:
        (embedded,) = model.embed([text], layer="all")
        vectors = []
        for start, end in word_spans(text):
            inside = [i for i, (a, b) in enumerate(embedded.offsets) if a < end and b > start]
            vectors.append(embedded.vectors[:, inside].mean(1))
        sentence = np.mean(vectors, axis=0)
        intra.append([np.mean([cosine(v[layer], sentence[layer]) for v in vectors]) for layer in range(3)])
        everything += vectors
        seen = set()
        for (start, end), vector in zip(word_spans(text), vectors, strict=True):
            if text[start:end] not in seen:  # contexts are different sentences
                seen.add(text[start:end])
                uses.setdefault(text[start:end], []).append(vector)
    frequent = {word: found for word, found in uses.items() if len(found) >= 5}
    assert {item["id"] for item in measured.items} == set(frequent)
    by_word = {
        word: [
            np.mean([cosine(a[layer], b[layer]) for a, b in itertools.combinations(found, 2)])
            for layer in range(3)
        ]
        for word, found in frequent.items()
    }
    for item in measured.items:
        assert item["occurrences"] == len(frequent[item["id"]])
        np.testing.assert_allclose(item["self_similarity_by_layer"], by_word[item["id"]], atol=1e-5)
    unit = np.stack(everything) / np.linalg.norm(np.stack(everything), axis=-1, keepdims=True)
    anisotropy = [
        float((unit[:, layer] @ unit[:, layer].T)[~np.eye(len(unit), dtype=bool)].mean())
        for layer in range(3)
    ]
    parts = measured.parts
    self_similarity = np.mean(list(by_word.values()), axis=0)
    np.testing.assert_allclose(parts["self_similarity_by_layer"], self_similarity, atol=1e-5)
    np.testing.assert_allclose(parts["anisotropy_by_layer"], anisotropy, atol=1e-5)
    np.testing.assert_allclose(parts["intra_sentence_similarity_by_layer"], np.mean(intra, axis=0), atol=1e-5)
    adjusted = parts["adjusted_intra_sentence_similarity_by_layer"]
    np.testing.assert_allclose(adjusted, np.mean(intra, axis=0) - anisotropy, atol=1e-5)
    assert measured.figure == pytest.approx(self_similarity[-1] - anisotropy[-1], abs=1e-5)
    assert measured.figure == parts["adjusted_self_similarity_by_layer"][-1]
    assert (measured.unit, measured.higher_is_better) == ("cosine", False)
    json.dumps([measured.parts, measured.settings, measured.items], allow_nan=False)


def test_a_static_layer_has_self_similarity_one_but_where_a_text_begins(tokenizer):
    """The controlled line adds no positions to its embedding; a word without the blank before it is spelt
    otherwise, and a sentence's first word has a capital here, so that no other is like it."""
    measured = contextuality(language_model("gpt", "clm", tokenizer), asked())
    inside = [item for item in measured.items if item["id"].islower()]
    assert len(inside) > 5
    for item in inside:
        assert item["self_similarity_by_layer"][0] == pytest.approx(1, abs=1e-6)
        assert item["self_similarity_by_layer"][2] < 0.999


def planted(vector):
    """A stream in which word number j of text i is ``vector(text, word, i, j)``, (L, D)."""

    def stream(engine, wanted, *, most, batch_tokens):
        for i, (text, spans) in enumerate(wanted):
            found = np.stack([vector(text, text[a:b], i, j) for j, (a, b) in enumerate(spans)])
            yes = np.ones(len(spans), dtype=bool)
            yield WordVectors(found.astype(np.float32), yes, ~yes, False)

    return stream


def test_planted_vectors_give_what_they_must(tokenizer, monkeypatch):
    words = sorted({text[a:b] for document in SENTENCES for text in document for a, b in word_spans(text)})

    def vector(text: str, word: str, i: int, j: int) -> np.ndarray:
        one = np.zeros((4, 1000))
        one[0, 0] = 1  # all alike
        one[1, words.index(word)] = 3  # the word alone
        one[2, 100 + i] = 2  # the sentence alone
        one[3, 100 + (i * 60 + j) % 900] = -1  # nothing is like another
        return one

    monkeypatch.setattr(module, "stream_word_vectors", planted(vector))
    monkeypatch.setattr(module, "BASELINE", 10**6)
    parts = contextuality(language_model("gpt", "clm", tokenizer), asked()).parts
    np.testing.assert_allclose(parts["self_similarity_by_layer"][:3], [1, 1, 0], atol=1e-12)
    assert parts["anisotropy_by_layer"][0] == pytest.approx(1)
    assert parts["adjusted_self_similarity_by_layer"][0] == pytest.approx(0, abs=1e-12)
    assert parts["intra_sentence_similarity_by_layer"][0] == pytest.approx(1)
    assert parts["intra_sentence_similarity_by_layer"][2] == pytest.approx(1)
    assert (
        parts["anisotropy_by_layer"][1] > 2 * parts["anisotropy_by_layer"][2] > 0
    )  # fewer words than sentences
    assert abs(parts["self_similarity_by_layer"][3]) < 0.05


def test_the_same_words_for_every_model_and_the_same_figures_again(tokenizer):
    gpt, bert = language_model("gpt", "clm", tokenizer), language_model("bert", "mlm", tokenizer)
    first, again, other = (
        contextuality(gpt, asked()),
        contextuality(gpt, asked()),
        contextuality(bert, asked()),
    )
    assert first == again
    assert first.items_hash == other.items_hash
    assert [item["id"] for item in first.items] == [item["id"] for item in other.items]
    batched = contextuality(gpt, asked(batch_tokens=1))
    np.testing.assert_allclose(batched.figure, first.figure, atol=1e-5)


def test_draws_are_bounded_and_hang_on_the_seed(tokenizer, monkeypatch):
    for name, value in (("SENTENCES", 40), ("WORDS", 6), ("OCCURRENCES", 5), ("BASELINE", 30)):
        monkeypatch.setattr(module, name, value)
    model = language_model("gpt", "clm", tokenizer)
    first, other = contextuality(model, asked()), contextuality(model, asked(seed=1))
    assert first.settings["sentences"] == 40
    assert len(first.items) == 6
    assert {item["occurrences"] for item in first.items} == {5}
    assert first.settings["occurrences_for_anisotropy"] == 30
    assert first.items_hash != other.items_hash
    assert len(contextuality(model, asked(limit=2)).items) == 2


def test_a_file_is_read_paragraph_by_paragraph(tokenizer, tmp_path):
    path = tmp_path / "held_out.txt"
    path.write_text("\n\n".join(" ".join(document) for document in SENTENCES) + "\n", encoding="utf-8")
    model = language_model("gpt", "clm", tokenizer)
    from_file, given = contextuality(model, Asked(text=path)), contextuality(model, asked(batch_tokens=8192))
    assert from_file.settings["source"] == "held_out.txt"
    assert from_file.items_hash == given.items_hash
    assert from_file.figure == pytest.approx(given.figure, abs=1e-6)


def test_too_short_a_text_has_no_figure_and_none_at_all_is_refused(tokenizer):
    model = language_model("gpt", "clm", tokenizer)
    measured = contextuality(model, Asked(validation=lambda: [["The cat sat on the mat."] * 10]))
    assert measured.figure is None
    assert "stands in 5 of its sentences" in (measured.reason or "")
    with pytest.raises(LmzooError, match="text=FILE"):
        contextuality(model, Asked())


def test_chinese_words_are_characters(tokenizer):
    sentences = [f"猫坐在{place}子上{end}" for place in "垫桌椅床房" for end in "。！？"]
    measured = contextuality(language_model("bert", "mlm", tokenizer), Asked(validation=lambda: [sentences]))
    assert {"猫", "坐", "在", "子", "上"} <= {item["id"] for item in measured.items}
    assert measured.figure is not None
