"""ELMo's encoder against its cell written out: one row, one document, one direction, one token at a time."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from builders import batch_of
from lmzoo.nn.config import LstmConfig
from lmzoo.nn.lstm import BiLstm
from lmzoo.types import NO_DOCUMENT, Context

WIDTH, CELLS = 6, 9
DOCUMENTS = batch_of(
    [
        [[1] * 12],  # a whole row
        [[1] * 5, [1] * 7],  # packed
        [[1] * 4, [1] * 1, [1] * 3],  # packed and padded
        [[1] * 2],  # short
    ],
    12,
).documents
OPEN, BITING = (1e9, 1e9), (0.7, 0.4)


def encoder_of(clips: tuple[float, float], context: Context, num_layers: int = 3) -> BiLstm:
    config = LstmConfig(
        num_layers=num_layers,
        hidden_size=WIDTH,
        cell_size=CELLS,
        cell_clip=clips[0],
        projection_clip=clips[1],
    )
    encoder = BiLstm(config, context).eval()
    for parameter in encoder.parameters():  # large: many states go over a clip, in every layer
        torch.nn.init.normal_(parameter, std=0.8)
    return encoder


def read(stack, vectors: list[torch.Tensor], clips: tuple[float, float], clipped: list[bool]):
    """The top states of one document's (D,) vectors in the order in which a stack reads them.

    i, f, o = sigmoid, g = tanh of (W x + U h + b); c = clip(f c + i g); h = clip(P (o tanh c)); the
    output of a layer is h, from the second layer on h + x. Notes in ``clipped`` where a clip bit.
    """
    for depth, layer in enumerate(stack):
        state, cell, outputs = vectors[0].new_zeros(WIDTH), vectors[0].new_zeros(CELLS), []
        for x in vectors:
            gates = layer.input_weight @ x + layer.hidden_weight @ state + layer.bias
            into, forget, out = (gates[n * CELLS : (n + 1) * CELLS].sigmoid() for n in range(3))
            candidate = gates[3 * CELLS :].tanh()
            raw_cell = forget * cell + into * candidate
            cell = raw_cell.clamp(-clips[0], clips[0])
            raw_state = layer.projection @ (out * cell.tanh())
            state = raw_state.clamp(-clips[1], clips[1])
            clipped += (raw_cell.abs() > clips[0]).tolist() + (raw_state.abs() > clips[1]).tolist()
            outputs.append(state + x if depth else state)
        vectors = outputs
    return vectors


def by_hand(encoder: BiLstm, x: torch.Tensor, clips: tuple[float, float]):
    """A (B, T, D) tensor a direction, 0 at padding, and the share of states that a clip changed."""
    directions = [encoder.past] + ([] if encoder.future is None else [encoder.future])
    clipped: list[bool] = []
    streams = []
    for number, stack in enumerate(directions):
        rows = []
        for row in range(len(x)):
            out = [x.new_zeros(WIDTH)] * x.shape[1]
            for document in range(int(DOCUMENTS[row].max()) + 1):
                places = [place for place in range(x.shape[1]) if DOCUMENTS[row, place] == document]
                order = places[::-1] if number else places
                states = read(stack, [x[row, place] for place in order], clips, clipped)
                for place, state in zip(order, states, strict=True):
                    out[place] = state
            rows.append(torch.stack(out))
        streams.append(torch.stack(rows))
    return streams, sum(clipped) / len(clipped)


@pytest.mark.parametrize("context", [Context.APART, Context.PAST], ids=lambda c: c.value)
@pytest.mark.parametrize("clips", [OPEN, BITING], ids=["open", "biting"])
def test_states_and_gradients_are_those_of_the_cell_written_out(clips, context):
    torch.manual_seed(0)
    encoder = encoder_of(clips, context)
    start = torch.randn(*DOCUMENTS.shape, WIDTH)
    text = (DOCUMENTS != NO_DOCUMENT)[..., None].float()
    upstream = torch.randn(2, *start.shape)
    results = []
    for hand in (False, True):
        model, x = copy.deepcopy(encoder), start.clone()
        if hand:  # in 64 bits, so that what differs is our rounding alone
            model, x = model.double(), x.double()
        x.requires_grad_()
        if hand:
            streams, share = by_hand(model, x, clips)
        else:
            streams = [stream * text for stream in model(x, DOCUMENTS, DOCUMENTS).streams]
        assert len(streams) == (2 if context is Context.APART else 1)
        sum((stream * up).sum() for stream, up in zip(streams, upstream, strict=False)).backward()
        gradients = {name: p.grad for name, p in model.named_parameters()}
        results.append({"x": x.grad} | gradients | {f"stream {n}": s for n, s in enumerate(streams)})
    assert (0.2 < share < 0.8) if clips is BITING else share == 0
    ours, expected = results
    assert ours.keys() == expected.keys()
    for name, value in expected.items():
        largest = float(value.detach().abs().max())
        assert largest > 0.1, name
        # without clips these weights amplify rounding a hundred times, in the loop in 32 bits as well
        assert float((ours[name] - value).detach().abs().max()) < 1e-4 * largest, name


def test_each_direction_has_weights_of_its_own():
    encoder = encoder_of(BITING, Context.APART)
    pointers = [p.data_ptr() for p in encoder.parameters()]
    assert len(set(pointers)) == len(pointers) == 2 * 3 * 4
    x = torch.randn(*DOCUMENTS.shape, WIDTH)
    before = encoder(x, DOCUMENTS, DOCUMENTS)
    with torch.no_grad():
        encoder.future[0].projection.add_(1.0)
    after = encoder(x, DOCUMENTS, DOCUMENTS)
    assert torch.equal(before.past, after.past)
    assert not torch.allclose(before.future, after.future)


def test_the_first_layer_has_no_residual_path():
    """Nothing of the input is left where the projections are 0."""
    encoder = encoder_of(OPEN, Context.PAST, num_layers=2)
    x = torch.randn(*DOCUMENTS.shape, WIDTH)
    with torch.no_grad():
        encoder.past[0].projection.zero_()
        encoder.past[1].projection.zero_()
    assert (encoder(x, DOCUMENTS, DOCUMENTS).states == 0).all()


# -- initial weights


def layer_with(**changes):
    torch.manual_seed(0)
    config = LstmConfig(num_layers=1, hidden_size=40, cell_size=60, **changes)
    return BiLstm(config, Context.PAST).past[0].requires_grad_(False)


def test_glorot_takes_input_and_state_as_one_matrix_as_tensorflow_does():
    layer = layer_with(initializer="glorot")
    kernel, projection = math.sqrt(6 / (40 + 40 + 4 * 60)), math.sqrt(6 / (60 + 40))
    for weight, limit in [
        (layer.input_weight, kernel),
        (layer.hidden_weight, kernel),
        (layer.projection, projection),
    ]:
        assert 0.99 * limit < weight.abs().max() <= limit
        assert float(weight.std()) == pytest.approx(limit / math.sqrt(3), rel=0.03)  # uniform


@pytest.mark.parametrize(
    ("changes", "gate_std", "projection_std"),
    [
        ({}, 40**-0.5, 60**-0.5),
        ({"initializer_range": 0.05}, 0.05, 0.05),
        ({"initializer": "truncated_normal", "initializer_range": 0.05}, 0.88 * 0.05, 0.88 * 0.05),
    ],
    ids=["by width", "given", "truncated"],
)
def test_normal_weights_have_the_deviation_asked_for(changes, gate_std, projection_std):
    layer = layer_with(**changes)
    assert float(layer.input_weight.std()) == pytest.approx(gate_std, rel=0.03)
    assert float(layer.hidden_weight.std()) == pytest.approx(gate_std, rel=0.03)
    assert float(layer.projection.std()) == pytest.approx(projection_std, rel=0.03)
    largest = float(layer.input_weight.abs().max())
    assert (largest <= 0.1) if "initializer" in changes else (largest > 3 * gate_std)


@pytest.mark.parametrize("initializer", ["normal", "truncated_normal", "glorot"])
def test_the_forget_gate_starts_open_and_every_other_bias_at_0(initializer):
    into, forget, out, candidate = layer_with(initializer=initializer).bias.chunk(4)
    assert (forget == 1).all()
    assert not torch.stack([into, out, candidate]).any()
