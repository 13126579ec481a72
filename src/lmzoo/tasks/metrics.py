"""The scores that the literature reports, ×100, from scikit-learn, seqeval and torchmetrics.

None stands where a score has no meaning: a correlation with predictions that are all the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from lmzoo.errors import LmzooError, one_of
from lmzoo.tasks.examples import Labelled, Question, Tagged, TaskData
from lmzoo.tasks.spans import character_f1, character_match

Scores = dict[str, float | None]

HEADLINES: dict[str, tuple[str, ...]] = {
    "accuracy": ("accuracy",),
    "f1": ("f1", "accuracy"),
    "matthews": ("matthews", "accuracy"),
    "pearson_spearman": ("pearson_spearman", "pearson", "spearman"),
    "entity_f1": ("entity_f1", "entity_precision", "entity_recall", "accuracy"),
    "exact_match_f1": ("f1", "exact_match"),
}
"""What a task's `metric` gives, the headline first: for STS-B GLUE's mean of the two correlations; for
questions F1, since a small model matches few answers exactly. F1 of sentences is of the `positive` label."""


def score_of(data: TaskData, predictions: Sequence[Any]) -> Scores:
    """Score the predictions of ``data.scored``.

    Args:
        data: the task.
        predictions: in the order of ``data.scored``, each a label, a number, a list of one tag a word, or the
            text of an answer.

    Returns:
        the scores by name, the headline first, ×100; None where one has no meaning.

    Raises:
        ValueError: there is not one prediction an item, or not one tag a word.
        LmzooError: the extra that computes them is not installed.
    """
    if len(predictions) != len(data.scored):
        raise ValueError(f"{len(predictions)} predictions for {len(data.scored)} items")
    match data.config.metric:
        case "entity_f1":
            return entity_scores(_tags(data), [list(tags) for tags in predictions])
        case "exact_match_f1":
            questions = [item for item in data.scored if isinstance(item, Question)]
            return answer_scores(questions, predictions, data.config.language)
        case "pearson_spearman":
            return correlations([float(one) for one in _labels(data)], [float(one) for one in predictions])
    if data.config.shape == "tagging":
        return {"accuracy": word_accuracy(_tags(data), predictions)}
    return label_scores(data.config.metric, _labels(data), predictions, data.config.positive)


def better(metric: str) -> bool:
    """Whether a higher value of this score is the better one: so it is with all of them.

    Raises:
        LmzooError: no task gives such a score.
    """
    one_of("metric", metric, sorted({name for names in HEADLINES.values() for name in names}))
    return True


def _labels(data: TaskData) -> list[Any]:
    return [item.label for item in data.scored if isinstance(item, Labelled)]


def _tags(data: TaskData) -> list[list[str]]:
    return [list(item.tags) for item in data.scored if isinstance(item, Tagged)]


def label_scores(
    metric: str, true: Sequence[str], predicted: Sequence[str], positive: str | None = None
) -> Scores:
    """Accuracy, and before it F1 of ``positive`` or Matthews' correlation (0 for one label throughout)."""
    same = [one == other for one, other in zip(true, predicted, strict=True)]
    scores: Scores = {"accuracy": 100 * sum(same) / len(same)}
    if metric == "accuracy":
        return scores
    found = _scikit_learn()
    if metric == "matthews":
        constant = len(set(true)) < 2 or len(set(predicted)) < 2  # 0 too there, with a warning
        matthews = 0.0 if constant else float(found.matthews_corrcoef(true, predicted))
        return {"matthews": 100 * matthews, **scores}
    f1 = found.f1_score(true, predicted, labels=[positive], average="micro", zero_division=0)
    return {"f1": 100 * float(f1), **scores}


def correlations(true: Sequence[float], predicted: Sequence[float]) -> Scores:
    """Pearson's and Spearman's, after their mean. None where either side is constant or not finite."""
    sides = (true, predicted)
    if any(min(side) == max(side) or not all(map(math.isfinite, side)) for side in sides):
        return {"pearson_spearman": None, "pearson": None, "spearman": None}
    import torch
    from torchmetrics.functional import pearson_corrcoef, spearman_corrcoef

    target, guess = (torch.tensor(side, dtype=torch.float64) for side in sides)
    pearson = 100 * float(pearson_corrcoef(guess, target))
    spearman = 100 * float(spearman_corrcoef(guess, target))
    return {"pearson_spearman": (pearson + spearman) / 2, "pearson": pearson, "spearman": spearman}


def word_accuracy(true: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> float:
    """Percent of the words whose tag is right."""
    same = [
        one == other
        for tags, guessed in zip(true, predicted, strict=True)
        for one, other in zip(tags, guessed, strict=True)
    ]
    return 100 * sum(same) / len(same)


def entity_scores(true: list[list[str]], predicted: list[list[str]]) -> Scores:
    """Entities whose type and both ends are right, over all types (seqeval, strict, IOB2).

    A predicted I-X that nothing begins is no entity there; ``tags.repaired`` makes it one, as CoNLL's own
    scorer has it.
    """
    accuracy = word_accuracy(true, predicted)
    try:
        from seqeval.metrics.v1 import precision_recall_fscore_support
        from seqeval.scheme import IOB2
    except ImportError:
        raise needs_extra("seqeval") from None
    nothing: Any = 0  # what a quotient of nothing is; seqeval's annotation allows text alone
    found: Any = precision_recall_fscore_support(
        true, predicted, average="micro", scheme=IOB2, zero_division=nothing
    )
    precision, recall, f1, _ = found
    return {
        "entity_f1": 100 * float(f1),
        "entity_precision": 100 * float(precision),
        "entity_recall": 100 * float(recall),
        "accuracy": accuracy,
    }


def answer_scores(questions: Sequence[Question], predicted: Sequence[str], language: str) -> Scores:
    """F1 and exact match with the best of a question's answers.

    English by words, as SQuAD's evaluation has it (torchmetrics); Chinese by characters, as CMRC 2018's.
    """
    pairs = list(zip(questions, predicted, strict=True))
    if language == "zh":
        best = [max(character_f1(text, true) for true, _ in asked.answers) for asked, text in pairs]
        exact = [any(character_match(text, true) for true, _ in asked.answers) for asked, text in pairs]
        return {"f1": 100 * sum(best) / len(best), "exact_match": 100 * sum(exact) / len(exact)}
    from torchmetrics.functional.text import squad

    # numbered anew: what it is given by id must be unique
    guesses = [{"id": str(number), "prediction_text": text} for number, (_, text) in enumerate(pairs)]
    targets = [
        {
            "id": str(number),
            "answers": {"text": [text for text, _ in asked.answers], "answer_start": []},
        }
        for number, (asked, _) in enumerate(pairs)
    ]
    found = squad(guesses, targets)
    return {"f1": float(found["f1"]), "exact_match": float(found["exact_match"])}


def _scikit_learn() -> Any:
    try:
        import sklearn.metrics
    except ImportError:
        raise needs_extra("scikit-learn") from None
    return sklearn.metrics


def needs_extra(package: str) -> LmzooError:
    """The error to raise where a package of the extra is missing."""
    return LmzooError(f"{package} is not installed: scores and controls need pip install 'lmzoo[tasks]'")
