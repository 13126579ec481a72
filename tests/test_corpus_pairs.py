"""Damaged twins of held-out sentences: how they are made, and that a model is asked for both."""

from __future__ import annotations

from collections import Counter

import pytest

from corpora import made_documents
from inference_models import language_model
from lmzoo.errors import LmzooError
from lmzoo.text.config import TokenizerConfig
from lmzoo.text.tokenizer import train_tokenizer
from lmzoo.yardsticks.base import Asked
from lmzoo.yardsticks.corpus_pairs import corpus_pairs, made_pairs
from lmzoo.yardsticks.likelihoods import sentence_scores, word_spans

ENGLISH = [document.split("\n") for document in made_documents(20)]
CHINESE = [
    ["猫坐在垫子上面。", "狗也坐在门边上。", "天上有一只大鸟在飞。"],
    ["我们都很喜欢这里的猫。", "你们也许不太喜欢。"],
]


def words_of(text: str) -> list[str]:
    return [text[start:end] for start, end in word_spans(text)]


@pytest.mark.parametrize("documents", [ENGLISH, CHINESE], ids=["English", "Chinese"])
def test_twins_are_what_they_are_said_to_be(documents):
    counts = Counter(word for document in documents for text in document for word in words_of(text))
    held = {text for document in documents for text in document}
    found = made_pairs(documents, seed=0)
    assert len(found) >= 3
    for twins in found:
        assert twins.sentence in held
        words, swapped, replaced = (words_of(t) for t in (twins.sentence, twins.swap, twins.replace))
        places = [i for i, (a, b) in enumerate(zip(words, swapped, strict=True)) if a != b]
        assert len(places) == 2
        assert places[1] == places[0] + 1
        assert places[0] > 0  # the first word stays
        assert [words[places[0]], words[places[1]]] == [swapped[places[1]], swapped[places[0]]]
        (place,) = [i for i, (a, b) in enumerate(zip(words, replaced, strict=True)) if a != b]
        assert place > 0
        assert (counts[words[place]], counts[replaced[place]]) == twins.counts
        assert words[place].istitle() == replaced[place].istitle()
        # all else is as it was: the marks between words, the stop at the end
        assert sorted(twins.swap) == sorted(twins.sentence)
        assert twins.replace[-1] == twins.sentence[-1]


def test_what_replaces_a_word_is_as_frequent_or_the_nearest():
    documents = [
        ["A one two three four five."] * 1 + ["B one two three four six."] + ["C one two three seven eight."]
    ]
    for twins in (t for seed in range(20) for t in made_pairs(documents, seed)):
        before, after = twins.counts
        # once: five to eight; twice: four alone, whose nearest are thrice; thrice: one two three
        assert (before, after) in {(1, 1), (3, 3), (2, 3), (2, 1)}
        assert before != 2 or after == 3


def test_the_same_text_and_seed_give_the_same_pairs():
    first = made_pairs(ENGLISH, seed=0)
    assert made_pairs([list(document) for document in ENGLISH], seed=0) == first
    other = made_pairs(ENGLISH, seed=1)
    assert [t.swap for t in other] != [t.swap for t in first]
    assert [t.replace for t in other] != [t.replace for t in first]
    some = made_pairs(ENGLISH, seed=0, most=10)
    assert len(some) == 10
    assert set(some) < set(first)
    # drawn from the whole text
    assert {int(t.id) for t in some} != set(range(10))


def test_punctuation_parts_words_that_could_change_places():
    documents = [["One, two, three, four five."], ["Ab, cd, ef, gh, ij."]]
    for seed in range(5):
        found = made_pairs(documents, seed)
        assert [t.sentence for t in found] == ["One, two, three, four five."]
        assert found[0].swap == "One, two, three, five four."


@pytest.mark.parametrize(("family", "objective"), [("gpt", "clm"), ("elmo", "bilm"), ("bert", "mlm")])
def test_they_are_scored_as_minimal_pairs(family, objective, tokenizer):
    model = language_model(family, objective, tokenizer, sharpness=1.0 if family == "elmo" else 3.0)
    asked = Asked(validation=lambda: ENGLISH, limit=6)
    found = corpus_pairs(model, asked)
    assert [item["group"] for item in found.items] == ["swap", "replace"] * 6
    kwargs = {"ending": True} if objective != "mlm" else {}
    for item in found.items:
        good, bad = model.score([item["sentence_good"], item["sentence_bad"]], **kwargs)
        assert (item["good"], item["bad"]) == pytest.approx((good, bad), abs=1e-4)
        assert item["correct"] == (good > bad)
    groups = {
        group: 100 * sum(item["correct"] for item in found.items if item["group"] == group) / 6
        for group in ("swap", "replace")
    }
    assert found.parts["groups"] == pytest.approx(groups)
    assert found.figure == pytest.approx(sum(groups.values()) / 2)
    assert len({item["id"] for item in found.items}) == 12
    assert found.parts["sentences"] == 6
    again = corpus_pairs(language_model("gpt", "clm", tokenizer), asked)
    assert again.items_hash == found.items_hash


def test_a_text_of_ones_own_is_taken_instead(tokenizer, tmp_path):
    model = language_model("gpt", "clm", tokenizer)
    path = tmp_path / "mine.txt"
    path.write_text("\n\n".join("\n".join(d) for d in ENGLISH), encoding="utf-8")
    mine = corpus_pairs(model, Asked(text=path, validation=lambda: CHINESE))
    assert mine.items_hash == corpus_pairs(model, Asked(validation=lambda: ENGLISH)).items_hash
    assert mine.settings["text"] == "mine.txt"


def test_a_text_that_gives_no_twins_has_no_figure(tokenizer):
    model = language_model("gpt", "clm", tokenizer)
    for documents in ([["Too short."]], [["!? … 🙂"]], [["a a a a a a a a"]], [["word " * 50]]):
        found = corpus_pairs(model, Asked(validation=lambda documents=documents: documents))
        assert (found.figure, found.items) == (None, [])
        assert "no sentence of 4 to 40 words" in found.reason
    with pytest.raises(LmzooError, match="give text=FILE"):
        corpus_pairs(model, Asked())


def test_a_sentence_is_told_of_once_however_many_twins_it_has(tmp_path):
    made = train_tokenizer(TokenizerConfig(name="wordpiece", vocab_size=22), ["the cat sat " * 9])
    model = language_model("bert_2018", "mlm", made)
    path = tmp_path / "text.txt"
    path.write_text("The 猫 sat on the mat.\nA 🙂 cat sat down here.\n", encoding="utf-8")
    measured = corpus_pairs(model, Asked(text=path))
    twins = made_pairs([["The 猫 sat on the mat.", "A 🙂 cat sat down here."]], 0)
    texts = [text for each in twins for text in (each.sentence, each.swap, each.replace)]
    unknown = sum(score.unknown for score in sentence_scores(model.engine, texts, batch_tokens=500))
    assert unknown > 0
    assert measured.parts["unknown_tokens"] == unknown
