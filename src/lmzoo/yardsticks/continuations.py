"""What continuations are worth after their contexts, and running text in windows: for scorers outside."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import numpy as np
import torch

from lmzoo.errors import LmzooError
from lmzoo.inference.engine import BUCKET_TEXTS, Engine, by_length
from lmzoo.inference.model import LanguageModel
from lmzoo.inference.reading import Offsets, Readings
from lmzoo.inference.score import DIRECTIONS, MASKED, gap_nats


class Continuations:
    """Scores texts after other texts with one model, and counts those that it had to shorten."""

    def __init__(self, model: LanguageModel, batch_tokens: int) -> None:
        self.model = model
        self.engine = model.engine
        self.batch_tokens = batch_tokens
        self.shortened_texts = 0

    def after(self, pairs: Iterable[tuple[str, str]]) -> Iterator[tuple[float, bool]]:
        """Each continuation's nats after its context, and whether a causal model would say just that.

        A token that holds parts of both is the continuation's, and so are blanks at the end of a context.
        By a causal model it is the log-likelihood of the continuation's tokens; by a masked one their
        pseudo-log-likelihood, the context in sight; by two directions the mean of the forward one's
        log-likelihood and log P(context, continuation) - log P(context) from the end. Where the model's
        table of positions is too short, the beginning of the context is left off.

        Args:
            pairs: context and continuation.

        Raises:
            LmzooError: a continuation alone is longer than the model reads.
        """
        engine, source = self.engine, iter(pairs)
        while held := list(islice(source, BUCKET_TEXTS)):
            cut = [self._joined(context, continuation) for context, continuation in held]
            texts, before = [text for text, _ in cut], [text[:bound] for text, bound in cut]
            readings = engine.reader.read(texts, offsets=True)
            firsts = [
                sum(end <= bound for _, end in places)
                for places, (_, bound) in zip(readings.offsets, cut, strict=True)
            ]
            if engine.name in MASKED:
                yield from _masked(engine, readings, firsts, self.batch_tokens)
                continue
            forward = _forward(engine, readings, firsts, self.batch_tokens)
            if engine.name != "bilm":
                yield from forward
                continue
            backward = self._backward([*texts, *before])
            for i, (nats, _) in enumerate(forward):
                yield (nats + backward[texts[i]] - backward[before[i]]) / 2, False

    def _joined(self, context: str, continuation: str) -> tuple[str, int]:
        """The text that is read, and where the continuation begins in it."""
        text, bound = context + continuation, len(context.rstrip())
        most = self.engine.reader.max_tokens
        return (text, bound) if most is None else self.shortened(text, most, bound)

    def _backward(self, texts: Iterable[str]) -> dict[str, float]:
        """Nats of every text from its end."""
        distinct = list(dict.fromkeys(texts))
        scores = self.model.score_stream(distinct, details=False, batch_tokens=self.batch_tokens)
        return {text: score.backward or 0.0 for text, score in zip(distinct, scores, strict=True)}

    def shortened(self, text: str, most: int, bound: int | None = None) -> tuple[str, int]:
        """The last ``most`` tokens of a text, and where what must stay (from ``bound`` on) begins in them.

        Raises:
            LmzooError: that alone is longer.
        """
        tokenizer = self.engine.tokenizer
        removed = 0
        while len(places := tokenizer.encode_with_offsets([text[removed:]])[0][1]) > most:
            removed += max(1, places[len(places) - most][0])
            if bound is not None and removed > bound:
                raise LmzooError(
                    f"the continuation {text[bound:][:40]!r}… has more than the {most} tokens that this "
                    "model reads; leave its task out"
                )
        self.shortened_texts += removed > 0
        return text[removed:], max(0, (bound or 0) - removed)

    def windows(self, text: str, most: int) -> Iterator[str]:
        """Consecutive parts of a text, of at most ``most`` tokens each.

        They end before a word that follows white space, if there is one in their second half.
        """
        tokenizer = self.engine.tokenizer
        places = tokenizer.encode_with_offsets([text])[0][1]
        begin = first = 0
        while begin < len(text):
            last = first + most
            while True:
                end = len(text) if last >= len(places) else _word_start(text, places, first, last)
                part = text[begin : max(end, begin + 1)]
                # a part may have more tokens than it had inside the whole
                if last <= first + 1 or len(tokenizer.encode_batch([part])[0]) <= most:
                    break
                last -= 1
            yield part
            begin += len(part)
            while first < len(places) and places[first][0] < begin:
                first += 1


def _word_start(text: str, places: Offsets, first: int, last: int) -> int:
    """Where the last token up to ``last`` begins that begins a word after white space, in characters.

    If there is none in the second half of what follows ``first``, where the last token begins.
    """
    for start, _ in reversed(places[(first + last + 1) // 2 : last + 1]):
        if text[start].isspace() or text[start - 1].isspace():
            return start
    return places[last][0]


def _forward(
    engine: Engine, readings: Readings, firsts: Sequence[int], batch_tokens: int
) -> list[tuple[float, bool]]:
    """Nats of each text's tokens from the first that is asked on, and whether each is the likeliest there."""
    opened = engine.has_opening
    rows = [engine.row(inputs, opened=opened) for inputs in readings.inputs]
    found = [(0.0, True)] * len(rows)
    for group in by_length([len(row) for row in rows], batch_tokens):
        batch = engine.batch([rows[i] for i in group], readings)
        length = batch.tokens.shape[1]
        # without a token before it, the first of a text is given and costs nothing
        asked = [
            (row, place)
            for row, i in enumerate(group)
            for place in range(max(firsts[i], 1 - opened), len(readings.ids[i]))
        ]
        targets = [readings.ids[group[row]][place] for row, place in asked]
        places = [row * length + place + opened - 1 for row, place in asked]
        with engine.running():
            states = engine.objective.stream(engine.backbone(batch), DIRECTIONS[engine.name][0])
            chosen = states.flatten(0, 1)[torch.tensor(places, dtype=torch.long, device=engine.device)]
            nats, hits = engine.objective.head.scores(
                chosen, torch.tensor(targets, dtype=torch.long, device=engine.device)
            )
            assert hits is not None
        owners = np.array([row for row, _ in asked], dtype=np.int64)
        sums = np.bincount(owners, -nats.double().cpu().numpy(), len(group))
        misses = np.bincount(owners, ~hits.cpu().numpy(), len(group))
        for row, i in enumerate(group):
            found[i] = float(sums[row]), bool(misses[row] == 0)
    return found


def _masked(
    engine: Engine, readings: Readings, firsts: Sequence[int], batch_tokens: int
) -> Iterator[tuple[float, bool]]:
    """Nats of each text's tokens from the first that is asked on, each masked alone."""
    asked = [
        (i, place, place)
        for i, (ids, first) in enumerate(zip(readings.ids, firsts, strict=True))
        for place in range(first, len(ids))
    ]
    gaps = np.array(asked, dtype=np.int64).reshape(-1, 3)
    nats = gap_nats(engine, readings, gaps, batch_tokens)
    for total in np.bincount(gaps[:, 0], nats, len(readings.ids)):
        yield float(total), False
