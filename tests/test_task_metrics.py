"""Scores of labelled tasks against the public libraries, and where they have no meaning."""

from __future__ import annotations

import random
import warnings
from difflib import SequenceMatcher

import pytest

from lmzoo.errors import LmzooError
from lmzoo.tasks.config import TaskConfig
from lmzoo.tasks.examples import Example, Labelled, Question, Tagged, TaskData
from lmzoo.tasks.metrics import HEADLINES, better, score_of
from lmzoo.tasks.spans import character_f1, longest_common, units
from lmzoo.tasks.tags import repaired

sklearn_metrics = pytest.importorskip("sklearn.metrics")


def scored(metric: str, items: list[Example], **config) -> TaskData:
    """A task of which only the scored part matters."""
    shape = {Labelled: "sentence", Tagged: "tagging", Question: "spans"}[type(items[0])]
    task = TaskConfig(name="t", shape=shape, metric=metric, **config)
    return TaskData(task, [], [], items, "valid", [])


def labelled(labels) -> list[Example]:
    return [Labelled(str(number), ("x",), label) for number, label in enumerate(labels)]


def test_every_metric_has_its_headline_first():
    for metric, names in HEADLINES.items():
        assert all(better(name) for name in names), metric
    with pytest.raises(LmzooError, match="metric=loss is not known"):
        better("loss")


# ---------------------------------------------------------------------------------- labels


@pytest.mark.parametrize("seed", range(5))
def test_labels_score_as_in_scikit_learn(seed):
    draw = random.Random(seed)
    true = draw.choices(["0", "1", "2"][: 2 + seed % 2], k=101)
    guess = [label if draw.random() < 0.5 else draw.choice("01") for label in true]
    accuracy = 100 * sklearn_metrics.accuracy_score(true, guess)
    assert score_of(scored("accuracy", labelled(true)), guess) == {"accuracy": pytest.approx(accuracy)}
    found = score_of(scored("matthews", labelled(true)), guess)
    assert list(found) == ["matthews", "accuracy"]
    assert found["matthews"] == pytest.approx(100 * sklearn_metrics.matthews_corrcoef(true, guess))
    found = score_of(scored("f1", labelled(true), positive="1"), guess)
    assert list(found) == ["f1", "accuracy"]
    as_binary = [[label == "1" for label in side] for side in (true, guess)]
    assert found["f1"] == pytest.approx(100 * sklearn_metrics.f1_score(*as_binary))
    assert found["accuracy"] == pytest.approx(accuracy)


def test_matthews_by_hand():
    # 3 true positives, 1 false positive, 2 false negatives, 4 true negatives: 10 / sqrt(4 · 5 · 5 · 6)
    found = score_of(scored("matthews", labelled("1111100000")), list("1110010000"))
    assert found["matthews"] == pytest.approx(100 * 10 / (4 * 5 * 5 * 6) ** 0.5)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("true", "guess"), [("0101", "0000"), ("0101", "1111"), ("0000", "0101"), ("0000", "0000")]
)
def test_one_label_throughout(true, guess):
    assert score_of(scored("matthews", labelled(true)), list(guess))["matthews"] == 0
    found = score_of(scored("f1", labelled(true), positive="1"), list(guess))
    assert found["f1"] == pytest.approx(200 / 3 if (true, guess) == ("0101", "1111") else 0)


def test_a_prediction_too_few_is_a_bug():
    with pytest.raises(ValueError, match="1 predictions for 2 items"):
        score_of(scored("accuracy", labelled("01")), ["0"])


# ---------------------------------------------------------------------------------- numbers


@pytest.mark.parametrize("seed", range(3))
def test_correlations_are_those_of_scipy(seed):
    stats = pytest.importorskip("scipy.stats")
    draw = random.Random(seed)
    true = [draw.randrange(26) / 5 for _ in range(80)]  # with ties, as STS-B
    guess = [value + draw.gauss(0, 2) if seed else float(round(value)) for value in true]
    found = score_of(scored("pearson_spearman", labelled(true), regression=True), guess)
    pearson = 100 * stats.pearsonr(true, guess).statistic
    spearman = 100 * stats.spearmanr(true, guess).statistic
    assert found["pearson"] == pytest.approx(pearson)
    assert found["spearman"] == pytest.approx(spearman)
    assert next(iter(found.items())) == ("pearson_spearman", pytest.approx((pearson + spearman) / 2))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("guess", [[2.0, 2.0, 2.0], [1.0, float("nan"), 2.0], [float("inf"), 0.0, 1.0]])
def test_a_correlation_without_a_meaning_is_none(guess):
    for true, predicted in (([0.0, 1.0, 4.0], guess), ([3.0] * 3, [0.0, 1.0, 4.0])):
        found = score_of(scored("pearson_spearman", labelled(true), regression=True), predicted)
        assert found == {"pearson_spearman": None, "pearson": None, "spearman": None}


# ---------------------------------------------------------------------------------- tags


def tagged(sentences) -> list[Example]:
    return [Tagged(str(n), ("w",) * len(tags), tuple(tags)) for n, tags in enumerate(sentences)]


def random_tags(draw: random.Random, count: int) -> list[list[str]]:
    tags = ["O", "O", "B-PER", "I-PER", "B-creative-work", "I-creative-work"]
    return [draw.choices(tags, k=draw.randrange(1, 12)) for _ in range(count)]


def entities(tags: list[str]) -> set[tuple[str, int, int]]:
    """Spans of well-formed tags, from their definition."""
    found = set()
    for start, tag in enumerate(tags):
        if tag.startswith("B-"):
            end = start + 1
            while end < len(tags) and tags[end] == "I-" + tag[2:]:
                end += 1
            found.add((tag[2:], start, end))
    return found


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("seed", range(3))
def test_entities_score_as_in_seqeval_and_as_sets_of_spans(seed):
    seqeval = pytest.importorskip("seqeval.metrics")
    from seqeval.scheme import IOB2

    draw = random.Random(seed)
    true = [repaired(tags) for tags in random_tags(draw, 60)]
    guess = [[tag if draw.random() < 0.8 else "O" for tag in tags] for tags in true]
    found = score_of(scored("entity_f1", tagged(true)), guess)
    assert list(found) == ["entity_f1", "entity_precision", "entity_recall", "accuracy"]
    assert found["entity_f1"] == pytest.approx(
        100 * seqeval.f1_score(true, guess, mode="strict", scheme=IOB2)
    )
    assert found["accuracy"] == pytest.approx(100 * seqeval.accuracy_score(true, guess))
    # an I-X that nothing begins is no entity; as the definition has it too
    pairs = [(entities(one), entities(other)) for one, other in zip(true, guess, strict=True)]
    right = sum(len(one & other) for one, other in pairs)
    assert found["entity_precision"] == pytest.approx(100 * right / sum(len(other) for _, other in pairs))
    assert found["entity_recall"] == pytest.approx(100 * right / sum(len(one) for one, _ in pairs))


@pytest.mark.filterwarnings("error")
def test_no_entity_anywhere_scores_nothing():
    pytest.importorskip("seqeval")
    for true, guess in ((["B-A", "O"], ["O", "O"]), (["O", "O"], ["B-A", "O"]), (["O"], ["O"])):
        assert score_of(scored("entity_f1", tagged([true])), [guess])["entity_f1"] == 0


def test_words_are_counted_not_sentences():
    found = score_of(scored("accuracy", tagged([["A", "B", "C"], ["A"]])), [["A", "A", "A"], ["A"]])
    assert found == {"accuracy": 50.0}
    with pytest.raises(ValueError, match=r"zip\(\)"):
        score_of(scored("accuracy", tagged([["A", "B"]])), [["A"]])


# ---------------------------------------------------------------------------------- answers


def asked(*answers: tuple[str, ...]) -> list[Example]:
    # ids are the same on purpose: nothing may rest on them
    return [Question("q", "?", "context", tuple((text, -1) for text in texts)) for texts in answers]


def test_answers_score_as_in_torchmetrics():
    from torchmetrics.text import SQuAD

    draw = random.Random(0)
    words = ["the", "Cat", "cat,", "sat", "a", "mat.", "", "1,000"]
    texts = [" ".join(draw.choices(words, k=draw.randrange(4))) for _ in range(240)]
    guesses, truths = texts[:60], [tuple(texts[start : start + 3]) for start in range(60, 240, 3)]
    found = score_of(scored("exact_match_f1", asked(*truths)), guesses)
    metric = SQuAD()
    for number, (guess, true) in enumerate(zip(guesses, truths, strict=True)):
        metric.update(
            [{"id": str(number), "prediction_text": guess}],
            [{"id": str(number), "answers": {"text": list(true), "answer_start": [0] * 3}}],
        )
    expected = {name: value.item() for name, value in metric.compute().items()}
    assert list(found) == ["f1", "exact_match"]
    assert found == {name: pytest.approx(value, rel=1e-5) for name, value in expected.items()}
    assert 0 < expected["exact_match"] < expected["f1"] < 100


def test_english_answers_by_hand():
    data = scored("exact_match_f1", asked(("the cat", "dog"), ("one two three",), ("x",)))
    # case, articles and punctuation do not count; 2 of 2 and 2 of 3 words are F1 0.8; nothing said is nothing
    assert score_of(data, ["Cat!", "two one", ""]) == {
        "f1": pytest.approx(60.0),
        "exact_match": pytest.approx(100 / 3),
    }


def test_chinese_answers_are_counted_by_characters():
    # punctuation goes first, so that it parts no words: as in the published script
    assert units("《战国无双3》（Omega Force）") == ["战", "国", "无", "双", "3omega", "force"]
    assert units("1,000.5米 a-b") == ["1,000.5", "米", "ab"]
    data = scored("exact_match_f1", asked(("光荣和ω-force", "光荣"), ("一九七三年",), ("甲",)), language="zh")
    found = score_of(data, ["光荣。", "九七四年", "乙"])
    # exact but for punctuation; the longest common run is 2 of 4 and 2 of 5 characters; none
    assert found == {
        "f1": pytest.approx(100 * (1 + 2 * 0.5 * 0.4 / 0.9) / 3),
        "exact_match": pytest.approx(100 / 3),
    }


def test_a_run_is_one_piece_where_english_counts_words_anywhere():
    assert character_f1("甲丙", "甲乙丙") == pytest.approx(2 * (1 / 2) * (1 / 3) / (1 / 2 + 1 / 3))
    assert character_f1("", "甲") == 0


@pytest.mark.parametrize("seed", range(5))
def test_the_longest_common_run_is_that_of_difflib(seed):
    draw = random.Random(seed)
    first, second = ("".join(draw.choices("甲乙丙丁", k=draw.randrange(1, 30))) for _ in range(2))
    expected = SequenceMatcher(None, first, second, autojunk=False).find_longest_match().size
    assert longest_common(first, second) == expected


def test_a_missing_package_is_named(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "sklearn.metrics", None)
    monkeypatch.setitem(sys.modules, "seqeval.metrics.v1", None)
    for data, guess in (
        (scored("matthews", labelled("01")), ["0", "1"]),
        (scored("entity_f1", tagged([["O"]])), [["O"]]),
    ):
        with warnings.catch_warnings(), pytest.raises(LmzooError, match=r"pip install 'lmzoo\[tasks\]'"):
            score_of(data, guess)
