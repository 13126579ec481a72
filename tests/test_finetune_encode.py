"""Items as rows of ids: where words, segments, answers and windows lie in them, and what is counted."""

from __future__ import annotations

import numpy as np
import pytest

from lmzoo.errors import LmzooError
from lmzoo.tasks import encode
from lmzoo.tasks.encode import row_limit
from lmzoo.tasks.examples import Labelled, Question, Tagged
from lmzoo.tasks.features import batch_of_rows
from lmzoo.tasks.windows import best_windows, pieces_of_words, windows, word_places
from lmzoo.text.config import TokenizerConfig
from lmzoo.text.tokenizer import train_tokenizer
from task_data import framed, subject


@pytest.fixture(scope="module")
def wordpiece():
    text = "The cat sat on the mat, and the dog sat on the cat. 猫坐在垫子上。" * 20
    return train_tokenizer(TokenizerConfig(name="wordpiece", vocab_size=45, lowercase=True), [text])


@pytest.mark.parametrize(
    ("text", "offsets", "words", "expected"),
    [
        ("a cat", [(0, 1), (1, 5)], [(0, 1), (2, 5)], [(0, 1), (1, 2)]),
        ("don't", [(0, 3), (3, 5)], [(0, 2), (2, 5)], [(0, 1), (1, 2)]),
        ("cannot go", [(0, 6), (6, 9)], [(0, 3), (3, 6), (7, 9)], [(0, 1), (0, 1), (1, 2)]),
        ("猫坐", [(0, 1), (0, 1), (0, 1), (1, 2)], [(0, 1), (1, 2)], [(0, 3), (3, 4)]),
        ("a  b", [(0, 1), (1, 2), (2, 4)], [(0, 1), (3, 4)], [(0, 1), (2, 3)]),
        ("a x b", [(0, 1), (4, 5)], [(0, 1), (2, 3), (4, 5)], [(0, 1), (-1, -1), (1, 2)]),
        ("unhappy", [(0, 2), (2, 4), (4, 7)], [(0, 7)], [(0, 3)]),
        ("", [], [], []),
    ],
)
def test_words_are_found_in_their_tokens(text, offsets, words, expected):
    found = pieces_of_words(text, offsets, words)
    assert [tuple(entry) for entry in found.tolist()] == expected


def test_a_text_is_taken_as_written_only_where_its_words_stand_in_it():
    words = ("do", "n't", "go")
    tags = ("A",) * 3
    assert word_places(Tagged("1", words, tags, "don't go"), " ") == ("don't go", [(0, 2), (2, 5), (6, 8)])
    for text in (None, "do not go", "don't, go", "don't"):
        assert word_places(Tagged("1", words, tags, text), " ") == ("do n't go", [(0, 2), (3, 6), (7, 9)])
    assert word_places(Tagged("1", ("猫", "坐"), ("A", "B")), "") == ("猫坐", [(0, 1), (1, 2)])


@pytest.mark.parametrize(
    ("count", "room", "stride"), [(0, 5, None), (5, 5, None), (6, 5, None), (23, 7, 3), (50, 8, 99)]
)
def test_windows_cover_a_text_and_each_token_has_one_best(count, room, stride):
    bounds = windows(count, room, stride)
    assert all(end - begin == min(room, count) for begin, end in bounds)
    assert {token for bound in bounds for token in range(*bound)} == set(range(count))
    best = best_windows(bounds, np.arange(count))
    for token, chosen in enumerate(best):
        margins = [min(token - begin, end - 1 - token) for begin, end in bounds]
        assert margins[chosen] == max(margins) >= 0


@pytest.mark.parametrize(("family", "objective", "closing"), [("bert", "mlm", True), ("gpt", "clm", False)])
def test_a_word_is_at_its_first_token_in_windows_too(tokenizer, family, objective, closing):
    model = subject(family, objective, tokenizer)
    words = ("the", "cat", "sat", "on", "the", "mat", "and", "the", "dog", "sat", "on", "it")
    items = [Tagged("1", words, words), Tagged("2", (), ()), Tagged("3", words[:2], words[:2])]
    encoded = tokenizer.encode_with_offsets([" ".join(words)])[0]
    first = pieces_of_words(" ".join(words), encoded[1], word_places(items[0], " ")[1])[:, 0]
    for limit in (64, 12, 9):
        rows = framed(model, items, limit, closing=closing)
        assert all(len(row) <= limit for row in rows.rows)
        assert all(row[0] == tokenizer.special.cls for row in rows.rows)
        assert all((row[-1] == tokenizer.special.sep) == closing for row in rows.rows)
        tokens = [rows.rows[row][begin] for row, begin, _ in rows.words[0].tolist()]
        assert tokens == [encoded[0][place] for place in first]
        assert all(begin < end for _, begin, end in rows.words[0].tolist())
        assert rows.words[1].shape == (0, 3)
        assert rows.first_row == sorted(rows.first_row)
        assert len(rows.first_row) == 4
        assert bool(rows.counts["windows"]) == (limit < 64) == bool(rows.counts["texts_in_windows"])


def test_words_without_a_subword_and_words_in_one_token_are_counted(wordpiece, tokenizer):
    words = ("the", "\u200b", "cat")
    rows = framed(subject("bert", "mlm", wordpiece), [Tagged("1", words, words)])
    assert rows.words[0][:, 0].tolist() == [0, -1, 0]
    assert rows.counts["words_without_subword"] == 1
    assert rows.counts["words_sharing_subword"] == 0
    # " the" is one token here
    rows = framed(subject("bert", "mlm", tokenizer), [Tagged("1", ("a", "th", "e"), ("X",) * 3, "a the")])
    assert rows.counts["words_sharing_subword"] == 1
    assert rows.words[0][1].tolist() == rows.words[0][2].tolist()


def test_a_long_sentence_is_cut_and_counted(tokenizer):
    model = subject("bert", "mlm", tokenizer)
    long, short = "the cat sat on the mat and the dog", "the cat"
    rows = framed(
        model, [Labelled("1", (long,), "a"), Labelled("2", (short,), "b"), Labelled("3", ("",), "b")], 8
    )
    whole = tokenizer.encode_batch([long])[0]
    special = tokenizer.special
    assert rows.rows[0] == [special.cls, *whole[:6], special.sep]
    assert rows.rows[2] == [special.cls, special.sep]
    assert rows.counts["texts_cut"] == 1
    assert rows.second == [len(row) for row in rows.rows]


def test_a_pair_is_one_row_with_segments_or_two_rows(tokenizer):
    model = subject("bert", "mlm_nsp", tokenizer)
    special = tokenizer.special
    items = [
        Labelled("1", ("the cat", "a dog sat"), "a"),
        Labelled("2", ("the cat", "the cat sat on the mat and the dog sat on it"), "b"),
    ]
    ids = tokenizer.encode_batch([text for item in items for text in item.texts])
    rows = framed(model, items, 14, together=True)
    assert rows.rows[0] == [special.cls, *ids[0], special.sep, *ids[1], special.sep]
    assert rows.second[0] == len(ids[0]) + 2
    room = 14 - 3 - len(ids[2])  # the longer one is cut
    assert rows.rows[1] == [special.cls, *ids[2], special.sep, *ids[3][:room], special.sep]
    assert rows.counts["texts_cut"] == 1
    batch = batch_of_rows(model.engine, rows, [0, 1])
    for row, second in enumerate(rows.second):
        expected = [int(second <= place < len(rows.rows[row])) for place in range(batch.tokens.shape[1])]
        assert batch.segments[row].tolist() == expected
    assert batch_of_rows(subject("bert", "mlm", tokenizer).engine, rows, [0]).segments is None
    apart = framed(model, items, 64)
    assert apart.rows == [[special.cls, *entry, special.sep] for entry in ids]
    assert apart.first_row == [0, 2, 4]


def test_both_texts_of_a_pair_are_cut_evenly(tokenizer):
    text = "the cat sat on the mat and the dog sat on it"
    rows = framed(subject("bert", "mlm", tokenizer), [Labelled("1", (text, text), "a")], 15, together=True)
    assert (rows.second[0], len(rows.rows[0])) == (8, 15)
    assert rows.counts["texts_cut"] == 2


CONTEXT = "the cat sat on the mat and the dog sat on the cat and it sat on the mat"


def test_answers_stand_where_a_window_says(tokenizer):
    model = subject("bert", "mlm", tokenizer)
    start = CONTEXT.index("dog sat")
    items = [
        Question("1", "the dog?", CONTEXT, (("not there", -1), ("dog sat", start))),
        Question("2", "the cat " * 40, CONTEXT, (("it", CONTEXT.index("it")),)),
        Question("3", "it?", CONTEXT, (("nowhere", -1),)),
        Question("4", "it?", "", ()),
    ]
    for limit in (128, 24):
        rows = framed(model, items, limit)
        assert all(len(row) <= limit for row in rows.rows)
        held = range(rows.first_row[0], rows.first_row[1])
        seen = np.zeros(len(CONTEXT))
        found = 0
        for row in held:
            window = rows.windows[row]
            for (begin, end), best in zip(window.places.tolist(), window.best, strict=True):
                seen[begin:end] += best
            first, last = window.answer
            if first:
                places = window.places[[first - window.begin, last - window.begin]]
                assert CONTEXT[places[0][0] : places[1][1]].strip() == "dog sat"
                found += 1
            else:
                assert (first, last) == (0, 0)
        assert found >= 1
        assert (found < len(held)) == (limit == 24)
        assert set(seen.tolist()) == {1.0}  # one token of one window for each character
        assert rows.windows[rows.first_row[2]].answer is None
        assert rows.counts["questions_without_a_place"] == 2
        assert rows.counts["questions_cut"] == 1
        assert len(rows.windows[-1].places) == 0


def test_words_outside_the_vocabulary_keep_their_characters_read_in_parts(monkeypatch):
    words = train_tokenizer(
        TokenizerConfig(name="word", vocab_size=20, min_count=1, unknown_classes=False), ["the cat sat on it"]
    )
    model = subject("elmo_2018", "bilm", words)
    texts = ["the zebra sat", "a yak", "the yak sat on a zebra"]
    items = [Labelled(text, (text,), "a") for text in texts]
    whole = framed(model, items)
    monkeypatch.setattr(encode, "BUCKET_TEXTS", 1)
    parts = framed(model, items)
    assert whole.unseen is not None
    assert len(parts.unseen) > len(whole.unseen)  # each part spells its own
    for one, other in ((whole, parts),):
        for row in range(3):
            left, right = batch_of_rows(model.engine, one, [row]), batch_of_rows(model.engine, other, [row])
            vectors = [
                model.engine.backbone.embedding(b.tokens, b.positions, None, b.unseen) for b in (left, right)
            ]
            assert np.array_equal(*(v.detach().numpy() for v in vectors))


def test_a_row_is_as_long_as_asked_or_as_trained_and_never_longer_than_positions(tokenizer):
    free = subject("bert", "mlm", tokenizer).engine
    assert row_limit(free, None, None, 32) == 32
    assert row_limit(free, None, 48, 32) == 48
    assert row_limit(free, 64, 48, 32) == 64
    assert row_limit(free, None, None, None) == 512
    bound = subject("bert", "mlm", tokenizer, positions="learned", max_positions=40).engine
    assert row_limit(bound, None, 48, 32) == 40
    with pytest.raises(LmzooError, match="max_length=64 is more than the 40 positions"):
        row_limit(bound, 64, None, 32)
    with pytest.raises(LmzooError, match="max_length=5 leaves no room"):
        framed(subject("bert", "mlm", tokenizer), [Labelled("1", ("a",), "a")], 5)
