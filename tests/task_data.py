"""Small labelled tasks of every shape, made by hand, and small models to put them to."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from builders import SMALL
from inference_models import language_model
from lmzoo.inference.reading import Reader
from lmzoo.nn.sizes import complete
from lmzoo.tasks.config import TaskConfig
from lmzoo.tasks.encode import Frame, Framed, frame
from lmzoo.tasks.examples import Example, Labelled, Question, Tagged, TaskData
from lmzoo.tasks.run import Subject
from lmzoo.tasks.settings import Settings

WORDS = ["the", "cat", "sat", "on", "mat", "and", "it"]
TAGS = {"cat": "NOUN", "dog": "NOUN", "mat": "NOUN", "sat": "VERB"}
FAMILIES = [("elmo", "bilm"), ("gpt", "clm"), ("bert", "mlm"), ("bert", "mlm_nsp")]
SHAPES = ["sentence", "pair", "tagging", "spans", "number"]
CASES = [(*pair, shape) for pair in FAMILIES[:3] for shape in SHAPES] + [("bert", "mlm_nsp", "pair")]
METRICS = {"tagging": "accuracy", "spans": "exact_match_f1", "number": "pearson_spearman"}


def subject(family: str, objective: str, tokenizer, *, trained_length: int = 32, **changes) -> Subject:
    """A model of 16 dimensions with drawn weights, ready for a task."""
    model = language_model(family, objective, tokenizer, **changes)
    config = {name: value for name, value in changes.items() if hasattr(SMALL[family], name)}
    whole = complete(replace(SMALL[family], **config), size=None, pairs=objective == "mlm_nsp", seq_len=128)
    return Subject(model.engine, whole, trained_length)


def quick(tmp_path, **changes) -> Settings:
    """Settings of a short training without controls."""
    usual = {"seeds": [1], "random_control": False, "static_control": False, "cache_dir": str(tmp_path)}
    return Settings(**(usual | changes))


def task(shape: str, count: int = 300, *, seed: int = 0, length: int = 9) -> TaskData:
    """A task that is learned from a word alone: whether, how often or where there is a dog."""
    random = np.random.default_rng(seed)
    items = [_item(shape, number, random, length) for number in range(count)]
    labels = {"sentence": ["no", "yes"], "pair": ["no", "yes"], "tagging": ["NOUN", "OTHER", "VERB"]}
    config = TaskConfig(
        name=f"dogs_{shape}",
        shape="sentence" if shape == "number" else shape,
        regression=shape == "number",
        metric=METRICS.get(shape, "accuracy"),
    )
    first, second = count * 6 // 10, count * 8 // 10
    return TaskData(
        config, items[:first], items[first:second], items[second:], "valid", labels.get(shape, []), hash="h"
    )


def _words(random, length: int) -> list[str]:
    return list(random.choice(WORDS, random.integers(3, length)))


def _item(shape: str, number: int, random, length: int) -> Example:
    words, name = _words(random, length), str(number)
    place = random.integers(0, len(words))
    has = number % 2
    match shape:
        case "tagging":
            words[place] = "dog" if has else words[place]
            return Tagged(name, tuple(words), tuple(TAGS.get(word, "OTHER") for word in words))
        case "spans":
            words[place] = "dog"
            context = " ".join(words)
            return Question(name, "the dog", context, (("dog", context.index("dog")),))
        case "number":
            dogs = int(random.integers(0, 5))
            words = ["dog"] * dogs + list(random.choice(WORDS, 5 - dogs))
            return Labelled(name, (" ".join(random.permutation(words)),), float(dogs))
        case "pair":
            words[place] = "dog" if has else words[place]
            texts = (" ".join(_words(random, length)), " ".join(words))
            return Labelled(name, texts, "yes" if has else "no")
        case _:
            words[place] = "dog" if has else words[place]
            return Labelled(name, (" ".join(words),), "yes" if has else "no")


def framed(model: Subject, items, limit: int = 64, joint: str = " ", **how) -> Framed:
    """Items as rows."""
    engine = model.engine
    reader = Reader(engine.tokenizer, engine.backbone, vectors=model.model.vectors)
    return frame(engine, reader, items, Frame(limit, **how), joint)
