"""Vectors of tokens and of sentences, from any layer or a mixture of all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lmzoo.errors import LmzooError, one_of
from lmzoo.inference.engine import BATCH_TOKENS, BUCKET_CHARACTERS, Engine, by_length
from lmzoo.inference.reading import Readings
from lmzoo.nn.scalar_mix import ScalarMix
from lmzoo.types import NO_DOCUMENT, Batch, Context, Trace

POOLINGS = ("cls", "mean", "last")
LAYERS = ("mixed", "all")


@dataclass(frozen=True)
class TokenVectors:
    """A text's tokens, special tokens left out."""

    vectors: np.ndarray
    """(T, D) float32, or (L, T, D) for all layers; two streams are laid side by side, past before
    future, so that D is twice the hidden size."""
    offsets: list[tuple[int, int]]
    """Start and end of every token in the text, in characters; pieces of one character share its place,
    and one that holds parts of two characters has the place of both."""
    tokens: list[str]
    """What every token spells; bytes that are no whole character as escapes, e.g. ``\\xe7``."""


@dataclass(frozen=True)
class Wanted:
    """What is asked of every text; see ``LanguageModel.embed``."""

    layer: int | str | None = None
    pooling: str | None = None
    weights: Sequence[float] | None = None
    batch_tokens: int = BATCH_TOKENS
    truncate: bool = False


def embed_stream(
    engine: Engine, texts: Iterable[str], wanted: Wanted
) -> Iterator[TokenVectors] | Iterator[np.ndarray]:
    """Each text's vectors, in order, holding some thousands of texts at a time.

    Yields:
        ``TokenVectors``, or with a pooling (D,) float32, (L, D) for all layers.

    Raises:
        LmzooError: there is no such layer or pooling, or a text is too long.
    """
    _check(engine, wanted)
    # tokens of all layers are the largest result: fewer of them are held
    characters = BUCKET_CHARACTERS if wanted.pooling else BUCKET_CHARACTERS // 4
    if wanted.layer == "all":
        characters //= 8
    buckets = engine.buckets(
        texts, characters=characters, offsets=wanted.pooling is None, truncate=wanted.truncate
    )
    for readings in buckets:
        yield from _embed(engine, readings, wanted)  # type: ignore[misc]


def _check(engine: Engine, wanted: Wanted) -> None:
    layer, pooling = wanted.layer, wanted.pooling
    if isinstance(layer, bool) or not (layer is None or isinstance(layer, int) or layer in LAYERS):
        raise LmzooError(f"layer={layer} is not known; give a number, mixed or all, or leave it out")
    if wanted.weights is not None and layer != "mixed":
        raise LmzooError("weights are shares of the layers in a mixture; they need layer=mixed")
    if pooling is not None:
        one_of("pooling", pooling, POOLINGS)
    if pooling == "cls" and engine.context is not Context.FULL:
        raise LmzooError(
            f"pooling=cls needs a model whose [CLS] sees the whole text, and this one's context is "
            f"{engine.context.value}; take pooling=mean or last"
        )


def _embed(engine: Engine, readings: Readings, wanted: Wanted) -> list:
    """The vectors of every text that was read, in order."""
    rows = [engine.row(inputs) for inputs in readings.inputs]
    found: list = [None] * len(rows)
    for group in by_length([len(row) for row in rows], wanted.batch_tokens):
        batch = engine.batch([rows[i] for i in group], readings)
        with engine.running():
            states = _states(engine, batch, wanted)  # (B, T, D) or (B, L, T, D)
            if wanted.pooling:
                pooled = _pooled(states, batch, wanted.pooling, engine.context)
                found_here = list(pooled.float().cpu().numpy())
            else:
                found_here = list(states.float().cpu().numpy())
        for i, vectors in zip(group, found_here, strict=True):
            if not wanted.pooling:
                ids, offsets = readings.ids[i], readings.offsets[i]
                inner = vectors[..., engine.opening : engine.opening + len(ids), :].copy()
                vectors = TokenVectors(inner, offsets, engine.pieces.of(readings.texts[i], ids, offsets))
            found[i] = vectors
    return found


def _states(engine: Engine, batch: Batch, wanted: Wanted) -> Tensor:
    """(B, T, D), or (B, L, T, D) for all layers."""
    if wanted.layer is None:
        return torch.cat(engine.backbone(batch).streams, dim=-1)
    trace = Trace()
    engine.backbone(batch, trace)
    count = len(trace.layers)
    if isinstance(wanted.layer, int):
        if not -count <= wanted.layer < count:
            raise LmzooError(
                f"layer={wanted.layer}: this model has the layers 0 (the embedding) to {count - 1}"
            )
        return torch.cat(trace.layers[wanted.layer], dim=-1)
    layers = [torch.cat(streams, dim=-1).float() for streams in trace.layers]
    if wanted.layer == "all":
        return torch.stack(layers, dim=1)
    mix = ScalarMix(count, trainable=False).to(engine.device)
    mix.weights.copy_(torch.tensor(shares(wanted.weights, count)).log())
    return mix(layers, batch.documents != NO_DOCUMENT)


def shares(weights: Sequence[float] | None, count: int) -> list[float]:
    """What each of ``count`` layers has of a mixture; the shares sum to 1.

    Raises:
        LmzooError: ``weights`` are not as many, or are negative, or sum to nothing.
    """
    if weights is None:
        return [1 / count] * count
    given = [float(weight) for weight in weights]
    if len(given) != count or min(given) < 0 or not 0 < sum(given) < float("inf"):
        raise LmzooError(
            f"weights={given}: this model mixes {count} layers (the embedding is the first); "
            f"give {count} shares, none below 0 and not all 0"
        )
    return [weight / sum(given) for weight in given]


def _pooled(states: Tensor, batch: Batch, pooling: str, context: Context) -> Tensor:
    """(B, D) or (B, L, D): one vector a row.

    Mean and last count every position of the row, special tokens too, as sentence-transformers does.
    """
    is_text = batch.documents != NO_DOCUMENT  # (B, T)
    if pooling == "cls":
        return states[..., 0, :]
    if pooling == "mean":
        shape = [len(is_text), *[1] * (states.dim() - 3), is_text.shape[1], 1]
        inside = is_text.view(shape).to(states.dtype)
        return (states * inside).sum(-2) / inside.sum(-2)
    rows = torch.arange(len(is_text), device=states.device)
    last = states.movedim(-2, 1)[rows, is_text.sum(1) - 1]
    if context is not Context.APART:
        return last
    # each stream where it has read the whole row: the future has at the row's beginning
    width = states.shape[-1] // 2
    return torch.cat([last[..., :width], states[..., 0, width:]], dim=-1)
