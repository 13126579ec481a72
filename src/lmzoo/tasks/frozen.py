"""Heads over features that stay as they are: ELMo's learned mixture, TagLM's top layer, one layer alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lmzoo.errors import LmzooError
from lmzoo.nn.dropout import Dropout
from lmzoo.nn.scalar_mix import ScalarMix
from lmzoo.tasks.encode import Framed
from lmzoo.tasks.examples import Example, Tagged
from lmzoo.tasks.features import Features, Keep
from lmzoo.tasks.goals import Goal
from lmzoo.tasks.heads import RowLstm, padded, paired, pooled, small_linear, text_mask
from lmzoo.tasks.schedule import rated
from lmzoo.tasks.settings import Settings
from lmzoo.types import Context


def keep_of(shape: str, settings: Settings, context: Context) -> Keep:
    """What of the states a probe needs.

    Raises:
        LmzooError: a pooling that means nothing here.
    """
    if shape == "tagging":
        return Keep("word", pieces=settings.pieces)
    if shape == "spans":
        return Keep("token")
    pool = settings.pool
    if pool == "cls" and (context is not Context.FULL or settings.head == "bilstm"):
        raise LmzooError(
            "pool=cls needs a [CLS] that has seen the whole text, and here it has not "
            f"(context {context.value}, head={settings.head}); take pool=mean or last"
        )
    if settings.head == "bilstm":
        return Keep("token")
    if settings.beside != "none":
        if pool not in ("auto", "mean", "max"):
            raise LmzooError(
                f"pool={pool} does not go with beside={settings.beside} and head=linear; take mean"
            )
        return Keep("token")
    return Keep("row", pool=frozen_pool(settings))


def frozen_pool(settings: Settings) -> str:
    """How a probe makes one vector of a text."""
    if settings.pool != "auto":
        return settings.pool
    return "max" if settings.head == "bilstm" else "mean"


def layers_of(chosen: str, count: int) -> list[int]:
    """Which of ``count`` layers a probe sees.

    Raises:
        LmzooError: there is no such layer.
    """
    match chosen:
        case "mix":
            return list(range(count))
        case "top":
            return [count - 1]
        case "static":
            return [0]
        case _ if chosen.isdecimal() and int(chosen) < count:
            return [int(chosen)]
        case _:
            raise LmzooError(f"layers={chosen}: this model has the layers 0 (the embedding) to {count - 1}")


class Probe(nn.Module):
    """A head over (N, L, D) features of sequences that lie one after another.

    Several layers are mixed by learned weights (``ScalarMix``), after each has been brought to mean 0 and
    deviation 1 by fixed figures of the training part.
    """

    def __init__(
        self,
        shape: str,
        keep: Keep,
        settings: Settings,
        scale: tuple[Tensor, Tensor],
        width: int,
        own: int | None,
        outputs: int,
    ) -> None:
        """
        Args:
            shape: of the task.
            keep: what the features are of.
            settings: the head's.
            scale: (L, 1) mean and deviation of each layer.
            width: D.
            own: number of the task's own vectors, or None.
            outputs: of the linear layer.
        """
        super().__init__()
        self.shape, self.unit = shape, keep.unit
        self.register_buffer("mean", scale[0])
        self.register_buffer("deviation", scale[1])
        count = len(scale[0])
        beside = settings.beside
        self.mix = ScalarMix(count) if count > 1 and beside != "output" else None
        self.output_mix = ScalarMix(count) if count > 1 and beside in ("output", "both") else None
        self.feeds, self.joins = beside != "output", beside in ("output", "both")
        self.own = None if own is None else nn.Embedding(own, settings.own_size)
        self.dropout = Dropout(settings.dropout)
        inner = (width if self.feeds else 0) + (0 if own is None else settings.own_size)
        self.lstm = RowLstm(inner, settings.hidden_size) if settings.head == "bilstm" else None
        if self.lstm is not None:
            inner = self.lstm.width
        inner += width if self.joins else 0
        self.pool = frozen_pool(settings)
        if shape in ("sentence", "pair") and self.unit != "row" and self.pool == "concat":
            inner *= 3
        self.linear = small_linear(inner * (4 if shape == "pair" else 1), outputs)

    def _mixed(self, mix: ScalarMix | None, features: Tensor) -> Tensor:
        """(N, L, D) to (N, D)."""
        if mix is None:
            return features[:, 0]
        return mix(features.unbind(1), torch.empty(0))  # the mask is looked at with a layer norm alone

    def forward(self, features: Tensor, own: Tensor | None, counts: Tensor) -> Tensor:
        """The head's numbers: of every unit (tagging, spans), or of every text or pair.

        Args:
            features: (N, L, D).
            own: (N,) numbers of the task's own vectors.
            counts: (S,) units of each sequence; they sum to N.
        """
        features = (features - self.mean) / self.deviation  # type: ignore[operator]
        parts = [self._mixed(self.mix, features)] if self.feeds else []
        if self.own is not None:
            assert own is not None
            parts.append(self.own(own))
        x = self.dropout(torch.cat(parts, dim=-1))
        if self.lstm is not None and len(x):
            there = counts[counts > 0]
            states = self.lstm(padded(x, there), there)
            x = self.dropout(states[text_mask(there, states.shape[1])])
        if self.joins:
            x = torch.cat([x, self._mixed(self.output_mix, features)], dim=-1)
        if self.shape in ("tagging", "spans"):
            return self.linear(x)
        if self.unit != "row":
            rows = padded(x, counts)
            is_text = text_mask(counts, rows.shape[1])
            x = (
                pooled(rows, is_text, self.pool, apart=False)
                if not self._halved
                else self._pooled(rows, is_text)
            )
        if self.shape == "pair":
            x = paired(x[0::2], x[1::2])
        return self.linear(x)

    @property
    def _halved(self) -> bool:
        """Whether the first part of what is pooled is a biLSTM's two directions."""
        return self.lstm is not None and self.pool in ("last", "concat")

    def _pooled(self, rows: Tensor, is_text: Tensor) -> Tensor:
        """The biLSTM's directions where each has read the whole row; what is joined with them as it is."""
        assert self.lstm is not None
        width = self.lstm.width
        both = [pooled(rows[..., :width], is_text, self.pool, apart=True)]
        if self.joins:
            both.append(pooled(rows[..., width:], is_text, self.pool, apart=False))
        return torch.cat(both, dim=-1)

    def shares(self) -> dict[str, Any]:
        """γ and s of each layer, of every mixture there is."""
        return {
            name: {"gamma": mix.gamma.item(), "s": mix.weights.softmax(0).tolist()}
            for name, mix in (("input", self.mix), ("output", self.output_mix))
            if mix is not None
        }


class OwnVectors:
    """Which of the task's own vectors each unit has: of its word, or of its token."""

    def __init__(
        self, features: Features, items: Sequence[Example], train: range, vocab: int, unk: int
    ) -> None:
        framed: Framed = features.framed
        if features.keep.unit == "word":
            words = [item.words for item in items if isinstance(item, Tagged)]
            seen = Counter(word for sentence in words[train.start : train.stop] for word in sentence)
            # words that stand once in training stand for those that never do
            number = {word: place for place, word in enumerate((w for w, n in seen.items() if n > 1), 1)}
            self.ids = np.array(
                [number.get(word, 0) for sentence in words for word in sentence], dtype=np.int64
            )
            self.count = len(number) + 1
        else:
            flat = np.array([i for row in framed.rows for i in row], dtype=np.int64)
            self.ids = np.where(flat < vocab, flat, unk)
            self.count = vocab


class FrozenLearner:
    """A probe, with the features that it learns from."""

    def __init__(
        self,
        goal: Goal,
        features: Features,
        shape: str,
        settings: Settings,
        layers: Sequence[int],
        train: range,
        own: OwnVectors | None,
    ) -> None:
        """
        Args:
            goal: of the task.
            features: of all items.
            shape: of the task.
            settings: the head's.
            layers: that it sees.
            train: the items from which the layers' scale is taken.
            own: the task's own vectors, where they are wanted.
        """
        self.goal, self.features, self.shape = goal, features, shape
        self.layers = list(layers)
        self.own = own
        self.settings = settings
        scale = tuple(
            part[self.layers].cpu() for part in features.scale(self._sequences(goal.learned(train)))
        )
        self.module = Probe(
            shape,
            features.keep,
            settings,
            scale,  # type: ignore[arg-type]
            features.shape[2],
            None if own is None else own.count,
            goal.outputs,
        ).to(features.engine.device)

    def _sequences(self, examples: np.ndarray) -> np.ndarray:
        if self.shape != "pair":
            return examples
        return np.stack([2 * examples, 2 * examples + 1], axis=1).reshape(-1)

    def groups(self, lr: float) -> list[dict[str, Any]]:
        decay = self.settings.weight_decay
        return rated([list(self.module.parameters())], lr, discriminative=False, weight_decay=decay)

    def begin(self, epoch: int) -> None:
        pass

    def penalty(self) -> Tensor | float:
        """λ‖w‖² of the mixtures (Peters et al. 2018, section 3.3)."""
        if not self.settings.mix_penalty:
            return 0.0
        mixes = [mix for mix in (self.module.mix, self.module.output_mix) if mix is not None]
        return self.settings.mix_penalty * sum((mix.weights.square().sum() for mix in mixes), start=0.0)

    def lengths(self, examples: np.ndarray) -> np.ndarray:
        bounds = self.features.units.bounds
        sequences = self._sequences(examples)
        return np.maximum((bounds[sequences + 1] - bounds[sequences]).reshape(len(examples), -1).sum(1), 1)

    def logits(self, examples: np.ndarray) -> Tensor:
        sequences = self._sequences(examples)
        numbers, counts = self.features.units.of(sequences)
        x = self.features.take(sequences, self.layers)
        own = None if self.own is None else torch.from_numpy(self.own.ids[numbers]).to(x.device)
        return self.module(x, own, torch.from_numpy(counts).to(x.device))
