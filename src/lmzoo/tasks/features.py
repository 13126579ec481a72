"""Features of a frozen model: the vectors of all layers that a task asks for, computed once and kept on disk.

They are found again by a hash of the weights, the rows and what is kept of them. Features that do not fit
into their room (see ``store``) are computed anew whenever they are wanted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor

from lmzoo.backbone import Backbone
from lmzoo.inference.engine import BATCH_TOKENS, Engine, by_length
from lmzoo.inference.reading import Readings
from lmzoo.inference.sources import slow_progress
from lmzoo.tasks.encode import Framed
from lmzoo.tasks.heads import pooled
from lmzoo.tasks.store import FeatureStore
from lmzoo.types import NO_DOCUMENT, Batch, Context, Trace

FORMAT = 1
"""Part of every hash: raise it when the same model and rows give something else."""
_LARGEST = 65504.0
"""Of float16."""
_SAMPLE = 2000
"""Sequences from which a layer's mean and deviation are taken at most."""
_UNITS = 2**15
"""Units of them at most: an answer's context has hundreds."""


@dataclass(frozen=True)
class Keep:
    """What is kept of a row's states."""

    unit: str
    """``row``: one pooled vector a row; ``word``: one a word; ``token``: one a position."""
    pool: str = "mean"
    """``unit=row``: see ``heads.pooled``."""
    pieces: str = "first"
    """``unit=word``: its ``first`` sub-word or the ``mean`` of them."""
    static: bool = False
    """Layer 0 alone, for which no encoder has to run."""


class Units:
    """Which positions make each unit, and which units make each sequence (a row, or a tagged sentence).

    Unit u is made of the positions ``begins[u]`` to ``ends[u]`` of the row ``rows[u]``, -1 for a word of no
    sub-word; sequence s has the units ``bounds[s]`` to ``bounds[s + 1]``.
    """

    def __init__(self, framed: Framed, keep: Keep) -> None:
        lengths = np.array([len(row) for row in framed.rows], dtype=np.int64)
        if keep.unit == "word":
            words = np.concatenate([np.zeros((0, 3), dtype=np.int64), *framed.words])
            self.bounds = np.cumsum([0, *map(len, framed.words)])
            self.rows, self.begins, self.ends = words.T
            if keep.pieces == "first":
                self.ends = np.where(self.rows >= 0, self.begins + 1, self.ends)
            self.rows_of = [np.unique(w[w[:, 0] >= 0, 0]) for w in framed.words]
        elif keep.unit == "token":
            self.bounds = np.concatenate([[0], lengths.cumsum()])
            self.rows = np.repeat(np.arange(len(lengths)), lengths)
            self.begins = np.arange(len(self.rows)) - np.repeat(self.bounds[:-1], lengths)
            self.ends = self.begins + 1
            self.rows_of = [np.array([row]) for row in range(len(lengths))]
        else:
            self.bounds = np.arange(len(lengths) + 1)
            self.rows, self.begins, self.ends = np.arange(len(lengths)), np.zeros_like(lengths), lengths
            self.rows_of = [np.array([row]) for row in range(len(lengths))]
        order = np.argsort(self.rows, kind="stable")
        self._order = order[np.searchsorted(self.rows[order], 0) :]  # without words of no sub-word
        self._first = np.searchsorted(self.rows[self._order], np.arange(len(lengths) + 1))

    def __len__(self) -> int:
        return len(self.rows)

    def of_row(self, row: int) -> np.ndarray:
        """Numbers of the units that lie in a row."""
        return self._order[self._first[row] : self._first[row + 1]]

    def of(self, sequences: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of the units of several sequences in order, and how many each has."""
        counts = self.bounds[sequences + 1] - self.bounds[sequences]
        starts = np.repeat(self.bounds[sequences] - (counts.cumsum() - counts), counts)
        return starts + np.arange(int(counts.sum())), counts


def batch_of_rows(engine: Engine, framed: Framed, numbers: Sequence[int]) -> Batch:
    """Some of the rows as a batch on the engine's device, with segments where the model has them."""
    rows = [framed.rows[i] for i in numbers]
    batch = engine.batch(rows, Readings([], [], [], [], framed.unseen, []))
    table = engine.backbone.embedding.segments
    if table is None or table.num_embeddings < 2:
        return batch
    starts = torch.tensor([framed.second[i] for i in numbers], device=engine.device)
    positions = torch.arange(batch.tokens.shape[1], device=engine.device)
    is_second = (positions >= starts[:, None]) & (batch.documents != NO_DOCUMENT)
    return batch.replace(segments=is_second.long())


def _states(engine: Engine, batch: Batch, *, static: bool) -> Tensor:
    """(B, L, T, D), two streams side by side."""
    backbone = engine.backbone
    if static:
        x = backbone.embedding(batch.tokens, batch.positions, batch.segments, batch.unseen)
        return torch.cat([x] * (2 if engine.context is Context.APART else 1), dim=-1)[:, None]
    trace = Trace()
    backbone(batch, trace)
    return torch.stack([torch.cat(streams, dim=-1).float() for streams in trace.layers], dim=1)


def compute(
    engine: Engine, framed: Framed, units: Units, keep: Keep, rows: Sequence[int]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The features of all units in some rows.

    Yields:
        numbers of units, and (n, L, D) float16 of them.
    """
    for group in by_length([len(framed.rows[row]) for row in rows], BATCH_TOKENS):
        here = [rows[i] for i in group]
        found = [units.of_row(row) for row in here]
        numbers = np.concatenate(found)
        if not len(numbers):
            continue
        batch = batch_of_rows(engine, framed, here)
        with engine.running():
            states = _states(engine, batch, static=keep.static)
            if keep.unit == "row":
                is_text = batch.documents != NO_DOCUMENT
                vectors = pooled(states, is_text, keep.pool, apart=engine.context is Context.APART)
            else:
                place = np.repeat(np.arange(len(here)), [len(units_here) for units_here in found])
                vectors = gathered(states, place, units.begins[numbers], units.ends[numbers])
            vectors = vectors.float().clamp(-_LARGEST, _LARGEST).to(torch.float16)
        yield numbers, vectors.cpu().numpy()


def gathered(states: Tensor, rows: np.ndarray, begins: np.ndarray, ends: np.ndarray) -> Tensor:
    """(n, L, D) means of (B, L, T, D) over positions ``begins`` to ``ends``, at least one, of ``rows``."""
    counts = ends - begins
    device = states.device
    unit = np.repeat(np.arange(len(rows)), counts)
    position = np.arange(int(counts.sum())) - np.repeat(counts.cumsum() - counts, counts) + begins[unit]
    pieces = states[torch.from_numpy(rows[unit]).to(device), :, torch.from_numpy(position).to(device)]
    if len(unit) == len(rows):  # one position a unit
        return pieces
    sums = pieces.new_zeros(len(rows), *pieces.shape[1:]).float()
    sums.index_add_(0, torch.from_numpy(unit).to(device), pieces.float())
    return sums / torch.from_numpy(counts).to(sums)[:, None, None]


class Features:
    """The features of all units, kept or computed when they are wanted."""

    def __init__(
        self, engine: Engine, framed: Framed, keep: Keep, store: FeatureStore, *, weights: str, what: str
    ) -> None:
        """
        Args:
            engine: the model.
            framed: the rows.
            keep: what is kept of them.
            store: where.
            weights: what decides the model's states: see ``weights_hash``.
            what: for people, beside the file.
        """
        self.engine, self.framed, self.keep = engine, framed, keep
        self.units = Units(framed, keep)
        shortest = min(range(len(framed.rows)), key=lambda row: len(framed.rows[row]))
        with engine.running():
            seen = _states(engine, batch_of_rows(engine, framed, [shortest]), static=keep.static)
        width = seen.shape[-1] * (3 if keep.unit == "row" and keep.pool == "concat" else 1)
        self.shape = len(self.units), seen.shape[1], width
        """Units, L, D."""
        self._scales: dict[bytes, tuple[Tensor, Tensor]] = {}
        key = f"{weights} {FORMAT} {engine.dtype} {asdict(keep)} {rows_hash(framed)}"
        name = hashlib.blake2b(key.encode(), digest_size=16).hexdigest()
        self._held = store.open(name, self.shape, self._fill, what)
        self.kept = self._held is not None
        """Whether they are on disk."""

    def _fill(self, target: np.ndarray) -> None:
        rows = list(range(len(self.framed.rows)))
        with slow_progress("features", len(rows)) as advance:
            for some in (rows[i : i + 4096] for i in range(0, len(rows), 4096)):
                for numbers, vectors in compute(self.engine, self.framed, self.units, self.keep, some):
                    target[numbers] = vectors
                advance(len(some))

    def take(self, sequences: np.ndarray, layers: Sequence[int]) -> Tensor:
        """(N, len(layers), D) float32 on the engine's device: of all units of these sequences, in order."""
        numbers, _ = self.units.of(sequences)
        if self._held is not None:
            found = self._held[numbers] if len(layers) > 1 else self._held[numbers, layers[0]][:, None]
        else:
            found = self._computed(sequences, numbers)
        if found.shape[1] != len(layers):
            found = found[:, list(layers)]
        return torch.from_numpy(np.ascontiguousarray(found)).to(self.engine.device).float()

    def _computed(self, sequences: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        rows = np.unique(np.concatenate([self.units.rows_of[sequence] for sequence in sequences]))
        found = np.zeros((len(numbers), *self.shape[1:]), dtype=np.float16)
        place = np.full(len(self.units), -1, dtype=np.int64)
        place[numbers] = np.arange(len(numbers))
        for some, vectors in compute(self.engine, self.framed, self.units, self.keep, rows.tolist()):
            wanted = place[some] >= 0
            found[place[some][wanted]] = vectors[wanted]
        return found

    def scale(self, sequences: np.ndarray) -> tuple[Tensor, Tensor]:
        """(L, 1) mean and deviation of each layer over a spread sample of these sequences.

        Layers of one scale are what the weights of a mixture compare (Peters et al. 2018, section 3.2), and
        one learning rate serves all of them.
        """
        if (known := self._scales.get(sequences.tobytes())) is not None:
            return known
        each = float(self.units.of(sequences)[1].mean()) if len(sequences) else 1.0
        count = max(1, min(len(sequences), _SAMPLE, int(_UNITS / max(each, 1.0))))
        spread = np.linspace(0, len(sequences) - 1, count if len(sequences) else 0).astype(np.int64)
        x = self.take(sequences[spread], range(self.shape[1]))
        if not len(x):
            x = x.new_zeros(1, *self.shape[1:])
        mean = x.mean(dim=(0, 2))[:, None]
        deviation = (x - mean).square().mean(dim=(0, 2)).sqrt()[:, None]
        found = self._scales[sequences.tobytes()] = mean, deviation.clamp_min(1e-6)
        return found


def weights_hash(backbone: Backbone, *settings: object) -> str:
    """Of a backbone's tensors, and of what else decides its states."""
    found = hashlib.blake2b(repr(settings).encode(), digest_size=16)
    for name, tensor in backbone.state_dict().items():
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        found.update(raw.numpy().data)
    return found.hexdigest()


def rows_hash(framed: Framed) -> str:
    """Of everything about the rows that features depend on."""
    found = hashlib.blake2b(digest_size=16)
    lengths = [len(row) for row in framed.rows]
    flat = np.fromiter((i for row in framed.rows for i in row), dtype=np.int64, count=sum(lengths))
    for part in (np.array(lengths), flat, np.array(framed.second), *framed.words):
        found.update(np.ascontiguousarray(part).tobytes())
        found.update(b"|")
    if framed.unseen is not None:
        found.update(framed.unseen.contiguous().numpy().tobytes())
    return found.hexdigest()
