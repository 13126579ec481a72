"""The store: its arrays as literal tables. What becomes of a damaged one: test_store_damage.py."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from corpora import SPECIAL, made_documents, make_part, write_text
from lmzoo.data.config import DataConfig
from lmzoo.data.prepare import prepare
from lmzoo.data.store import Part, Store, open_store
from lmzoo.data.writer import PartWriter
from lmzoo.errors import LmzooError
from lmzoo.text.config import TokenizerConfig
from lmzoo.types import SpecialTokens


def test_arrays_of_a_part(tmp_path: Path) -> None:
    part = make_part(tmp_path / "train", [[[10, 11], [12]], [[13]], [[14], [15, 16, 10]]])
    assert part.tokens.tolist() == [2, 10, 11, 12, 3, 2, 13, 3, 2, 14, 15, 16, 10, 3]
    assert part.documents.tolist() == [0, 5, 8, 14]
    assert part.sentences.tolist() == [1, 3, 6, 9, 10]
    assert part.document_sentences.tolist() == [0, 2, 3, 5]
    assert (part.num_tokens, part.num_documents) == (14, 3)
    assert {i: n for i, n in enumerate(part.unigrams.tolist()) if n} == {
        2: 3,
        3: 3,
        10: 2,
        11: 1,
        12: 1,
        13: 1,
        14: 1,
        15: 1,
        16: 1,
    }
    bounds = [[b.tolist() for b in part.sentence_bounds(i)] for i in range(3)]
    assert bounds == [[[1, 3], [3, 4]], [[6], [7]], [[9, 10], [10, 13]]]
    assert part.tokens.dtype == np.uint16


def test_wide_vocabularies_take_wider_ids(tmp_path: Path) -> None:
    part = make_part(tmp_path / "train", [[[70_000]]], SpecialTokens(vocab_size=70_001))
    assert part.tokens.dtype == np.uint32
    assert part.tokens.tolist() == [2, 70_000, 3]


def test_sentences_without_tokens_are_dropped_and_documents_without_sentences_too(tmp_path: Path) -> None:
    part = make_part(tmp_path / "train", [[[], [10]], [[]], [[11], [], [12]], [[], []]])
    assert part.tokens.tolist() == [2, 10, 3, 2, 11, 12, 3]
    assert part.documents.tolist() == [0, 3, 7]
    assert part.sentences.tolist() == [1, 4, 5]
    assert part.document_sentences.tolist() == [0, 1, 3]


@pytest.mark.parametrize("batch", [1, 2, 3, 7, 100])
def test_where_batches_end_leaves_no_trace(tmp_path: Path, batch: int) -> None:
    random = np.random.default_rng(0)
    lengths = random.integers(0, 4, 60)
    numbers = np.sort(random.integers(0, 20, 60))
    ids = random.integers(10, 1000, lengths.sum())
    whole, pieces = PartWriter(tmp_path / "whole", SPECIAL), PartWriter(tmp_path / "pieces", SPECIAL)
    whole.append(ids, lengths, numbers)
    ends = np.cumsum(lengths)
    for first in range(0, 60, batch):
        last = min(first + batch, 60) - 1
        chosen = slice(first, last + 1)
        pieces.append(ids[ends[first] - lengths[first] : ends[last]], lengths[chosen], numbers[chosen])
    whole.close()
    pieces.close()
    assert whole.num_documents == pieces.num_documents == Part(tmp_path / "whole").num_documents
    for file in (tmp_path / "whole").iterdir():
        assert file.read_bytes() == (tmp_path / "pieces" / file.name).read_bytes(), file.name


def test_a_part_travels_to_workers_by_name(tmp_path: Path) -> None:
    part = make_part(tmp_path / "train", [[[10] * 50_000]])
    pickled = pickle.dumps(part)
    assert len(pickled) < 1000
    assert pickle.loads(pickled).tokens.tolist() == part.tokens.tolist()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    text = write_text(tmp_path / "a.txt", made_documents(40))
    data = DataConfig(source="text", train=str(text), valid_fraction=0.2)
    return prepare(data, TokenizerConfig(vocab_size=300), tmp_path / "cache")


def test_unigram_entropy_by_hand(store: Store) -> None:
    special = set(store.tokenizer.special.ids)
    train = [t for t in store.parts["train"].tokens.tolist() if t not in special]
    valid = [t for t in store.parts["valid"].tokens.tolist() if t not in special]
    total = len(train) + store.tokenizer.vocab_size - len(special)
    by_hand = -sum(np.log((train.count(t) + 1) / total) for t in valid) / len(valid)
    assert store.unigram_entropy() == pytest.approx(by_hand, rel=1e-12)
    assert 1 < store.unigram_entropy("train") < np.log(300)


def test_no_store_at_all(tmp_path: Path) -> None:
    with pytest.raises(LmzooError, match="no prepared corpus"):
        open_store(tmp_path / "nothing")


def test_manifest_tells_what_it_was_made_from(store: Store) -> None:
    manifest = json.loads((store.folder / "store.json").read_text())
    assert manifest["made_from"]["tokenizer"]["vocab_size"] == 300
    assert manifest["made_from"]["corpus"]["valid_fraction"] == 0.2
    assert store.hash == manifest["hash"] == store.folder.name
