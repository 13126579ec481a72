"""The word-overlap baseline of next sentence prediction."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from lmzoo import rng
from lmzoo.data.config import DataConfig
from lmzoo.data.nsp_baseline import _pairs, best_threshold, overlap_baseline
from lmzoo.data.pairs import PairsView
from lmzoo.data.prepare import prepare
from lmzoo.data.stream import StreamView
from lmzoo.data.views import build_view
from lmzoo.text.config import TokenizerConfig
from lmzoo.types import Batch, SpecialTokens

PAD, CLS, SEP = 0, 2, 3
WIKIPEDIA = (
    Path(__file__).resolve().parents[1].parent / "shared" / "data" / "pretrain" / "wikipedia.train.txt.gz"
)


class MadePairs(PairsView):
    """Pairs given as lists of ids; the test's own, in the place of a corpus."""

    def __init__(self, pairs: list[tuple[list[int], list[int], int]]) -> None:
        self.special = SpecialTokens(100)
        self.pairs = pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def batch(self, rows: np.ndarray, epochs: np.ndarray, samples: np.ndarray) -> Batch:
        tokens = torch.full((len(rows), 16), PAD)
        segments = torch.zeros(len(rows), 16, dtype=torch.int64)
        for i, row in enumerate(rows):
            a, b, _ = self.pairs[row]
            ids = [CLS, *a, SEP, *b, SEP]
            tokens[i, : len(ids)] = torch.tensor(ids)
            segments[i, len(a) + 2 : len(ids)] = 1
        labels = torch.tensor([self.pairs[row][2] for row in rows])
        return Batch(tokens, segments, segments, torch.from_numpy(samples), segments, labels)


@pytest.mark.parametrize(
    ("scores", "labels", "threshold", "true_is_below"),
    [
        ([1, 2, 3, 4], [1, 1, 0, 0], 2.5, True),
        ([4, 1, 3, 2], [1, 0, 1, 0], 2.5, False),
        ([1, 2, 3, 4], [1, 0, 1, 0], 1.5, True),  # 3 of 4, as good as above 3.5
        ([1, 1, 1, 2], [1, 1, 0, 0], 1.5, True),  # equal scores cannot be told apart
        ([1, 1, 1, 1], [0, 0, 0, 1], -np.inf, True),  # nothing is true
        ([1, 2, 3], [1, 1, 1], np.inf, True),  # everything is
    ],
)
def test_best_threshold(
    scores: list[float], labels: list[int], threshold: float, true_is_below: bool
) -> None:
    assert best_threshold(np.array(scores, float), np.array(labels, bool)) == (threshold, true_is_below)


def test_best_threshold_is_the_best_of_all_there_are() -> None:
    generator = np.random.default_rng(1)
    for _ in range(200):
        scores = generator.integers(0, 6, 9).astype(float)
        labels = generator.integers(0, 2, 9).astype(bool)
        threshold, below = best_threshold(scores, labels)
        every = [
            np.mean(((scores < cut) == side) == labels)
            for cut in np.arange(-0.5, 7)
            for side in (True, False)
        ]
        assert np.mean(((scores < threshold) == below) == labels) == max(every)


def test_rare_words_weigh_more_than_common_ones() -> None:
    # every pair shares one word of two: consecutive ones a word of their own, random ones the common 10
    train = [([20 + i, 11], [20 + i, 12], 0) for i in range(20)]
    train += [([10, 40 + i], [10, 60 + i], 1) for i in range(20)]
    # words that training never had are the rarest of all
    valid = [([90, 11], [90, 12], 0), ([10, 91], [10, 92], 1)] * 5
    assert overlap_baseline(MadePairs(train), MadePairs(valid)) == 1.0


def test_segments_are_sets_of_types_without_special_tokens() -> None:
    pairs, labels = _pairs(MadePairs([([20, 21, 20], [22], 1), ([1, 4, 23], [23], 0)]), rows=10)
    assert pairs == [({20, 21}, {22}), ({23}, {23})]
    assert labels.tolist() == [True, False]


def test_pairs_are_spread_over_the_epoch() -> None:
    made = MadePairs([([10 + i], [50], 0) for i in range(9)])
    assert [min(a) for (a, _) in _pairs(made, rows=3)[0]] == [10, 14, 18]


def test_labels_without_a_pattern_are_guessed_at_chance() -> None:
    generator = np.random.default_rng(0)
    pairs = [
        (generator.integers(10, 99, 5).tolist(), generator.integers(10, 99, 5).tolist(), int(label))
        for label in generator.integers(0, 2, 4000)
    ]
    accuracy = overlap_baseline(MadePairs(pairs[:2000]), MadePairs(pairs[2000:]))
    assert accuracy == pytest.approx(0.5, abs=0.04)


def test_views_without_pairs_have_no_baseline() -> None:
    stream = StreamView.__new__(StreamView)
    assert overlap_baseline(stream, stream) is None


@pytest.mark.skipif(not WIKIPEDIA.exists(), reason="needs the shared data folder")
def test_real_pairs_are_far_above_chance_and_the_same_each_time(tmp_path: Path) -> None:
    store = prepare(
        DataConfig(source="text", train=str(WIKIPEDIA), valid_fraction=0.1),
        TokenizerConfig(vocab_size=4096),
        tmp_path,
    )
    train, valid = (
        build_view("pairs", store.parts[part], store.tokenizer.special, 128, rng.key(part))
        for part in ("train", "valid")
    )
    accuracy = overlap_baseline(train, valid, rows=1000)
    assert accuracy is not None
    assert 0.75 < accuracy < 0.95
    assert overlap_baseline(train, valid, rows=1000) == accuracy
