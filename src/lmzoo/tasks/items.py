"""Values of a file into examples.

What is wrong is refused with the place where it stands; what is mended or left out is counted.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

from lmzoo.errors import LmzooError
from lmzoo.tasks.config import TaskConfig
from lmzoo.tasks.examples import Labelled, Question, Tagged
from lmzoo.tasks.formats import BROKEN, DOCUMENT_MARK, Values
from lmzoo.tasks.spans import NOT_THERE, placed
from lmzoo.tasks.splits import Item
from lmzoo.tasks.tags import is_entity_tag, repaired


class ItemReader:
    """Makes the items of one part.

    Args:
        config: the task.
        part: `train` or `scored`: what the counts and the items' ids begin with.
        counts: what is left out, mended or noteworthy is added up here, as ``PART_WHAT``.
    """

    def __init__(self, config: TaskConfig, part: str, counts: Counter[str]) -> None:
        self.config = config
        self.part = part
        self.counts = counts
        self.number = 0
        self._ids: set[str] = set()
        self._make = {
            "sentence": self._labelled,
            "pair": self._labelled,
            "tagging": self._tagged,
            "spans": self._question,
        }[config.shape]

    def item(self, where: str, values: Values) -> Item | None:
        """The item of these values, or None where it is left out and counted.

        Raises:
            LmzooError: naming ``where``: no label, a label that is no number in a regression, a tag that is
                no entity tag, a value of another kind than the task's shape asks for.
        """
        self.number += 1
        if BROKEN in values:
            self._count("broken_rows_skipped")
            return None
        return self._make(where, values)

    def _count(self, what: str, times: int = 1) -> None:
        if times:
            self.counts[f"{self.part}_{what}"] += times

    @property
    def _id(self) -> str:
        return f"{self.part}:{self.number}"

    # ------------------------------------------------------------------ one label a text, or a pair

    def _labelled(self, where: str, values: Values) -> Item | None:
        config = self.config
        assert config.label
        texts = tuple(_text(values[name], name, where) for name in config.texts)
        label = _label(values[config.label], config.label, where)
        if label in config.skip_labels:
            self._count("items_without_gold_label")
            return None
        self._count("empty", not all(text.strip() for text in texts))
        made = Labelled(self._id, texts, _number(label, where) if config.regression else label)
        group = texts[0]  # of a pair, the first text: one premise has several hypotheses
        if config.split not in (None, "hash"):
            group = str(values[config.split])
        return Item(made, where, group)

    # ------------------------------------------------------------------ a tag a word

    def _tagged(self, where: str, values: Values) -> Item | None:
        config = self.config
        if config.texts:  # rows of columns
            assert config.label
            words = _texts(values[config.texts[0]], config.texts[0], where)
            tags = _texts(values[config.label], config.label, where)
            if len(words) != len(tags):
                raise LmzooError(
                    f"{where} has {len(words)} words and {len(tags)} tags; give each word one tag"
                )
        else:
            words, tags = values["words"], values["tags"]
        if words[:1] == [DOCUMENT_MARK]:
            self._count("document_marks_skipped")
            words, tags = words[1:], tags[1:]
            if not words:
                return None
        if not words:
            self._count("sentences_without_words_skipped")
            return None
        self._count("empty_words", sum(not word.strip() for word in words))
        if config.metric == "entity_f1":
            tags = self._entity_tags(tags, where)
        made = Tagged(self._id, tuple(words), tuple(tags), values.get("text"))
        return Item(made, where, " ".join(words))

    def _entity_tags(self, tags: list[str], where: str) -> list[str]:
        for tag in tags:
            if not is_entity_tag(tag):
                raise LmzooError(
                    f"{where}: the sentence has the tag {tag!r}, and entities are tagged O, B-TYPE or I-TYPE "
                    "(IOB2); convert the file"
                )
        mended = repaired(tags)
        self._count("tags_repaired", sum(old != new for old, new in zip(tags, mended, strict=True)))
        return mended

    # ------------------------------------------------------------------ an answer out of a context

    def _question(self, where: str, values: Values) -> Item | None:
        config = self.config
        if config.texts:  # rows of columns
            assert config.label
            question, context = (_text(values[name], name, where) for name in config.texts)
            given = _answers(values[config.label], config.label, where)
        else:
            question, context, given = values["question"], values["context"], values["answers"]
        if not given:
            self._count("questions_without_answer_skipped")
            return None
        starts = [placed(context, text, start) for text, start in given]
        missing = sum(start == NOT_THERE for start in starts)
        self._count("answers_not_in_context", missing)
        moved = sum(new not in (NOT_THERE, old) for (_, old), new in zip(given, starts, strict=True))
        self._count("answer_offsets_mended", moved)
        answers = [(text, start) for (text, _), start in zip(given, starts, strict=True)]
        if self.part == "train":
            # there is nothing to point at
            answers = [(text, start) for text, start in answers if start != NOT_THERE]
            if not answers:
                self._count("questions_without_answer_in_context_skipped")
                return None
        self._count("empty", not question.strip() or not context.strip())
        made = Question(self._unused(values.get("id")), question, context, tuple(answers))
        return Item(made, where, context)

    def _unused(self, given: str | None) -> str:
        """The file's own id, unless it has none or an earlier question has it."""
        if not given or given in self._ids:
            self._count("repeated_ids", bool(given))
            return self._id
        self._ids.add(given)
        return given


def _text(value: Any, name: str, where: str) -> str:
    if not isinstance(value, str):
        raise LmzooError(f"{where}: {name} is no text ({_kind(value)}); the task's texts must name texts")
    return value


def _texts(value: Any, name: str, where: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise LmzooError(f"{where}: {name} is no list of texts ({_kind(value)}), one for each word")
    return value


def _label(value: Any, name: str, where: str) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, str | int | float) or not str(value).strip():
        raise LmzooError(f"{where} has no label in {name}; give one, or take the line out")
    return str(value).strip()


def _number(label: str, where: str) -> float:
    try:
        number = float(label)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise LmzooError(f"{where}: the label {label!r} is not a number, and the task is a regression")
    return number


def _answers(value: Any, name: str, where: str) -> list[tuple[str, int | None]]:
    """Out of ``{text: […], answer_start: […]}``, as on the hub, or a list of objects as in SQuAD."""
    if isinstance(value, dict) and isinstance(value.get("text"), list):
        starts = value.get("answer_start")
        starts = [*(starts if isinstance(starts, list) else []), *[None] * len(value["text"])]
        pairs = zip(value["text"], starts, strict=False)
        value = [{"text": text, "answer_start": start} for text, start in pairs]
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise LmzooError(
            f"{where}: {name} holds no answers ({_kind(value)}); write "
            '{"text": [ANSWER, …], "answer_start": [CHARACTER, …]}'
        )
    texts = [_text(one.get("text"), f"{name}.text", where) for one in value]
    return list(zip(texts, (_whole(one.get("answer_start")) for one in value), strict=True))


def _whole(value: Any) -> int | None:
    return value if type(value) is int else None


def _kind(value: Any) -> str:
    return "nothing" if value is None else f"a value of type {type(value).__name__}"
