"""The leak test: change a token; the states that may not see it stay equal, the others move."""

from __future__ import annotations

import pytest
import torch

from builders import (
    BORDER,
    PAIRS,
    SMALL,
    SPECIAL,
    VOCAB_SIZE,
    batch_of,
    characters_for,
    random_batch,
    small_module,
)
from lmzoo.backbone import build_backbone
from lmzoo.types import Batch, Context, Hidden

COMBINATIONS = [(family, context) for family, config in SMALL.items() for context in config.contexts]
LENGTH, CHANGED = 12, 5


def states(family: str, context: Context, batch: Batch, **changes) -> Hidden:
    from dataclasses import replace

    torch.manual_seed(0)
    config = replace(SMALL[family], num_segments=0, max_positions=LENGTH, **changes)
    backbone = build_backbone(config, context, VOCAB_SIZE, characters_for(config)).eval()
    enlarge(backbone)
    with torch.no_grad():
        return backbone(batch)


def enlarge(module: torch.nn.Module) -> None:
    """Give it weights as large as in a trained model, so that a leak is seen."""
    for parameter in module.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)


def moved(one: torch.Tensor, other: torch.Tensor) -> list[bool]:
    """Which positions of the first row differ."""
    return [not torch.allclose(a, b, atol=1e-6) for a, b in zip(one[0], other[0], strict=True)]


def one_document() -> Batch:
    return batch_of([[[SPECIAL.cls, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, SPECIAL.sep]]], LENGTH)


def changed(batch: Batch, place: int = CHANGED) -> Batch:
    tokens = batch.tokens.clone()
    tokens[0, place] = 40
    return batch.replace(tokens=tokens)


@pytest.mark.parametrize(("family", "context"), COMBINATIONS)
def test_a_position_sees_what_its_context_allows_and_nothing_else(family, context):
    batch = one_document()
    before, after = states(family, context, batch), states(family, context, changed(batch))
    past = [place >= CHANGED for place in range(LENGTH)]
    future = [place <= CHANGED for place in range(LENGTH)]
    match context:
        case Context.PAST:
            assert moved(before.states, after.states) == past
        case Context.FULL:
            assert all(moved(before.states, after.states))
        case Context.MIXED:
            assert CHANGED >= BORDER
            assert moved(before.states, after.states) == past
            assert all(moved(before.states, states(family, context, changed(batch, BORDER - 1)).states))
        case Context.APART:
            assert moved(before.past, after.past) == past
            assert moved(before.future, after.future) == future
        case Context.NONE:
            assert moved(before.states, after.states) == [place == CHANGED for place in range(LENGTH)]


@pytest.mark.parametrize(("family", "context"), COMBINATIONS)
@pytest.mark.parametrize("place", [1, 7])
def test_packed_documents_do_not_see_each_other(family, context, place):
    first, second = [SPECIAL.cls, 7, 8, SPECIAL.sep], [SPECIAL.cls, 9, 10, 11, 12, SPECIAL.sep]
    batch = batch_of([[first, second]], LENGTH)
    before, after = states(family, context, batch), states(family, context, changed(batch, place))
    own = range(4) if place < 4 else range(4, 10)
    for one, other in zip(before.streams, after.streams, strict=True):
        seen = {i for i, differs in enumerate(moved(one, other)) if differs}
        assert seen
        assert seen <= set(own)


@pytest.mark.parametrize(("family", "context"), COMBINATIONS)
@pytest.mark.parametrize("positions", ["default", "learned", "sinusoidal"])
def test_a_packed_document_has_the_states_it_has_alone(family, context, positions):
    first, second = [SPECIAL.cls, 7, 8, SPECIAL.sep], [SPECIAL.cls, 9, 10, 11, 12, SPECIAL.sep]
    changes = {} if positions == "default" else {"positions": positions}
    packed = states(family, context, batch_of([[first, second]], LENGTH), **changes)
    alone = states(family, context, batch_of([[second]], LENGTH), **changes)
    for one, other in zip(packed.streams, alone.streams, strict=True):
        torch.testing.assert_close(one[0, 4:10], other[0, :6], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("family", "context"), COMBINATIONS)
def test_padding_is_inert(family, context):
    document = [SPECIAL.cls, 7, 8, 9, SPECIAL.sep]
    tight = states(family, context, batch_of([[document]], 5))
    loose = states(family, context, batch_of([[document]], LENGTH))
    for one, other in zip(tight.streams, loose.streams, strict=True):
        torch.testing.assert_close(one[0], other[0, :5], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("family", "context"), COMBINATIONS)
def test_a_batch_equals_its_rows_one_by_one(family, context):
    rows = [
        [[SPECIAL.cls, 7, 8, SPECIAL.sep], [SPECIAL.cls, 9, SPECIAL.sep]],
        [[SPECIAL.cls, *range(10, 18), SPECIAL.sep]],
    ]
    together = states(family, context, batch_of(rows, LENGTH))
    for i, row in enumerate(rows):
        alone = states(family, context, batch_of([row], LENGTH))
        for one, other in zip(together.streams, alone.streams, strict=True):
            torch.testing.assert_close(one[i], other[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["gpt", "bert"])
def test_the_future_stack_is_the_causal_stack_read_backwards(family):
    """With the past stack's weights, the future of a row is the past of its mirror image."""
    from dataclasses import replace

    torch.manual_seed(0)
    config = replace(SMALL[family], num_segments=0, max_positions=0)
    backbone = build_backbone(config, Context.APART, VOCAB_SIZE).eval()
    backbone.encoder.future.load_state_dict(backbone.encoder.past.state_dict())
    batch = one_document()
    with torch.no_grad():
        there = backbone(batch)
        back = backbone(batch.replace(tokens=batch.tokens.flip(1)))
    torch.testing.assert_close(there.future, back.past.flip(1), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("family", [family for family, objective in PAIRS if objective == "rtd"])
def test_a_generator_never_sees_the_token_that_it_replaces(family, training):
    """Change a masked token: what it predicts and draws stays; change another: both are read, and move it."""
    torch.manual_seed(0)
    module, batch = small_module(family, "rtd").eval(), random_batch("rtd")
    enlarge(module)
    embedding, rows, length = module.backbone.embedding, *batch.tokens.shape
    masked = module.objective.prepare(batch, 5, training=training).predictions["mlm"].places
    is_masked = torch.zeros(rows * length, dtype=torch.bool).index_fill(0, masked, True).view(rows, length)

    def read(place: tuple[int, int] | None = None) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Logits of the masked places, what the discriminator reads, and what stood in the text."""
        tokens = batch.tokens.clone()
        if place is not None:
            tokens[place] = 45 if tokens[place] != 45 else 44
        task = module.objective.prepare(batch.replace(tokens=tokens), 5, training=training)
        with torch.no_grad():
            drafted = module.objective.draft(task, embedding)
            logits = module.objective.head.logits(drafted.kept["states"])
        assert torch.equal(drafted.batch.tokens[~is_masked], tokens[~is_masked])
        return logits, drafted.batch.tokens, task.predictions["mlm"].targets

    logits, drawn, targets = read()
    assert int((drawn != batch.tokens).sum()) > len(masked) / 2
    for number in range(0, len(masked), 3):
        row, column = divmod(int(masked[number]), length)
        other_logits, other_drawn, other_targets = read((row, column))
        assert (targets != other_targets).nonzero().flatten().tolist() == [number]
        assert torch.equal(logits, other_logits)
        assert torch.equal(drawn, other_drawn)
        if row == 0:  # one document, of which every place sees every other
            free = next(place for place in range(1, length) if not is_masked[0, place])
            assert not torch.allclose(logits[number], read((0, free))[0][number], atol=1e-3)
