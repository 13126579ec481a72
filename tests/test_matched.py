"""What makes runs comparable: the same batches in the same order, and shares of one text."""

from __future__ import annotations

import itertools
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from corpora import numbered_part
from lmzoo.data.config import VIEWS
from lmzoo.data.subset import Subset
from lmzoo.data.views import build_view
from lmzoo.modules import LanguageModelModule
from lmzoo.types import SpecialTokens
from small_runs import run_smallest


@pytest.fixture
def batches(corpus, tmp_path, monkeypatch):
    """What a run's training steps were given: tokens, documents and sample numbers, step by step."""
    step = LanguageModelModule.training_step

    def seen(name: str, *overrides: str) -> list[tuple]:
        given: list[tuple] = []

        def noted(self, batch, batch_idx):
            given.append(tuple(part.clone() for part in (batch.tokens, batch.documents, batch.samples)))
            step(self, batch, batch_idx)

        monkeypatch.setattr(LanguageModelModule, "training_step", noted)
        model = next(entry.partition("=")[2] for entry in overrides if entry.startswith("model="))
        run_smallest(tmp_path / name, model, *corpus, "budget.steps=3", *overrides)
        return given

    return seen


def same(one: list[tuple], other: list[tuple]) -> bool:
    return len(one) == len(other) == 3 and all(
        torch.equal(a, b)
        for left, right in zip(one, other, strict=True)
        for a, b in zip(left, right, strict=True)
    )


def test_objectives_see_the_same_batches(batches):
    gpt = batches("gpt", "model=gpt", "seed=3")
    for name, said in {
        "bert": ["model=bert"],
        "elmo": ["model=elmo"],
        "masked": ["model=gpt", "objective=mlm"],
        "split": ["model=bert", "hardware.micro_batch=2"],
    }.items():
        assert same(gpt, batches(name, *said, "seed=3")), name
    assert not same(gpt, batches("other", "model=gpt", "seed=4"))


@pytest.mark.parametrize("view", ["pairs", "sentence_pairs", "doc_sentences"])
def test_objectives_see_the_same_rows_of_every_view(view, batches):
    objectives = ["mlm", "clm"] if view == "doc_sentences" else ["mlm_nsp", "mlm", "clm"]
    first, *others = [
        batches(name, "model=bert", f"objective={name}", f"data.view={view}", "seed=3") for name in objectives
    ]
    assert all(same(first, other) for other in others)


# ---------------------------------------------------------------------------------- a share of the text


@pytest.fixture
def whole(tmp_path):
    random = np.random.default_rng(0)
    return numbered_part(
        tmp_path / "train", [random.integers(1, 9, random.integers(1, 6)).tolist() for _ in range(60)]
    )


def documents_of(part) -> list[list[int]]:
    return [part.tokens[a:b].tolist() for a, b in zip(part.documents[:-1], part.documents[1:], strict=True)]


def test_a_smaller_share_lies_within_a_larger_one(whole):
    every = documents_of(whole)
    shares = {fraction: Subset(whole, fraction, key=5) for fraction in (0.1, 0.3, 0.7, 0.999)}
    texts = {fraction: documents_of(part) for fraction, part in shares.items()}
    for fraction, part in shares.items():
        chosen = texts[fraction]
        assert [document for document in every if document in chosen] == chosen  # whole, and in their order
        longest = max(map(len, every))
        assert fraction * whole.num_tokens <= part.num_tokens <= fraction * whole.num_tokens + longest
        assert part.unigrams.tolist() == np.bincount(part.tokens, minlength=len(whole.unigrams)).tolist()
        for number in range(part.num_documents):
            starts, ends = part.sentence_bounds(number)
            there = every.index(chosen[number])
            own_starts, own_ends = whole.sentence_bounds(there)
            assert (starts - part.documents[number]).tolist() == (
                own_starts - whole.documents[there]
            ).tolist()
            assert (ends - starts).tolist() == (own_ends - own_starts).tolist()
    smaller = [0.1, 0.3, 0.7, 0.999]
    for small, large in itertools.pairwise(smaller):
        assert all(document in texts[large] for document in texts[small])
    assert texts[0.3] != documents_of(Subset(whole, 0.3, key=6))
    assert documents_of(pickle.loads(pickle.dumps(shares[0.3]))) == texts[0.3]


@pytest.mark.parametrize("view", VIEWS)
def test_every_view_takes_a_share(view, whole):
    part = Subset(whole, 0.4, key=5)
    made = build_view(view, part, SpecialTokens(len(whole.unigrams)), 16, key=1)
    rows = np.arange(len(made))
    batch = made.batch(rows, np.zeros_like(rows), rows)
    own = set(part.tokens.tolist()) | {0}
    assert set(batch.tokens.flatten().tolist()) <= own
    assert made.unique_tokens(len(made), 0) in (None, made.num_tokens)


def test_a_share_is_trained_on_over_the_whole_texts_store(corpus, batches, tmp_path):
    batches("whole", "model=gpt", "seed=3")
    stores = Path(corpus[2].removeprefix("cache_dir=")) / "stores"
    made = set(stores.glob("*/store.json"))  # other tests' too
    batches("tenth", "model=gpt", "seed=3", "data.train_fraction=0.1")
    assert set(stores.glob("*/store.json")) == made != set()
    import json

    metrics = [json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("whole", "tenth")]
    assert metrics[0]["run"]["content"] == metrics[1]["run"]["content"]
    # three steps of 4 rows of 32 tokens are more than a tenth of this text, and less than all of it
    assert metrics[1]["ledger"]["unique_tokens"] < metrics[0]["ledger"]["unique_tokens"]
    assert metrics[1]["valid"]["unigram_entropy"] != metrics[0]["valid"]["unigram_entropy"]
