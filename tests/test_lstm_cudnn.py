"""The layer that a GPU leaves to cuDNN, by PyTorch's LSTM on a CPU: its sequences and its weights."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch

from builders import batch_of
from lmzoo.nn import lstm
from lmzoo.nn.config import LstmConfig
from lmzoo.nn.lstm import BiLstm
from lmzoo.nn.lstm_cudnn import Sequences, cudnn_serves
from lmzoo.types import Context

LENGTH, WIDTH, CELLS = 12, 6, 9
DOCUMENTS = batch_of(
    [
        [[1] * 12],  # a whole row
        [[1] * 5, [1] * 7],  # packed
        [[1] * 4, [1] * 1, [1] * 3],  # packed and padded
        [[1] * 2],  # short
    ],
    LENGTH,
).documents


def encoder_of(context: Context, clip: float = 0.0) -> BiLstm:
    torch.manual_seed(0)
    config = LstmConfig(
        num_layers=2, hidden_size=WIDTH, cell_size=CELLS, cell_clip=clip, projection_clip=clip
    )
    return BiLstm(config, context)


def results(encoder: BiLstm, device: str = "cpu") -> dict[str, torch.Tensor]:
    """Streams and gradients."""
    torch.manual_seed(1)
    x = torch.randn(*DOCUMENTS.shape, WIDTH)
    upstream = torch.randn(2, *x.shape)
    encoder, x = copy.deepcopy(encoder).to(device), x.to(device).requires_grad_()
    streams = encoder(x, DOCUMENTS.to(device), DOCUMENTS.to(device)).streams
    sum((stream * up).sum() for stream, up in zip(streams, upstream.to(device), strict=False)).backward()
    gradients = {name: p.grad for name, p in encoder.named_parameters()}
    found = {f"stream {n}": stream for n, stream in enumerate(streams)} | {"x": x.grad} | gradients
    return {name: value.detach().cpu() for name, value in found.items()}  # type: ignore[union-attr]


def test_documents_become_sequences_the_longest_first():
    """Rows of three and of one document: t0 t1 t2 | u0 u1 and v0 v1 v2 v3 v4, placed at step · 2 + row."""
    starts = torch.tensor([[1, 1], [0, 0], [0, 0], [1, 0], [0, 0]], dtype=torch.bool)
    sequences = Sequences(starts)
    assert sequences.counts.tolist() == [3, 3, 2, 1, 1]
    v, t, u = [1, 3, 5, 7, 9], [0, 2, 4], [6, 8]
    expected = [v[0], t[0], u[0], v[1], t[1], u[1], v[2], t[2], v[3], v[4]]
    assert sequences.places.tolist() == expected
    assert sequences.places[sequences.back].tolist() == list(range(10))


@pytest.mark.parametrize("context", [Context.APART, Context.PAST], ids=lambda c: c.value)
def test_pytorchs_lstm_gives_what_the_steps_give(context, monkeypatch):
    encoder = encoder_of(context)
    by_steps = results(encoder)
    monkeypatch.setattr(lstm, "cudnn_serves", lambda config, device: True)
    monkeypatch.setattr(lstm, "recur", None)
    by_theirs = results(encoder)
    for name, value in by_steps.items():
        torch.testing.assert_close(by_theirs[name], value, atol=1e-5, rtol=1e-4, msg=name)


def test_under_autocast_it_computes_in_its_type(monkeypatch):
    encoder = encoder_of(Context.APART)
    exact = results(encoder)
    monkeypatch.setattr(lstm, "cudnn_serves", lambda config, device: True)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = results(encoder)
    for name in ("stream 0", "stream 1"):
        assert 0 < (rounded[name] - exact[name]).norm() / exact[name].norm() < 0.02


def test_a_clip_of_0_clips_nothing():
    large = results(encoder_of(Context.APART, clip=1e9))
    for name, value in results(encoder_of(Context.APART)).items():
        assert torch.equal(value, large[name]), name


def test_a_gpu_that_must_clip_is_told_so():
    gpu = torch.device("cuda")
    with pytest.warns(UserWarning, match="model.projection_clip=3 must be computed step by step"):
        assert not cudnn_serves(LstmConfig(cell_clip=0.0), gpu)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not cudnn_serves(LstmConfig(), torch.device("cpu"))


@pytest.mark.gpu
def test_cudnn_gives_what_the_steps_give_on_a_cpu():
    encoder = encoder_of(Context.APART)
    expected = results(encoder)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = results(encoder, "cuda")
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-3, rtol=1e-3, msg=name)
