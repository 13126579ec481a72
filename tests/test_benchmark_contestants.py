"""Contestants of a benchmark compute the same, and one that does not is found out."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))  # benchmarks are no part of the package

from benchmarks.contestants import Disagreement, Ours, Theirs, check_agreement, step_flops, step_tokens
from benchmarks.contests import CONTESTS, Setting, text_batches

from builders import batch_of, with_pairs
from lmzoo.types import NO_DOCUMENT, Batch

ROWS, LENGTH, VOCAB_SIZE = 3, 12, 60


def setting_of(contest: str, dropout: float = 0.1) -> Setting:
    return Setting(contest, "tiny", VOCAB_SIZE, LENGTH, ROWS, dropout)


def batches_of(contest: str, count: int = 2) -> list[Batch]:
    """Rows of one document each, a pair of which ends early."""
    generator = torch.Generator().manual_seed(3)
    made = []
    for number in range(count):
        rows = torch.randint(5, VOCAB_SIZE, (ROWS, LENGTH), generator=generator).tolist()
        if CONTESTS[contest].view == "pairs":
            rows[0] = rows[0][:-2]
        batch = batch_of([[row] for row in rows], LENGTH, first_sample=number * ROWS)
        made.append(with_pairs(batch) if CONTESTS[contest].view == "pairs" else batch)
    return made


def pair_of(contest: str, precision: str = "fp32", dropout: float = 0.1) -> tuple[Ours, Theirs]:
    if contest != "elmo":
        pytest.importorskip("transformers")
    setting, batches = setting_of(contest, dropout), batches_of(contest)
    ours = Ours(setting, batches, precision=precision)
    return ours, Theirs(setting, batches, ours.module, precision=precision)


@pytest.mark.parametrize("contest", CONTESTS)
def test_losses_and_gradients_agree(contest):
    ours, theirs = pair_of(contest, "bf16")  # which the check overrides
    assert check_agreement(ours, theirs) < 1e-5
    assert ours.num_parameters == theirs.num_parameters
    assert ours.precision == theirs.precision == "bf16"
    assert ours.module.training
    assert theirs.module.training
    assert all(p.grad is None for one in (ours, theirs) for p in one.module.parameters())


WRONG = {
    "bert_2018": ("bert.encoder.layer.1.attention.self.query.weight", torch.t),
    "gpt2": ("transformer.h.0.attn.c_attn.bias", lambda bias: bias.roll(1)),
    "bert": ("model.layers.1.attn_norm.weight", lambda weight: weight + 0.01),
    "gpt": ("model.layers.0.mlp.Wi.weight", lambda weight: weight.roll(1, 0)),
    # the gates in another order
    "elmo": (
        "future.1.weight_hh_l0",
        lambda weight: torch.cat([weight.chunk(4)[gate] for gate in (0, 1, 3, 2)]),
    ),
}


@pytest.mark.parametrize("contest", CONTESTS)
def test_a_wrong_weight_is_found_out(contest):
    ours, theirs = pair_of(contest)
    name, spoilt = WRONG[contest]
    weight = theirs.module.get_parameter(name)
    with torch.no_grad():
        weight.copy_(spoilt(weight.clone()))
    with pytest.raises(Disagreement, match=r"do not compute the same: losses \d"):
        check_agreement(ours, theirs)


@pytest.mark.parametrize("contest", CONTESTS)
def test_training_goes_the_same_way(contest):
    ours, theirs = pair_of(contest, dropout=0.0)
    before, _ = ours.exact(0)
    for contestant in (ours, theirs):
        for _ in range(3):
            contestant.step()
    assert ours.exact(0)[0] == pytest.approx(theirs.exact(0)[0], rel=1e-3)
    assert ours.exact(0)[0] < before - 0.1


def test_operations_are_counted_for_one_direction_and_position():
    """Of the plain decoder: two a weight of the layers and of the head, thrice, and attention's products."""
    setting, batches = setting_of("gpt2"), batches_of("gpt2")
    ours = Ours(setting, batches)
    width, layers, tokens = 128, 2, ROWS * LENGTH
    matrices = layers * 12 * width * width
    forward = tokens * (2 * matrices + layers * 4 * LENGTH * width)
    heads = ROWS * (LENGTH - 1) * 2 * width * VOCAB_SIZE
    assert step_flops(ours.module, batches) == (3 * (forward + heads), 0)
    assert step_tokens(batches) == tokens
    assert step_tokens(batches_of("bert_2018")) == tokens - 2


def test_what_ours_spares_is_counted_apart():
    """Of a masked LM's last layer, whatever is for places that nothing is predicted from."""
    setting, batches = setting_of("bert"), batches_of("bert", 1)
    useful, spared = step_flops(Ours(setting, batches).module, batches)
    assert 0 < spared < useful / 2


def test_batches_are_real_text_in_full_rows_of_one_document(shared_data, tmp_path):
    batches = text_batches(Setting("gpt", "tiny", 1000, 64, 4), tmp_path)
    assert len(batches) == 4
    assert len({row for batch in batches for row in map(tuple, batch.tokens.tolist())}) == 16
    assert all((batch.documents == 0).all() for batch in batches)
    assert torch.cat([batch.samples for batch in batches]).tolist() == list(range(16))
    pairs = text_batches(Setting("bert_2018", "tiny", 1000, 64, 32), tmp_path)
    assert {int(label) for batch in pairs for label in batch.is_random} == {0, 1}
    assert any((batch.documents == NO_DOCUMENT).any() for batch in pairs)
