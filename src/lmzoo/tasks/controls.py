"""What a task gives away without a language model: guesses that every table carries beside the models.

They have fixed settings: nothing is chosen by a score, so they learn from the whole of the training data, the
part for stopping with it.
"""

from __future__ import annotations

import statistics
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from lmzoo.inference.sources import slow_progress
from lmzoo.tasks.examples import Example, Labelled, Question, Tagged, TaskData
from lmzoo.tasks.metrics import Scores, needs_extra, score_of
from lmzoo.tasks.spans import NOT_THERE, count_tokens, guess_by_overlap
from lmzoo.tasks.tags import repaired

_WORDS = {"analyzer": "word", "ngram_range": (1, 2), "token_pattern": r"\w+|[^\w\s]"}
_CHARACTERS = {"analyzer": "char", "ngram_range": (1, 3)}
_REGULARISATION = 10.0
"""Scikit-learn's C: the inverse of the weight decay."""


def controls(data: TaskData) -> dict[str, Scores]:
    """The scores of every control that the task's shape has.

    - `majority`: the training part's most frequent label (tag); the mean number in a regression;
    - `majority_of_scored`: the most frequent label of the scored part itself, which the literature calls the
      majority class: the best accuracy of one label for all;
    - `tfidf_logistic_regression`, `tfidf_ridge`: words and pairs of words (in Chinese up to three characters)
      weighted by tf-idf; for a pair of texts both, their difference and their cosine;
    - `most_frequent_tag`: the tag that a word had most often in training; for a word that training lacks, the
      most frequent one of the words there that occur once and, as it, begin with a capital or do not;
    - `word_overlap`: of a question's context the words nearest to those of the question.

    Returns:
        by name, what ``score_of`` gives.

    Raises:
        LmzooError: scikit-learn or seqeval is not installed.
    """
    return {name: score_of(data, predicted) for name, predicted in control_predictions(data).items()}


def control_predictions(data: TaskData) -> dict[str, list[Any]]:
    """What each control says of ``data.scored``, in its order; see ``controls``."""
    made: dict[str, list[Any]] = {}
    todo = _of_shape(data)
    with slow_progress("controls", len(todo)) as advance:
        for name, predict in todo.items():
            made[name] = predict(data)
            advance(1)
    return made


def _of_shape(data: TaskData) -> dict[str, Callable[[TaskData], list[Any]]]:
    match data.config.shape:
        case "tagging":
            return {"majority": _majority_tag, "most_frequent_tag": _most_frequent_tags}
        case "spans":
            return {"word_overlap": _by_overlap}
    if data.config.regression:
        return {"majority": _mean, "tfidf_ridge": _tfidf}
    return {
        "majority": _majority,
        "majority_of_scored": _majority_of_scored,
        "tfidf_logistic_regression": _tfidf,
    }


def _learned(data: TaskData) -> list[Example]:
    return [*data.train, *data.stop]


def _most_frequent(labels: Iterable[str]) -> str:
    """The most frequent one, of equals the first by name."""
    counts = Counter(labels)
    return min(counts, key=lambda label: (-counts[label], label))


# ---------------------------------------------------------------------------------- one label a text


def _labelled(items: Sequence[Any]) -> list[Labelled]:
    return [item for item in items if isinstance(item, Labelled)]


def _majority(data: TaskData) -> list[str]:
    return [_most_frequent(str(item.label) for item in _labelled(_learned(data)))] * len(data.scored)


def _majority_of_scored(data: TaskData) -> list[str]:
    return [_most_frequent(str(item.label) for item in _labelled(data.scored))] * len(data.scored)


def _mean(data: TaskData) -> list[float]:
    return [statistics.fmean(float(item.label) for item in _labelled(_learned(data)))] * len(data.scored)


def _tfidf(data: TaskData) -> list[Any]:
    """Logistic regression, or ridge regression of a number, on tf-idf."""
    try:
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression, Ridge
    except ImportError:
        raise needs_extra("scikit-learn") from None
    train, scored = _labelled(_learned(data)), _labelled(data.scored)
    labels = [item.label for item in train]
    texts = [text for item in train for text in item.texts]
    if len(set(labels)) < 2 or not any(text.strip() for text in texts):
        return _mean(data) if data.config.regression else _majority(data)  # nothing can be fitted
    vectorizer = TfidfVectorizer(
        sublinear_tf=True, **(_CHARACTERS if data.config.language == "zh" else _WORDS)
    ).fit(texts)
    if data.config.regression:
        model: Any = Ridge(alpha=1.0)
    else:
        model = LogisticRegression(C=_REGULARISATION, max_iter=1000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the optimizer stopped at its last step
        model.fit(_features(vectorizer, train), labels)
    return list(model.predict(_features(vectorizer, scored)).tolist())


def _features(vectorizer: Any, items: list[Labelled]) -> Any:
    """Sparse (N, F): tf-idf of the text; of a pair both, their difference's size and their cosine."""
    import numpy as np
    from scipy import sparse

    sides = [vectorizer.transform(texts) for texts in zip(*(item.texts for item in items), strict=True)]
    if len(sides) == 1:
        return sides[0]
    first, second = sides
    cosine = sparse.csr_matrix(np.asarray(first.multiply(second).sum(axis=1)).reshape(-1, 1))
    return sparse.hstack([first, second, abs(first - second), cosine]).tocsr()


# ---------------------------------------------------------------------------------- one tag a word


def _tagged(items: Sequence[Any]) -> list[Tagged]:
    return [item for item in items if isinstance(item, Tagged)]


def _majority_tag(data: TaskData) -> list[list[str]]:
    tag = _most_frequent(tag for item in _tagged(_learned(data)) for tag in item.tags)
    return [[tag] * len(item.words) for item in _tagged(data.scored)]


def _most_frequent_tags(data: TaskData) -> list[list[str]]:
    train = _tagged(_learned(data))
    counts: dict[str, Counter[str]] = {}
    for item in train:
        for word, tag in zip(item.words, item.tags, strict=True):
            counts.setdefault(word, Counter())[tag] += 1
    overall = _most_frequent(tag for item in train for tag in item.tags)
    once = {word: tag for word, tags in counts.items() if tags.total() == 1 for tag in tags}
    rare: dict[bool, str] = {}
    for capital in (False, True):
        tags_of_rare = [tag for word, tag in once.items() if word[:1].isupper() == capital]
        rare[capital] = _most_frequent(tags_of_rare) if tags_of_rare else overall
    by_word = {word: tags.most_common(1)[0][0] for word, tags in counts.items()}  # of equals the first met
    found = [
        [by_word.get(word, rare[word[:1].isupper()]) for word in item.words] for item in _tagged(data.scored)
    ]
    return [repaired(tags) for tags in found] if data.config.metric == "entity_f1" else found


# ---------------------------------------------------------------------------------- answers


def _by_overlap(data: TaskData) -> list[str]:
    language = data.config.language
    lengths = [
        count_tokens(text, language)
        for item in _learned(data)
        if isinstance(item, Question)
        for text, start in item.answers[:1]
        if start != NOT_THERE
    ]
    length = max(1, round(statistics.median(lengths)))
    return [
        guess_by_overlap(item.question, item.context, length, language)
        for item in data.scored
        if isinstance(item, Question)
    ]
