"""One token after another: what comes next, with a cache of what was read or without."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lmzoo import rng
from lmzoo.inference.engine import Engine
from lmzoo.inference.reading import Readings
from lmzoo.types import Batch, Context


class Continuation:
    """Rows of tokens side by side, each of which grows by a token a step."""

    def __init__(
        self, engine: Engine, rows: Sequence[list[int]], readings: Readings, room: int, use_cache: bool
    ) -> None:
        """
        Args:
            engine: of a causal model.
            rows: the prompts' ids with [CLS] before them; padded on the left where they differ.
            readings: where they come from.
            room: tokens that will be added to a row at most.
            use_cache: keep what was read; without, every step reads the rows anew.
        """
        assert engine.context is Context.PAST
        self.engine = engine
        self.rows = [list(row) for row in rows]
        self._readings = readings
        self._cache = None
        if use_cache:
            longest = max(len(row) for row in rows)
            self._cache = engine.backbone.start(len(rows), longest + room)
        self.logits = self._read(engine.batch(self.rows, readings, left=True))
        """(B, V) float32 of every row's next token."""

    def append(self, parents: Sequence[int], tokens: Sequence[int]) -> None:
        """Go on with these rows: row ``parents[i]`` as it was, with ``tokens[i]`` after it.

        A row may be left out, or come several times.
        """
        unchanged = list(parents) == list(range(len(self.rows)))
        lengths = [len(self.rows[parent]) for parent in parents]
        self.rows = [[*self.rows[parent], token] for parent, token in zip(parents, tokens, strict=True)]
        if self._cache is None:
            batch = self.engine.batch(self.rows, self._readings, left=True)
        else:
            if not unchanged:
                self._cache.select(torch.tensor(parents, device=self.engine.device))
            batch = self.engine.batch([[token] for token in tokens], self._readings, starts=lengths)
        self.logits = self._read(batch)

    def _read(self, batch: Batch) -> Tensor:
        engine = self.engine
        with engine.running():
            if self._cache is None:
                (states,) = engine.backbone(batch).streams
            else:
                states = engine.backbone.extend(batch, self._cache)
            return engine.objective.head.logits(states[:, -1]).float()


def distribution(
    logits: Tensor, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None
) -> Tensor:
    """What is drawn from: (B, V) float64 probabilities.

    First the logits are divided by the temperature, then all but the ``top_k`` likeliest fall out (Fan,
    Lewis and Dauphin 2018, section 5.4; ties with the last of them stay), then all but the fewest that
    together have at least ``top_p`` (Holtzman et al. 2020, section 3.1).
    """
    logits = logits.double() / temperature
    if top_k is not None:
        least = logits.topk(min(top_k, logits.shape[-1]), dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < least, float("-inf"))
    probabilities = logits.softmax(-1)
    if top_p is not None:
        ordered, order = probabilities.sort(dim=-1, descending=True, stable=True)
        surplus = ordered.cumsum(-1) - ordered >= top_p  # those before it suffice
        kept = ordered.masked_fill(surplus, 0.0)
        probabilities = torch.zeros_like(kept).scatter(-1, order, kept)
    return probabilities / probabilities.sum(-1, keepdim=True)


def draw(probabilities: Tensor, key: int, rows: Sequence[int], step: int) -> Tensor:
    """(B,) one token a row; a pure function of the key, the row's number and the step.

    Args:
        probabilities: (B, V), see ``distribution``.
        key: names the purpose and the seed.
        rows: each row's number among all that are generated, whatever batch it is in.
        step: how many tokens the rows have been given.
    """
    numbers = torch.tensor(rows, device=probabilities.device)
    drawn = rng.uniform(key, numbers, torch.full_like(numbers, step))
    bounds = probabilities.cumsum(-1)
    # the first bound above: a token without any probability is never it
    places = torch.searchsorted(bounds, (drawn * bounds[:, -1])[:, None], right=True)[:, 0]
    return places.clamp(max=probabilities.shape[-1] - 1)
