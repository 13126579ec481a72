"""The adaptive softmax: frequent words in a short list, rarer ones in clusters with narrower vectors.

Grave et al. 2017, "Efficient softmax approximation for GPUs", section 4. It is another model of the
distribution and not an estimate of the plain softmax: the probabilities of all words sum to 1, and each is exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmzoo.nn.config import ModelConfig
from lmzoo.nn.embedding import Embedding
from lmzoo.nn.heads import VocabularyHead
from lmzoo.nn.initial import draw_matrix
from lmzoo.nn.losses import CHUNK, drawn_tokens, linear_cross_entropy


class Cluster(nn.Module):
    """Words of like frequency: a projection to their own width, and their vectors, without a bias."""

    def __init__(self, config: ModelConfig, low: int, high: int, width: int) -> None:
        """
        Args:
            config: the model's.
            low: the first id.
            high: one past the last.
            width: of the words' vectors.
        """
        super().__init__()
        assert config.hidden_size
        self.low, self.high = low, high
        self.project = nn.Linear(config.hidden_size, width, bias=False)
        self.decoder = nn.Parameter(torch.empty(high - low, width))
        draw_matrix(self.project.weight, config, config.matrix_std)
        draw_matrix(self.decoder, config, replace(config, hidden_size=width).table_std)

    def logits(self, transformed: Tensor) -> Tensor:
        """(…, D) to (…, high - low)."""
        return F.linear(self.project(transformed), self.decoder)

    def of(self, targets: Tensor) -> Tensor:
        """Which of the (N,) targets are in it: (M,) int64 places."""
        return ((targets >= self.low) & (targets < self.high)).nonzero().flatten()

    def flops(self) -> int:
        """Floating-point operations of one forward pass a row."""
        return 2 * (self.project.weight.numel() + self.decoder.numel())


class AdaptiveHead(VocabularyHead):
    """``VocabularyHead`` with an adaptive softmax in the decoder's place; ``logits`` are log-probabilities.

    p(w) of a word of the short list is its share in a softmax over the short list and the clusters; of a word of a
    cluster it is the cluster's share there times the word's in a softmax over the cluster. In a tied model the
    vectors of the short list are the table's; those of the clusters, being narrower, are always the head's own. A
    ``decoder_bias`` is of the short list and the clusters, not of the words in them.
    """

    def __init__(
        self,
        config: ModelConfig,
        embedding: Embedding,
        *,
        cutoffs: Sequence[int],
        divisor: float = 4.0,
        streams: int = 1,
        states_size: int | None = None,
    ) -> None:
        """
        Args:
            config: the model's, complete.
            embedding: whose table a tied model reads.
            cutoffs: the first id of each cluster, ascending within the vocabulary.
            divisor: cluster n, counted from 1, has vectors of width D / divisorⁿ, rounded down, at least 1.
            streams, states_size: as of ``VocabularyHead``.
        """
        self.cutoffs, self.divisor = tuple(cutoffs), divisor
        super().__init__(config, embedding, streams=streams, states_size=states_size)

    def make_decoder(self, config: ModelConfig, embedding: Embedding) -> None:
        width = config.hidden_size or 0
        short = self.cutoffs[0]
        if config.tied:
            assert isinstance(embedding.tokens, nn.Embedding)
            self.decoder = embedding.tokens.weight
        else:
            self.decoder = nn.Parameter(torch.empty(short, width))
            draw_matrix(self.decoder, config, config.table_std)
        self.cluster_rows = nn.Parameter(torch.empty(len(self.cutoffs), width))
        draw_matrix(self.cluster_rows, config, config.table_std)
        entries = short + len(self.cutoffs)
        self.decoder_bias = nn.Parameter(torch.zeros(entries)) if config.decoder_bias else None
        bounds = zip(self.cutoffs, [*self.cutoffs[1:], embedding.vocab_size], strict=True)
        self.clusters = nn.ModuleList(
            Cluster(config, low, high, max(1, int(width // self.divisor**number)))
            for number, (low, high) in enumerate(bounds, 1)
        )
        self.shares = [1.0] * len(self.cutoffs)

    def tell_counts(self, counts: Tensor) -> None:
        """Take the (V,) counts of all ids in the training text, for ``flops_per_prediction`` alone."""
        total = max(int(counts.sum()), 1)
        self.shares = [int(counts[part.low : part.high].sum()) / total for part in self._clusters()]

    def _clusters(self) -> list[Cluster]:
        return list(self.clusters)  # type: ignore[arg-type]

    def _first(self) -> Tensor:
        """(S + C, D) rows of the first softmax: the short list's, then the clusters'."""
        return torch.cat([self.decoder[: self.cutoffs[0]], self.cluster_rows])

    def _first_targets(self, targets: Tensor) -> Tensor:
        """(N,) int64 what is asked of the first softmax: the word, or its cluster."""
        first = targets
        for number, cluster in enumerate(self._clusters()):
            first = torch.where(targets >= cluster.low, self.cutoffs[0] + number, first)
        return first

    def logits(self, states: Tensor) -> Tensor:
        """(…, streams·D) to (…, V) float32 log-probabilities, which as logits give the same distribution."""
        return self._decoded(self.transform(states), self._first())

    def _decoded(self, transformed: Tensor, first: Tensor) -> Tensor:
        """(…, D) to (…, V) log-probabilities, given the rows of the first softmax."""
        short = self.cutoffs[0]
        heights = F.linear(transformed, first, self.decoder_bias).float().log_softmax(-1)
        found = [heights[..., :short]]
        for number, cluster in enumerate(self._clusters()):
            inside = cluster.logits(transformed).float().log_softmax(-1)
            found.append(inside + heights[..., short + number, None])
        return torch.cat(found, dim=-1)

    def decoded_loss(self, transformed: Tensor, targets: Tensor) -> Tensor:
        """Each softmax over the rows that ask it alone, none of whose logits are ever held all at once."""
        asked = self._first_targets(targets)
        total = linear_cross_entropy(transformed, self._first(), self.decoder_bias, asked)
        for cluster in self._clusters():
            rows = cluster.of(targets)
            inside = cluster.project(transformed[rows])
            total = total + linear_cross_entropy(inside, cluster.decoder, None, targets[rows] - cluster.low)
        return total

    @torch.no_grad()
    def decoded_scores(
        self, transformed: Tensor, targets: Tensor, *, guesses: bool = True
    ) -> tuple[Tensor, Tensor | None]:
        nats = transformed.new_zeros(len(targets), dtype=torch.float32)
        hits = torch.zeros(len(targets), dtype=torch.bool, device=transformed.device) if guesses else None
        first, asked = self._first(), self._first_targets(targets)
        for start in range(0, len(targets), CHUNK):
            part = slice(start, start + CHUNK)
            x, target = transformed[part], targets[part]
            heights = F.linear(x, first, self.decoder_bias).float()
            here = F.cross_entropy(heights, asked[part], reduction="none")
            for cluster in self._clusters():
                rows = cluster.of(target)
                inside = cluster.logits(x[rows]).float()
                here[rows] += F.cross_entropy(inside, target[rows] - cluster.low, reduction="none")
            nats[part] = here
            if hits is not None:
                hits[part] = self._likeliest(x, heights) == target
        return nats, hits

    def _likeliest(self, transformed: Tensor, heights: Tensor) -> Tensor:
        """(N,) int64 the likeliest word of each row, given the (N, S + C) logits of the first softmax."""
        short = self.cutoffs[0]
        best, likeliest = heights[:, :short].max(-1)
        for number, cluster in enumerate(self._clusters()):
            # no word is likelier than its cluster
            rows = (heights[:, short + number] > best).nonzero().flatten()
            inside = cluster.logits(transformed[rows]).float()
            top, word = inside.max(-1)
            top = heights[rows, short + number] + top - inside.logsumexp(-1)
            better = top > best[rows]
            best[rows[better]] = top[better]
            likeliest[rows[better]] = cluster.low + word[better]
        return likeliest

    @torch.no_grad()
    def sample(self, states: Tensor, draws: Tensor) -> Tensor:
        transformed, first = self.transform(states), self._first()
        found = torch.empty(len(draws), dtype=torch.long, device=states.device)
        for start in range(0, len(draws), CHUNK):
            part = slice(start, start + CHUNK)
            found[part] = drawn_tokens(self._decoded(transformed[part], first), draws[part])
        return found

    def logits_of(self, states: Tensor, tokens: Tensor) -> Tensor:
        """As of ``VocabularyHead``, by way of all the others."""
        return self.logits(states).gather(-1, tokens)

    def flops_of(self, count: int) -> int:
        return self._flops([1.0] * len(self.shares))

    def flops_per_prediction(self) -> int:
        """The mean over the training text, by the clusters' shares of its tokens (``tell_counts``).

        A row asks one cluster or none. Until the shares are told it is what a row would take that asks all of
        them, the most that there is.
        """
        return self._flops(self.shares)

    def _flops(self, shares: Sequence[float]) -> int:
        dense = 0 if self.dense is None else self.dense.weight.numel()
        first = (self.cutoffs[0] + len(self.cutoffs)) * self.decoder.shape[1]
        parts = zip(self._clusters(), shares, strict=True)
        return 2 * (dense + first) + round(sum(share * cluster.flops() for cluster, share in parts))


def build_head(
    config: ModelConfig,
    embedding: Embedding,
    *,
    streams: int = 1,
    states_size: int | None = None,
    cutoffs: Sequence[int] | None = None,
    divisor: float = 4.0,
) -> VocabularyHead:
    """The head of an objective: an adaptive one with ``cutoffs``, else the plain one."""
    if cutoffs is None:
        return VocabularyHead(config, embedding, streams=streams, states_size=states_size)
    return AdaptiveHead(
        config, embedding, cutoffs=cutoffs, divisor=divisor, streams=streams, states_size=states_size
    )
