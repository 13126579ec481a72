"""What an objective is: corruption of the batch + the context it needs + targets + head + loss."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from lmzoo.nn.config import ModelConfig
from lmzoo.nn.embedding import Embedding
from lmzoo.nn.heads import VocabularyHead
from lmzoo.objectives.config import ObjectiveConfig
from lmzoo.objectives.token_loss import TokenLoss
from lmzoo.types import NO_DOCUMENT, Batch, Context, Hidden, LossTerm, SpecialTokens


@dataclass(frozen=True)
class Prediction:
    """What is to be predicted, and from where."""

    places: Tensor
    """(N,) int64 index into the batch's B·T positions (or its B rows) of the state to predict from."""
    targets: Tensor
    """(N,) int64 token ids (or labels)."""


@dataclass(frozen=True)
class Task:
    """A batch made ready: what the backbone reads, and what is asked of its states."""

    batch: Batch
    predictions: dict[str, Prediction]
    wanted: Tensor | None = None
    """(N,) int64 the places of B·T from whose states anything is predicted, each once; None for all."""
    sampled: Tensor | None = None
    """(S,) int64 ids over which a sampled softmax is taken in training; None for all of them."""
    kept: dict[str, Tensor] = field(default_factory=dict)
    """What an objective hands on from one of its methods to the next."""

    def counts(self) -> dict[str, int]:
        """Number of predictions of each part of the loss."""
        return {name: len(prediction.targets) for name, prediction in self.predictions.items()}


@dataclass
class Score:
    """Running sums of one part of the loss over a validation."""

    nats: float = 0.0
    count: float = 0.0
    correct: float = 0.0

    @property
    def mean(self) -> float | None:
        return self.nats / self.count if self.count else None

    @property
    def accuracy(self) -> float | None:
        return self.correct / self.count if self.count else None


@dataclass
class Scores:
    """Everything summed over a validation."""

    parts: dict[str, Score] = field(default_factory=dict)
    tallies: dict[str, float] = field(default_factory=dict)
    """Other sums: bytes predicted, random pairs."""


def summed(several: list[Scores]) -> Scores:
    """The ranks' sums, added up."""
    whole = Scores()
    for scores in several:
        for name, part in scores.parts.items():
            total = whole.parts.setdefault(name, Score())
            total.nats += part.nats
            total.count += part.count
            total.correct += part.correct
        for name, value in scores.tallies.items():
            whole.tallies[name] = whole.tallies.get(name, 0.0) + value
    return whole


class Objective(nn.Module):
    """Base of the objectives: a head, and three methods without side effects.

    ``prepare`` says what is fed and what is asked, ``draft`` may write over what is fed by a model of its
    own, ``loss`` answers from hidden states. It never sees the backbone, and the backbone never sees it.
    """

    token_parts: tuple[str, ...] = ()
    """Parts of the loss that predict tokens."""
    label_parts: tuple[str, ...] = ()
    """Parts that predict something else; not counted among the predicted tokens."""
    predicts_tokens: bool = True
    """Whether it gives a distribution over the vocabulary, of which a perplexity can be told."""
    readings: int = 1
    """How often a batch is embedded: by the backbone, and by what ``draft`` runs."""

    def __init__(
        self,
        config: ObjectiveConfig,
        model: ModelConfig,
        head: VocabularyHead,
        special: SpecialTokens,
        context: Context,
        token_bytes: Tensor | None = None,
    ) -> None:
        """
        Args:
            config: the objective's own choices.
            model: the model's, whose form the heads take.
            head: from states to tokens.
            special: the vocabulary's special tokens.
            context: what the states it will be given have seen.
            token_bytes: (V,) int64 bytes of text each id stands for; None where the tokenizer does
                not give the text back.
        """
        super().__init__()
        assert context in config.contexts
        self.config = config
        self.context = context
        self.special = special
        self.head = head
        self.token_loss = TokenLoss(config, special.vocab_size)
        self.token_bytes: Tensor | None
        self.register_buffer("token_bytes", token_bytes, persistent=False)

    @property
    def weights(self) -> dict[str, float]:
        """How the parts add up to the loss: the token parts' mean, and each label part whole."""
        tokens = {name: 1 / len(self.token_parts) for name in self.token_parts}
        return tokens | dict.fromkeys(self.label_parts, 1.0)

    def weights_for(self, counts: Mapping[str, float]) -> dict[str, float]:
        """The weights of a step, given how many predictions of each part it makes over all ranks."""
        return self.weights

    def prepare(self, batch: Batch, key: int, *, training: bool, spent: float = 1.0) -> Task:
        """Corrupt the batch and find its targets.

        Args:
            batch: as the data rooms gave it.
            key: of the random draws; the rows' sample numbers are their counters.
            training: False for validation, which always asks the same.
            spent: share of the budget that is spent, 0 to 1, for what changes during training.
        """
        raise NotImplementedError

    def draft(self, task: Task, embedding: Embedding) -> Task:
        """What the backbone is to read in the end, where a model of the objective's own has a say in that.

        It runs once a micro-batch, just before the backbone, with gradients in training: so what it holds
        is gone again before the next.

        Args:
            task: as ``prepare`` gave it; the counts of its predictions stay.
            embedding: the backbone's, which such a model may share.
        """
        return task

    def stream(self, hidden: Hidden, part: str) -> Tensor:
        """The (B, T, S·D) states from which ``part`` is predicted."""
        streams = hidden.streams
        return streams[0] if len(streams) == 1 else torch.cat(streams, dim=-1)

    def decoded(self, hidden: Hidden, task: Task, part: str) -> Tensor:
        """(N, D) what the decoder reads for each prediction of ``part``."""
        places = task.predictions[part].places
        return self.head.transform(self.stream(hidden, part).flatten(0, 1).index_select(0, places))

    def loss(self, hidden: Hidden, task: Task) -> dict[str, LossTerm]:
        """Each part's training loss as a sum with its count, with gradients."""
        terms = {}
        for name in self.token_parts:
            targets = task.predictions[name].targets
            total = self.token_loss(self.head, self.decoded(hidden, task, name), targets, task.sampled)
            terms[name] = LossTerm(total, total.new_tensor(len(targets)))
        return terms

    @torch.no_grad()
    def scores(self, hidden: Hidden, task: Task) -> dict[str, LossTerm]:
        """Each part's cross-entropy over the whole vocabulary and right first guesses, for measuring."""
        terms = {}
        for name in self.token_parts:
            targets = task.predictions[name].targets
            nats, hits = self.head.decoded_scores(self.decoded(hidden, task, name), targets)
            assert hits is not None
            terms[name] = LossTerm(
                nats.double().sum(), nats.new_tensor(len(nats)).double(), hits.double().sum()
            )
        return terms

    def tallies(self, task: Task) -> dict[str, Tensor]:
        """Other sums over a validation batch, each a () float64 tensor."""
        return {}

    def text_bytes(self, task: Task, *parts: str) -> dict[str, Tensor]:
        """What ``tallies`` gives for bits per byte: the bytes of what these parts predict."""
        table = self.token_bytes
        if not isinstance(table, Tensor):
            return {}
        return {f"{part}_bytes": table[task.predictions[part].targets].sum().double() for part in parts}

    def metrics(self, scores: Scores) -> dict[str, float | None]:
        """A validation's figures; a figure that cannot be had is None."""
        parts = {name: score.mean for name, score in scores.parts.items()}
        figures: dict[str, float | None] = {"loss": None, "perplexity": None, "bits_per_byte": None}
        if all(value is not None for value in parts.values()):
            figures["loss"] = sum(self.weights[name] * (value or 0.0) for name, value in parts.items())
            nats = sum((parts[name] or 0.0) for name in self.token_parts) / len(self.token_parts)
            figures["perplexity"] = math.exp(min(nats, 700.0)) if self.predicts_tokens else None
        for name, score in scores.parts.items():
            figures[f"{name}_loss"] = score.mean
            figures[f"{name}_accuracy"] = score.accuracy
        return figures

    def flops(self, task_counts: dict[str, int], rows: int) -> float:
        """Floating-point operations of the heads in one forward pass of training."""
        a_prediction = self.head.flops_per_prediction() - self.token_loss.flops_spared(self.head)
        return float(sum(task_counts[name] for name in self.token_parts) * a_prediction)

    def flops_per_token(self, length: int) -> int:
        """Those of what ``draft`` runs, a token in rows of ``length``; see ``Backbone.flops_per_token``."""
        return 0

    def flops_without_gradient(self, task_counts: dict[str, int]) -> float:
        """Those of what ``draft`` computes beside that and no backward pass goes through."""
        return 0.0

    def warning(self, figures: dict[str, float | None], spent: float) -> str | None:
        """What a validation's ``metrics`` show to be wrong after this share of the budget; None for nothing."""
        return None


def neighbours(batch: Batch, *, ahead: bool) -> Prediction:
    """Every position whose next (or previous) token lies in the same document, with that token.

    The prediction from position t of a row is of t+1 (``ahead``) or t-1, so that no target crosses
    the border of a document and none is padding.
    """
    documents = batch.documents
    together = (documents[:, 1:] == documents[:, :-1]) & (documents[:, 1:] != NO_DOCUMENT)
    places = torch.arange(documents.numel(), device=documents.device).view_as(documents)
    earlier, later = places[:, :-1][together], places[:, 1:][together]
    tokens = batch.tokens.flatten()
    if ahead:
        return Prediction(earlier, tokens[later])
    return Prediction(later, tokens[earlier])


def bits_per_byte(score: Score | None, num_bytes: float | None) -> float | None:
    """Nats over the text's bytes, in bits; None where either cannot be had."""
    if score is None or not score.count or not num_bytes:
        return None
    return score.nats / math.log(2) / num_bytes
