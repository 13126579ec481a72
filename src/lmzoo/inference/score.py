"""How likely texts are: log-likelihoods in nats, one direction or two, or with each token masked alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lmzoo.errors import LmzooError
from lmzoo.inference.engine import BATCH_TOKENS, Engine, by_length
from lmzoo.inference.reading import Offsets, Readings
from lmzoo.types import Hidden

DIRECTIONS = {"clm": ("clm",), "bilm": ("forward", "backward")}
"""Parts of the objectives that predict from neighbours."""
MASKED = ("mlm", "mlm_nsp")


@dataclass
class TextScore:
    """How likely a text is; all numbers are logarithms of probabilities, in nats, and at most 0."""

    text: str
    kind: str
    """`log-likelihood`; `mean of two directions` (bilm); `pseudo-log-likelihood`, each token masked
    alone (Salazar et al. 2020, equation 2), which is no probability of the text."""
    nats: float
    tokens: int
    """Tokens of the text, special tokens not counted."""
    unknown: int
    """Those that the vocabulary does not have: scored as the unknown token, whatever they spell."""
    token_nats: list[float]
    """A number a token; with `ending` they leave that out."""
    offsets: Offsets = field(default_factory=list)
    """Start and end of every token in the text, in characters."""
    ending: float | None = None
    """What the end of the text adds to `nats`, if asked for."""
    forward: float | None = None
    """Of a bilm: the text from its beginning."""
    backward: float | None = None
    """Of a bilm: the text from its end."""


def score_stream(
    engine: Engine,
    texts: Iterable[str],
    *,
    ending: bool = False,
    batch_tokens: int = BATCH_TOKENS,
    truncate: bool = False,
    details: bool = True,
) -> Iterator[TextScore]:
    """Each text's score, in order, holding some thousands of texts at a time.

    Args:
        engine: the model.
        texts: any number.
        ending: add the probability that the text ends where it does ([SEP]; backward, [CLS]).
        batch_tokens: tokens of a batch, padding included.
        truncate: score the beginning of a text that is too long, instead of refusing it.
        details: whether the tokens' offsets are wanted.

    Raises:
        LmzooError: the objective gives no such number, or a text is too long.
    """
    if engine.name not in (*DIRECTIONS, *MASKED):
        known = " or ".join((*DIRECTIONS, *MASKED))
        raise LmzooError(f"objective={engine.name} cannot score; a model trained with objective={known} can")
    if ending and engine.name in MASKED:
        raise LmzooError(
            f"objective={engine.name} cannot say how likely a text's end is; "
            "a model trained with objective=clm or bilm can"
        )
    for readings in engine.buckets(texts, offsets=details, truncate=truncate):
        if engine.name in MASKED:
            yield from _masked_scores(engine, readings, batch_tokens)
        else:
            yield from _neighbour_scores(engine, readings, batch_tokens, ending)


def _neighbour_scores(
    engine: Engine, readings: Readings, batch_tokens: int, ending: bool
) -> Iterator[TextScore]:
    """Each token from those before it, or from those after it as well."""
    opened = engine.has_opening
    rows = [engine.row(inputs, opened=opened) for inputs in readings.inputs]
    parts = DIRECTIONS[engine.name]
    found: list[dict[str, list[float]]] = [{} for _ in rows]
    for group in by_length([len(row) for row in rows], batch_tokens):
        batch = engine.batch([rows[i] for i in group], readings)
        with engine.running():
            hidden = engine.backbone(batch)
            for part in parts:
                asked = [_asked(engine, readings.ids[i], part, ending) for i in group]
                for i, nats in zip(group, _nats(engine, hidden, part, asked), strict=True):
                    # without a token before it, the first is given and costs nothing
                    found[i][part] = nats if opened or not readings.ids[i] else [0.0, *nats]
    for i in range(len(rows)):
        directions = {part: found[i][part] for part in parts}
        ends = None
        if ending:
            ends = [nats.pop(0 if part == "backward" else -1) for part, nats in directions.items()]
        yield _summed(engine, readings, i, directions, ends)


def _asked(engine: Engine, ids: list[int], part: str, ending: bool) -> tuple[list[int], int]:
    """The tokens that are predicted in a row, and the place from which the first is; the others follow.

    A row is [CLS], the text, and for two directions [SEP]; the past predicts from the place before a
    token, the future from the place after it.
    """
    if part == "backward":
        return ([engine.special.cls, *ids], 1) if ending else (ids, 2)
    asked = ids if engine.has_opening else ids[1:]
    return ([*asked, engine.special.sep] if ending else asked), 0


def _nats(engine: Engine, hidden: Hidden, part: str, asked: list[tuple[list[int], int]]) -> list[list[float]]:
    """Log-probability of everything that is asked of each row."""
    states = engine.objective.stream(hidden, part)  # (B, T, D)
    length = states.shape[1]
    places = [row * length + first + i for row, (ids, first) in enumerate(asked) for i in range(len(ids))]
    targets = [token for ids, _ in asked for token in ids]
    nats = iter(_log_probabilities(engine, states, places, targets))
    return [[next(nats) for _ in ids] for ids, _ in asked]


def _log_probabilities(engine: Engine, states: Tensor, places: list[int], targets: list[int]) -> list[float]:
    """Of each target, from the state at its place among the B·T positions."""
    chosen = states.flatten(0, 1)[torch.tensor(places, dtype=torch.long, device=engine.device)]
    nats, _ = engine.objective.head.scores(
        chosen, torch.tensor(targets, dtype=torch.long, device=engine.device)
    )
    return (-nats).tolist()


def _masked_scores(engine: Engine, readings: Readings, batch_tokens: int) -> Iterator[TextScore]:
    """Each token from all the others: as many rows as tokens, the token masked in its own."""
    mask = engine.mask()
    rows = [engine.row(inputs) for inputs in readings.inputs]
    asked = [(i, place) for i, ids in enumerate(readings.ids) for place in range(len(ids))]
    found = [[0.0] * len(ids) for ids in readings.ids]
    for group in by_length([len(rows[i]) for i, _ in asked], batch_tokens):
        masked = [list(rows[asked[g][0]]) for g in group]
        for row, g in zip(masked, group, strict=True):
            row[1 + asked[g][1]] = mask
        batch = engine.batch(masked, readings)
        with engine.running():
            states = engine.objective.stream(engine.backbone(batch), "mlm")
            length = states.shape[1]
            places = [n * length + 1 + asked[g][1] for n, g in enumerate(group)]
            targets = [readings.ids[asked[g][0]][asked[g][1]] for g in group]
            for g, nats in zip(group, _log_probabilities(engine, states, places, targets), strict=True):
                found[asked[g][0]][asked[g][1]] = nats
    for i in range(len(rows)):
        yield _summed(engine, readings, i, {"mlm": found[i]}, None)


_KINDS = {"clm": "log-likelihood", "bilm": "mean of two directions"}


def _summed(
    engine: Engine,
    readings: Readings,
    number: int,
    directions: dict[str, list[float]],
    ends: list[float] | None,
) -> TextScore:
    """One text's score, from the log-probabilities of its tokens in each direction."""
    several = list(directions.values())
    token_nats = [sum(nats) / len(several) for nats in zip(*several, strict=True)]
    ending = None if ends is None else sum(ends) / len(ends)
    totals = {part: sum(nats) for part, nats in directions.items()}
    for part, end in zip(totals, ends or [], strict=False):
        totals[part] += end
    return TextScore(
        text=readings.texts[number],
        kind=_KINDS.get(engine.name, "pseudo-log-likelihood"),
        nats=sum(totals.values()) / len(totals),
        tokens=len(token_nats),
        unknown=readings.unknown[number],
        token_nats=token_nats,
        offsets=readings.offsets[number],
        ending=ending,
        forward=totals.get("forward"),
        backward=totals.get("backward"),
    )
