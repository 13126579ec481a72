"""The rows that a step sees, in their order, do not depend on how many processes share them."""

from __future__ import annotations

import pytest
import torch

from builders import small_module
from corpora import numbered_part
from lmzoo import rng
from lmzoo.data.datamodule import TrainingBatches, ValidationBatches
from lmzoo.data.views import build_view
from lmzoo.types import NO_DOCUMENT, SpecialTokens

LENGTHS = [[3 + (7 * d + s) % 9 for s in range(2 + d % 4)] for d in range(60)]
SPECIAL = SpecialTokens(vocab_size=10_000)
FIELDS = ("tokens", "documents", "positions", "samples", "segments", "is_random")


@pytest.fixture(scope="module")
def part(tmp_path_factory):
    return numbered_part(tmp_path_factory.mktemp("order") / "part", LENGTHS)


def view_of(part, name: str):
    return build_view(name, part, SPECIAL, 24, rng.key(3, "pairs"), 0.1)


def joined(shares) -> dict[str, torch.Tensor]:
    """One batch of the ranks' shares, laid one after the other and padded to one length."""
    length = max(share.tokens.shape[1] for share in shares)
    padding = {"tokens": SPECIAL.pad, "documents": NO_DOCUMENT}

    def padded(tensor: torch.Tensor, name: str) -> torch.Tensor:
        missing = length - tensor.shape[1] if tensor.dim() == 2 else 0
        return (
            torch.nn.functional.pad(tensor, (0, missing), value=padding.get(name, 0)) if missing else tensor
        )

    return {
        name: torch.cat([padded(getattr(share, name), name) for share in shares])
        for name in FIELDS
        if getattr(shares[0], name) is not None
    }


@pytest.mark.parametrize("view", ["stream", "sentences", "pairs"])
def test_one_two_four_and_eight_ranks_see_the_same_rows_in_the_same_order(view, part):
    seen = view_of(part, view)
    steps = 3 * len(seen) // 8 + 2  # across the borders of three epochs, each of them within a batch
    assert len(seen) % 8
    alone = [joined([TrainingBatches(seen, 8, seed=5)[step]]) for step in range(steps)]
    order = torch.cat([batch["samples"] for batch in alone])
    assert torch.equal(order, torch.arange(8 * steps))
    texts = [row[row != SPECIAL.pad].tolist() for batch in alone for row in batch["tokens"]]
    assert texts[: len(seen)] != texts[len(seen) : 2 * len(seen)]  # each epoch in its own order
    for ranks in (2, 4, 8):
        sets = [TrainingBatches(seen, 8, seed=5, rank=rank, num_ranks=ranks) for rank in range(ranks)]
        for step, whole in enumerate(alone):
            shares = joined([batches[step] for batches in sets])
            assert set(shares) == set(whole)
            for name, tensor in whole.items():
                assert torch.equal(shares[name], tensor), (ranks, step, name)


@pytest.mark.parametrize("view", ["stream", "sentences", "pairs"])
def test_validation_asks_the_same_rows_once_of_any_number_of_ranks(view, part):
    seen = view_of(part, view)
    for rows in (None, 13):
        alone = ValidationBatches(seen, 8, rows)
        whole = torch.cat([alone[number].samples for number in range(len(alone))]).tolist()
        assert len(set(whole)) == len(whole) == (rows or len(seen))
        for ranks in (2, 4):
            sets = [ValidationBatches(seen, 8, rows, rank=rank, num_ranks=ranks) for rank in range(ranks)]
            assert len({len(batches) for batches in sets}) == 1
            shared = [batches[number].samples for number in range(len(sets[0])) for batches in sets]
            assert torch.cat(shared).tolist() == whole


@pytest.mark.parametrize(("objective", "view"), [("mlm", "stream"), ("mlm_nsp", "pairs")])
def test_what_is_masked_does_not_depend_on_the_number_of_ranks(objective, view, part):
    seen = view_of(part, view)
    module = small_module("bert", objective)
    module.objective.special = SPECIAL
    for step in (0, 7):
        whole = module.prepare(TrainingBatches(seen, 8, seed=5)[step])
        parts = [
            module.prepare(TrainingBatches(seen, 8, seed=5, rank=rank, num_ranks=4)[step])
            for rank in range(4)
        ]
        assert torch.equal(torch.cat([task.batch.tokens for task in parts]), whole.batch.tokens)
        targets = [task.predictions["mlm"].targets for task in parts]
        assert torch.equal(torch.cat(targets), whole.predictions["mlm"].targets)
        assert len({len(target) for target in targets}) > 1  # the ranks have unequal numbers of targets


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 4), (4, 2)])
def test_a_run_that_goes_on_with_other_ranks_sees_what_it_would_have_seen(before, after, part):
    """The place in the data is a step, not a place in some rank's file."""
    seen = view_of(part, "stream")

    def rows(ranks: int, steps: range) -> list[int]:
        sets = [TrainingBatches(seen, 8, seed=5, rank=rank, num_ranks=ranks) for rank in range(ranks)]
        return [int(row[1]) for step in steps for batches in sets for row in batches[step].tokens]

    assert rows(before, range(6)) + rows(after, range(6, 14)) == rows(1, range(14))
