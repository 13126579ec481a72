"""The n-gram model of a run's own training text, as the control beside what a neural model is measured by."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lmzoo.errors import LmzooError
from lmzoo.yardsticks.base import Asked
from lmzoo.yardsticks.ngram import MOST_TOKENS, NgramModel, train_on_part

if TYPE_CHECKING:
    from lmzoo.data.store import Store
    from lmzoo.inference.engine import Engine


@dataclass(frozen=True)
class Counted:
    """An n-gram model and what it is of."""

    model: NgramModel
    tokens: int
    """Of the training text, that were counted."""
    fingerprint: str
    """Of the tokenizer that the text was cut by."""

    def told(self, figure: float) -> dict[str, Any]:
        """What stands beside a model's figure: the control's own, on the same items."""
        return {"figure": figure, "order": self.model.order, "tokens": self.tokens}


def counted_of(store: Store, most_tokens: int = MOST_TOKENS) -> Counted:
    """The n-gram model of a prepared corpus's training part; see ``ngram.train_on_part``."""
    model, tokens = train_on_part(store.parts["train"], store.tokenizer.vocab_size, most_tokens=most_tokens)
    return Counted(model, tokens, store.tokenizer.fingerprint())


def control(asked: Asked, engine: Engine) -> Counted | dict[str, Any]:
    """The control of a measurement; where there is none, what stands in its place: the reason."""
    given: Callable[[], Counted] | None = asked.counted
    if given is None:
        return without("there is no training text beside this model")
    try:
        counted = given()
    except LmzooError as error:
        return without(str(error))
    if counted.fingerprint != engine.tokenizer.fingerprint():
        return without("the training text was cut by another tokenizer")
    return counted


def without(reason: str) -> dict[str, Any]:
    """What stands in the place of a control that there is not."""
    return {"figure": None, "reason": reason}


def stream_nats(counted: Counted, tokens: np.ndarray, documents: np.ndarray) -> np.ndarray:
    """(N,) nats that the control pays for running text; nothing for what begins a document, which is given.

    Args:
        counted: the control.
        tokens: (N,) ids, documents one after another.
        documents: (n,) where each starts.
    """
    return -counted.model.log_probabilities(tokens, starts=documents)


def sentence_nats(counted: Counted, engine: Engine, texts: Iterable[str]) -> np.ndarray:
    """(n,) logarithms of the probability of sentences, each a document of its own: [CLS] sentence [SEP]."""
    special = engine.special
    ids = engine.tokenizer.encode_batch(list(texts))
    return counted.model.scores([[special.cls, *row, special.sep] for row in ids])


def bits(nats: float, num_bytes: float) -> float:
    """Bits a byte; a text has some bytes, as documents that are blank are never read."""
    return nats / math.log(2) / num_bytes
