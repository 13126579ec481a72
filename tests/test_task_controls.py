"""Controls of labelled tasks: what they say on small data, and the published figures on the shared files."""

from __future__ import annotations

import time
from functools import cache

import pytest

from lmzoo.tasks.config import TaskConfig
from lmzoo.tasks.controls import _of_shape, control_predictions, controls
from lmzoo.tasks.examples import Labelled, Question, Tagged, TaskData
from lmzoo.tasks.metrics import score_of
from lmzoo.tasks.read import load_task
from lmzoo.tasks.spans import guess_by_overlap

pytest.importorskip("sklearn")
pytest.importorskip("seqeval")


def task(train, scored, labels=(), **config) -> TaskData:
    shape = {Labelled: "sentence", Tagged: "tagging", Question: "spans"}[type(train[0])]
    made = TaskConfig(**{"name": "t", "shape": shape, **config})
    return TaskData(made, list(train), [], list(scored), "valid", list(labels))


def labelled(*rows) -> list[Labelled]:
    return [Labelled(str(number), tuple(texts), label) for number, (*texts, label) in enumerate(rows)]


def tagged(*sentences: str) -> list[Tagged]:
    """``word/TAG`` by spaces."""
    parts = [[word.rsplit("/", 1) for word in sentence.split()] for sentence in sentences]
    return [
        Tagged(str(n), tuple(word for word, _ in part), tuple(tag for _, tag in part))
        for n, part in enumerate(parts)
    ]


# ---------------------------------------------------------------------------------- one label a text


def test_the_majority_is_that_of_training_and_the_scored_parts_own_stands_beside_it():
    train = labelled(("a", "x"), ("b", "x"), ("c", "y"))
    found = control_predictions(task(train, labelled(("a", "y"), ("b", "y"), ("c", "x")), ["x", "y"]))
    assert found["majority"] == ["x"] * 3
    assert found["majority_of_scored"] == ["y"] * 3
    # the part for stopping is learnt from too
    data = task(train[:1], labelled(("a", "y")), ["x", "y"])
    data.stop = [*train[2:], *labelled(("d", "y"))]
    assert control_predictions(data)["majority"] == ["y"]
    # of equally frequent labels the first by name, whatever the order
    even = control_predictions(task(train[1:], train[:1], ["x", "y"]))
    assert even["majority"] == ["x"]


def test_words_that_tell_the_label_are_learnt():
    train = labelled(*[(f"{word} thing {n}", word) for n in range(20) for word in ("good", "bad")])
    found = controls(task(train, labelled(("a GOOD day", "good"), ("so bad!", "bad")), ["bad", "good"]))
    assert found["tfidf_logistic_regression"] == {"accuracy": 100.0}
    assert found["majority"] == {"accuracy": 50.0}


def test_chinese_is_read_by_characters():
    train = labelled(*[(f"{word}天{n}", word) for n in range(20) for word in ("好", "坏")])
    scored = labelled(("今天很好啊", "好"), ("今天很坏啊", "坏"))
    assert controls(task(train, scored, language="zh"))["tfidf_logistic_regression"] == {"accuracy": 100.0}
    # by words these sentences have nothing in common with what was learnt
    assert controls(task(train, scored, language="en"))["tfidf_logistic_regression"] == {"accuracy": 50.0}


def test_pairs_are_told_by_what_their_texts_share():
    words = ["ash", "birch", "cedar", "elm", "fir"]
    rows = [(one, other, "same" if one == other else "other") for one in words for other in words]
    rows += [(word, word, "same") for word in words for _ in range(3)]
    data = task(labelled(*rows), labelled(*rows), shape="pair")
    assert controls(data)["tfidf_logistic_regression"]["accuracy"] == 100


def test_likeness_of_pairs_is_regressed_on_their_words():
    texts = ["a b c d", "a b c x", "a b y x", "a z y x", "w z y x"]
    rows = [(texts[0], text, 5.0 - n) for n, text in enumerate(texts)]
    data = task(labelled(*rows), labelled(*rows), shape="pair", regression=True, metric="pearson_spearman")
    found = controls(data)
    assert found["majority"]["pearson"] is None
    assert found["tfidf_ridge"]["spearman"] == pytest.approx(100)
    assert control_predictions(data)["majority"] == [3.0] * 5


@pytest.mark.parametrize(
    "rows", [[("", "x"), (" ", "y")], [("a", "x"), ("b", "x")]], ids=["no words", "one label"]
)
def test_where_nothing_can_be_learnt_the_majority_is_said(rows):
    found = control_predictions(task(labelled(*rows), labelled(("c", "x"))))
    assert found["tfidf_logistic_regression"] == found["majority"] == ["x"]


# ---------------------------------------------------------------------------------- tags


def test_a_word_gets_its_most_frequent_tag_and_an_unknown_one_that_of_rare_words():
    train = tagged("the/D cat/A runs/V", "the/D runs/N", "the/P runs/V", "cats/A Ann/P dogs/A Bo/P the/D")
    found = control_predictions(task(train, tagged("the/D dog/N runs/V Cy/P")))
    assert found == {"majority": [["A"] * 4], "most_frequent_tag": [["D", "A", "V", "P"]]}
    # without rare words, the tag most frequent overall
    train = tagged("the/D the/D a/E a/E a/E")
    assert control_predictions(task(train, tagged("so/X So/X")))["most_frequent_tag"] == [["E", "E"]]


def test_entity_tags_of_words_are_made_iob2():
    train = tagged("New/B-L York/I-L is/O", "in/O New/B-L York/I-L")
    found = controls(task(train, tagged("York/B-L is/O New/B-L York/I-L"), metric="entity_f1"))
    assert found["most_frequent_tag"]["entity_f1"] == 100
    # New, York and O are equally frequent; B-L is the first by name
    assert control_predictions(task(train, train, metric="entity_f1"))["majority"][1] == ["B-L"] * 3


# ---------------------------------------------------------------------------------- answers


def test_the_answer_is_guessed_where_the_questions_words_are():
    context = "Ann was born in Oslo. Bo wrote the famous opera in 1901. It rained."
    assert guess_by_overlap("When did Bo write the famous opera?", context, 1, "en") == "wrote"
    assert guess_by_overlap("anything", "", 2, "en") == ""
    assert guess_by_overlap("a b", "a b", 2, "en") == "a b"
    assert guess_by_overlap("谁写了歌剧", "张三出生。李四写了歌剧。", 2, "zh") == "李四"


def test_the_guess_has_the_length_of_the_answers_learnt_from():
    train = [Question(str(n), "q", "one two three", (("one two", 0),)) for n in range(3)]
    scored = [Question("s", "Who ate?", "Big Tom Sawyer ate.", (("Tom Sawyer", 4),))]
    found = control_predictions(task(train, scored, metric="exact_match_f1"))["word_overlap"]
    assert len(found) == 1
    assert found[0] in ("Big Tom", "Tom Sawyer")


# ---------------------------------------------------------------------------------- the shared data

PUBLISHED = [
    ("sst2", "majority", "accuracy", 50.9),
    ("rte", "majority", "accuracy", 52.7),
    ("mrpc", "majority", "f1", 79.9),
    ("mrpc", "majority", "accuracy", 66.5),
    ("cola", "majority", "matthews", 0.0),
    # the most frequent class of training, ENTY, is not that of the test set
    ("trec", "majority_of_scored", "accuracy", 27.6),
    ("trec", "majority", "accuracy", 18.8),
    ("pos_ewt", "most_frequent_tag", "accuracy", 88.0),
]
BEATEN: dict[str, tuple[str, str | None]] = {
    "sst2": ("tfidf_logistic_regression", "majority"),
    "trec": ("tfidf_logistic_regression", "majority_of_scored"),
    "agnews": ("tfidf_logistic_regression", "majority"),
    "snli": ("tfidf_logistic_regression", "majority"),
    "stsb": ("tfidf_ridge", None),
    "ner_wnut17": ("most_frequent_tag", "majority"),
    "ner_wikigold": ("most_frequent_tag", "majority"),
    "ner_gsd": ("most_frequent_tag", "majority"),
    "pos_gsd": ("most_frequent_tag", "majority"),
    "squad": ("word_overlap", None),
    "cmrc2018": ("word_overlap", None),
}


SLOW = ("sst2", "agnews", "squad", "snli")


@pytest.fixture(scope="module")
def measured(shared_data):
    """One control of a task on the shared files, and how many seconds it took."""
    read = cache(lambda name: load_task(name, shared_data))

    def of(name: str, control: str) -> tuple[dict, float]:
        data = read(name)
        began = time.perf_counter()
        predicted = _of_shape(data)[control](data)
        return score_of(data, predicted), time.perf_counter() - began

    return of


@pytest.mark.parametrize(("name", "control", "metric", "figure"), PUBLISHED)
def test_published_figures_come_out(measured, name, control, metric, figure):
    found, _ = measured(name, control)
    assert round(found[metric], 1) == figure


def test_the_majority_of_the_whole_of_snli(shared_data):
    data = load_task("snli", shared_data)
    data.scored = [*data.train, *data.stop, *data.scored]
    assert round(score_of(data, _of_shape(data)["majority_of_scored"](data))["accuracy"], 1) == 33.8


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in BEATEN],
)
def test_what_words_tell_is_more_than_nothing_and_soon_said(measured, name):
    better, worse = BEATEN[name]
    found, seconds = measured(name, better)
    floor = next(iter(measured(name, worse)[0].values())) + 3 if worse else 5
    assert next(iter(found.values())) > floor
    assert seconds < 30
