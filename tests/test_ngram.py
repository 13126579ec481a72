"""Modified Kneser-Ney against its definition in dictionaries, and what any model of probabilities owes."""

from __future__ import annotations

import itertools
from collections import defaultdict

import numpy as np
import pytest

from corpora import make_part
from lmzoo.errors import LmzooError
from lmzoo.types import SpecialTokens
from lmzoo.yardsticks.ngram import NgramModel, train_on_part

CLS, SEP, V = 2, 3, 11


def made(count: int, seed: int, least: int = 0, most: int = 12) -> list[list[int]]:
    """Documents [CLS] … [SEP] whose tokens follow one another unevenly."""
    random = np.random.default_rng(seed)
    table = random.dirichlet(np.full(V - 5, 0.3), size=V)
    documents = []
    for _ in range(count):
        document = [CLS]
        for _ in range(random.integers(least, most)):
            document.append(5 + int(random.choice(V - 5, p=table[document[-1]])))
        documents.append([*document, SEP])
    return documents


def flat(documents: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    lengths = [len(document) for document in documents]
    return np.concatenate(documents), np.cumsum(lengths) - lengths


class Naive:
    """Chen and Goodman 1999, section 4.2, word for word, in dictionaries."""

    def __init__(self, documents: list[list[int]], order: int) -> None:
        occurrences: dict[tuple, int] = defaultdict(int)
        lefts: dict[tuple, set] = defaultdict(set)
        opening: dict[tuple, int] = defaultdict(int)
        for document in documents:
            for end in range(1, len(document)):
                for length in range(1, order + 1):
                    start = end - length + 1
                    if start < 0:
                        continue
                    gram = tuple(document[start : end + 1])
                    occurrences[gram] += 1
                    if start == 0:
                        opening[gram] += 1
                    else:
                        lefts[gram].add(document[start - 1])
        self.order = order
        self.counts: list[dict[tuple, int]] = [{}]
        for length in range(1, order + 1):
            grams = [gram for gram in occurrences if len(gram) == length]
            self.counts.append(
                {g: occurrences[g] if length == order else len(lefts[g]) + opening[g] for g in grams}
            )
        self.discounts = [()] + [self._discounts(list(counts.values())) for counts in self.counts[1:]]

    @staticmethod
    def _discounts(counts: list[int]) -> tuple:
        n = [0] + [counts.count(times) for times in (1, 2, 3, 4)]
        if 0 in n[1:]:
            return (0, 0.5, 1.0, 1.5)
        y = n[1] / (n[1] + 2 * n[2])
        found = tuple(i - (i + 1) * y * n[i + 1] / n[i] for i in (1, 2, 3))
        return (0, *found) if all(0 < d <= i for i, d in enumerate(found, 1)) else (0, 0.5, 1.0, 1.5)

    def probability(self, token: int, history: tuple) -> float:
        history = history[max(0, len(history) - self.order + 1) :]
        shorter = 1 / V if not history else self.probability(token, history[1:])
        counts, discounts = self.counts[len(history) + 1], self.discounts[len(history) + 1]
        following = {gram: count for gram, count in counts.items() if gram[:-1] == history}
        total = sum(following.values())
        if not total:
            return shorter
        count = following.get((*history, token), 0)
        own = (count - discounts[min(count, 3)]) / total
        left = sum(discounts[min(c, 3)] for c in following.values()) / total
        return own + left * shorter


@pytest.mark.parametrize("order", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("count", [6, 400])
def test_it_is_what_the_paper_defines(order, count):
    documents = made(count, 1)
    ids, starts = flat(documents)
    model = NgramModel.train(ids, V, order, starts=starts)
    naive = Naive(documents, order)
    for found, expected in zip(model.discounts, naive.discounts[1:], strict=True):
        assert found == pytest.approx(expected[1:])
    if (order, count) in ((1, 6), (5, 400)):  # both kinds come up
        assert (model.discounts[-1] == (0.5, 1.0, 1.5)) is (count == 6)
    held_out = [*made(40, 2), [CLS, SEP], [CLS, 4, 4, 5, SEP], [CLS]]
    ids, starts = flat(held_out)
    found = np.split(model.log_probabilities(ids, starts=starts), starts[1:])
    for document, nats in zip(held_out, found, strict=True):
        expected = [0.0] + [
            np.log(naive.probability(document[i], tuple(document[:i]))) for i in range(1, len(document))
        ]
        np.testing.assert_allclose(nats, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("order", [1, 3, 5])
def test_probabilities_sum_to_one_after_any_history(order):
    ids, starts = flat(made(50, 3))
    model = NgramModel.train(ids, V, order, starts=starts)
    histories = [[CLS], [CLS, 5], [CLS, 5, 6, 7], [CLS, 4, 4], [CLS, 9, 9, 9, 9, 9, 10], [0, 1], [CLS, SEP]]
    for history in [*histories, *(document[:-1] for document in made(20, 4, least=1))]:
        rows = np.array([[*history, token] for token in range(V)])
        starts_here = np.arange(V) * rows.shape[1]
        nats = model.log_probabilities(rows.ravel(), starts=starts_here).reshape(V, -1)[:, -1]
        assert np.exp(nats).sum() == pytest.approx(1, abs=1e-6)
        assert np.isfinite(nats).all()


def test_documents_are_apart_in_any_order():
    documents = made(60, 5)
    ids, starts = flat(documents)
    turned, turned_starts = flat(documents[::-1])
    held_out, places = flat(made(20, 6))
    first = NgramModel.train(ids, V, 4, starts=starts).log_probabilities(held_out, starts=places)
    second = NgramModel.train(turned, V, 4, starts=turned_starts).log_probabilities(held_out, starts=places)
    np.testing.assert_allclose(first, second)
    # a document's score does not hang on what stands before it
    alone = NgramModel.train(ids, V, 4, starts=starts).log_probabilities(held_out[places[3] : places[4]])
    np.testing.assert_allclose(alone, first[places[3] : places[4]])


def test_without_starts_a_text_is_one_document():
    ids = flat(made(30, 7))[0]
    np.testing.assert_array_equal(
        NgramModel.train(ids, V, 3).log_probabilities(ids),
        NgramModel.train(ids, V, 3, starts=np.array([0])).log_probabilities(ids),
    )


def test_one_token_may_open_and_end_documents_as_in_gpt2():
    documents = [[SEP, *document[1:]] for document in made(50, 8)]
    ids, starts = flat(documents)
    model, naive = NgramModel.train(ids, V, 3, starts=starts), Naive(documents, 3)
    nats = model.log_probabilities(ids, starts=starts)
    for document, found in zip(documents, np.split(nats, starts[1:]), strict=True):
        expected = [
            np.log(naive.probability(document[i], tuple(document[:i]))) for i in range(1, len(document))
        ]
        np.testing.assert_allclose(found[1:], expected, rtol=1e-5, atol=1e-6)


def test_rows_without_an_end_are_apart_too():
    """The token that opens a row is here one that stands inside of texts as well, with more after it."""
    documents = [[SEP, *first[1:], *second[1:]] for first, second in itertools.pairwise(made(50, 8))]
    ids, starts = flat(documents)
    model = NgramModel.train(ids, V, 4, starts=starts)
    rows = [[SEP, *document[1:-1]] for document in made(30, 9, least=2)]
    np.testing.assert_allclose(model.scores(rows), [model.scores([row])[0] for row in rows])


def test_longer_n_grams_predict_better_what_hangs_on_them():
    """A cycle that only the last three tokens tell, with noise."""
    random = np.random.default_rng(9)
    cycle = [5, 6, 5, 7, 5, 6, 5, 8]
    documents = []
    for _ in range(200):
        start = int(random.integers(8))
        kept = [cycle[(start + i) % 8] for i in range(40) if random.random() > 0.02]
        documents.append([CLS, *kept, SEP])
    ids, starts = flat(documents[:150])
    held_out, places = flat(documents[150:])
    nats = [
        -NgramModel.train(ids, V, order, starts=starts).log_probabilities(held_out, starts=places).mean()
        for order in (1, 2, 3, 4)
    ]
    assert nats == sorted(nats, reverse=True)
    assert nats[3] < 0.6 * nats[1]


def test_rows_are_scored_as_documents():
    documents = made(300, 10)
    ids, starts = flat(documents[20:])
    model = NgramModel.train(ids, V, 5, starts=starts)
    rows = documents[:20]
    expected = [model.log_probabilities(np.array(row)).sum() for row in rows]
    np.testing.assert_allclose(model.scores(rows), expected)
    assert model.scores([]).tolist() == []
    shuffled = [[CLS, *sorted(row[1:-1]), SEP] for row in rows]
    assert model.scores(rows).sum() > model.scores(shuffled).sum()


def test_a_prepared_corpus_is_counted_document_by_document(tmp_path):
    documents = made(30, 12, least=1)
    part = make_part(tmp_path / "train", [[document[1:-1]] for document in documents], SpecialTokens(V))
    model, count = train_on_part(part, V, 3)
    assert count == part.num_tokens == sum(map(len, documents))
    ids, starts = flat(documents)
    expected = NgramModel.train(ids, V, 3, starts=starts)
    held_out = made(5, 13)
    np.testing.assert_array_equal(model.scores(held_out), expected.scores(held_out))
    some, count = train_on_part(part, V, 3, most_tokens=50)
    assert count == 50
    expected = NgramModel.train(ids[:50], V, 3, starts=starts[starts < 50])
    np.testing.assert_array_equal(some.scores(held_out), expected.scores(held_out))


def test_what_cannot_be_counted_is_refused():
    with pytest.raises(LmzooError, match="the id 11 is outside of the vocabulary of 11"):
        NgramModel.train(np.array([CLS, 11]), V)
    with pytest.raises(LmzooError, match="order=0"):
        NgramModel.train(np.array([CLS, 5]), V, 0)
    for ids, starts in (([], None), ([CLS], None), ([CLS, CLS], [0, 1])):
        with pytest.raises(LmzooError, match="two tokens or more"):
            NgramModel.train(np.array(ids, dtype=np.int64), V, starts=starts)
    model = NgramModel.train(np.array([CLS, 5, SEP]), V)
    with pytest.raises(LmzooError, match="the id -1"):
        model.log_probabilities(np.array([CLS, -1]))
    with pytest.raises(LmzooError, match="row 1 has no tokens"):
        model.scores([[CLS, 5], []])
    assert model.log_probabilities(np.zeros(0, dtype=np.int64)).shape == (0,)
