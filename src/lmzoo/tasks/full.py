"""Whole models in training: BERT's heads over a backbone whose weights move with them."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lmzoo.backbone import Backbone
from lmzoo.errors import LmzooError
from lmzoo.inference.engine import Engine
from lmzoo.nn.dropout import Dropout
from lmzoo.nn.heads import PairHead
from lmzoo.nn.transformer import Transformer
from lmzoo.tasks.encode import Framed
from lmzoo.tasks.features import batch_of_rows, gathered
from lmzoo.tasks.goals import Goal
from lmzoo.tasks.heads import RowLstm, TextHead, pooled, small_linear
from lmzoo.tasks.schedule import depth_groups, rated, unfrozen
from lmzoo.tasks.settings import Settings
from lmzoo.types import NO_DOCUMENT, Context


def with_context(engine: Engine, backbone: Backbone, context: str) -> Engine:
    """An engine over a copy of ``backbone`` that sees what ``context`` says; the original stays as it is.

    Args:
        engine: whose tokenizer and device are taken over.
        backbone: of the same vocabulary.
        context: ``as_pretrained`` or ``full``.

    Raises:
        LmzooError: an LSTM, or two stacks that never meet, cannot see everything.
    """
    changed = copy.copy(engine)
    changed.backbone = copy.deepcopy(backbone).to(engine.device).eval()
    if context == "full" and changed.backbone.context is not Context.FULL:
        encoder = changed.backbone.encoder
        if not isinstance(encoder, Transformer):
            raise LmzooError(
                "context=full needs one stack of attention, and this model reads by "
                f"{'two of them' if hasattr(encoder, 'past') else type(encoder).__name__} whose context is "
                f"{changed.backbone.context.value}; leave context=as_pretrained"
            )
        encoder.context = Context.FULL
    changed.context = changed.backbone.context
    return changed


def pool_of(settings: Settings, pretrained: Context) -> str:
    """How a whole model in training makes one vector of a text.

    It follows from what the model was trained to see, so that a run with context=full differs from its
    twin in nothing else.
    """
    if settings.pool != "auto":
        return settings.pool
    if settings.recipe == "ulmfit":
        return "concat"
    return "cls" if pretrained is Context.FULL and settings.head == "linear" else "last"


def pretrained_pooler(engine: Engine) -> nn.Linear | None:
    """The pooler that a model was trained with for sentence pairs, as a copy; None where there is none."""
    head = getattr(engine.module.objective, "pair_head", None)
    return copy.deepcopy(head.pooler) if isinstance(head, PairHead) else None


class FineTuned(nn.Module):
    """A backbone, perhaps a biLSTM (BERT's "+ BiLSTM"), and a task's head."""

    def __init__(
        self,
        backbone: Backbone,
        shape: str,
        outputs: int,
        pool: str,
        settings: Settings,
        width: int,
        pooler: nn.Linear | None = None,
    ) -> None:
        """
        Args:
            backbone: trained in place.
            shape: of the task.
            outputs: of the head.
            pool: see ``heads.pooled``.
            settings: the head's.
            width: of the backbone's states, streams side by side.
            pooler: see ``TextHead``.
        """
        super().__init__()
        self.backbone = backbone
        self.lstm = RowLstm(width, settings.hidden_size) if settings.head == "bilstm" else None
        if self.lstm is not None:
            width, pooler = self.lstm.width, None
        self.head: nn.Module
        if shape in ("sentence", "pair"):
            self.head = TextHead(
                width * (3 if pool == "concat" else 1), outputs, pool, settings.dropout, pooler
            )
        else:
            self.head = nn.Sequential(Dropout(settings.dropout), small_linear(width, outputs))


class FullLearner:
    """A model with its head, and the rows that they learn from."""

    def __init__(
        self,
        goal: Goal,
        engine: Engine,
        framed: Framed,
        shape: str,
        settings: Settings,
        pool: str,
        hidden_size: int,
        pooler: nn.Linear | None = None,
    ) -> None:
        """
        Args:
            goal: of the task.
            engine: over a backbone of its own, which is trained.
            framed: the rows; a pair is one.
            shape: of the task.
            settings: how it is trained.
            pool: see ``pool_of``.
            hidden_size: of one stream of the backbone.
            pooler: see ``TextHead``.
        """
        self.goal, self.engine, self.framed = goal, engine, framed
        self.shape, self.settings, self.pool = shape, settings, pool
        backbone = engine.backbone
        self.apart = engine.context is Context.APART
        width = hidden_size * (2 if self.apart else 1)
        model = FineTuned(backbone, shape, goal.outputs, pool, settings, width, pooler)
        self.module = model.to(engine.device)
        heads = [module for module in (model.lstm, model.head) if module is not None]
        head_group = [p for module in heads for p in module.parameters()]
        self.by_depth = [head_group, *depth_groups(backbone)]
        self._lengths = np.array([len(row) for row in framed.rows])
        self._first_row = np.array(framed.first_row)

    def groups(self, lr: float) -> list[dict[str, Any]]:
        discriminative = self.settings.recipe == "ulmfit"
        decay = self.settings.weight_decay
        return rated(self.by_depth, lr, discriminative=discriminative, weight_decay=decay)

    def begin(self, epoch: int) -> None:
        if self.settings.recipe != "ulmfit":
            return
        count = unfrozen(epoch, len(self.by_depth))
        for depth, group in enumerate(self.by_depth):
            for parameter in group:
                parameter.requires_grad_(depth < count)

    def penalty(self) -> Tensor | float:
        return 0.0

    def _rows(self, examples: np.ndarray) -> np.ndarray:
        if self.shape != "tagging":
            return examples
        return np.concatenate([np.arange(*self._first_row[i : i + 2]) for i in examples])

    def lengths(self, examples: np.ndarray) -> np.ndarray:
        if self.shape != "tagging":
            return self._lengths[examples]
        sums = np.concatenate([[0], self._lengths.cumsum()])
        return sums[self._first_row[examples + 1]] - sums[self._first_row[examples]]

    def logits(self, examples: np.ndarray) -> Tensor:
        engine, model = self.engine, self.module
        rows = self._rows(examples)
        batch = batch_of_rows(engine, self.framed, rows.tolist())
        lengths = torch.from_numpy(self._lengths[rows]).to(engine.device)
        is_text = batch.documents != NO_DOCUMENT
        words = self._words(examples, rows) if self.shape == "tagging" else None
        with torch.autocast(engine.device.type, dtype=engine.dtype, enabled=engine.dtype is not None):
            hidden = engine.backbone(batch, wanted=self._wanted(is_text, lengths, words))
            states = torch.cat(hidden.streams, dim=-1)
            if model.lstm is not None:
                states = model.lstm(states, lengths)
            if words is not None:
                states = self._at_words(states, words)
            elif self.shape == "spans":
                states = states[is_text]
            else:
                states = pooled(states, is_text, self.pool, apart=self.apart or model.lstm is not None)
            return model.head(states)

    def _words(self, examples: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """(N, 3) as ``Framed.words``, of all words of the examples, rows counted within the batch."""
        words = np.concatenate([np.zeros((0, 3), np.int64), *(self.framed.words[i] for i in examples)])
        place = np.full(len(self.framed.rows), -1, dtype=np.int64)
        place[rows] = np.arange(len(rows))
        known = words[:, 0] >= 0
        words[known, 0] = place[words[known, 0]]
        if self.settings.pieces == "first":
            words[known, 2] = words[known, 1] + 1
        return words

    def _at_words(self, states: Tensor, words: np.ndarray) -> Tensor:
        """(N, D): 0 where a word became no sub-word."""
        known = words[:, 0] >= 0
        found = gathered(states[:, None], *words[known].T)[:, 0]
        if known.all():
            return found
        out = found.new_zeros(len(words), found.shape[-1])
        return out.index_copy(0, torch.from_numpy(known.nonzero()[0]).to(found.device), found)

    def _wanted(self, is_text: Tensor, lengths: Tensor, words: np.ndarray | None) -> Tensor | None:
        """The only places whose last states are looked at; None where most are."""
        if self.module.lstm is not None or self.shape == "spans":
            return None
        starts = torch.arange(len(is_text), device=is_text.device) * is_text.shape[1]
        if words is not None:
            if self.settings.pieces != "first":
                return None
            known = words[words[:, 0] >= 0]
            places = np.unique(known[:, 0] * is_text.shape[1] + known[:, 1])
            return torch.from_numpy(places).to(is_text.device) if len(places) else None
        if self.pool == "cls":
            return starts
        return starts + lengths - 1 if self.pool == "last" and not self.apart else None
