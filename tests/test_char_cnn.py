"""The char-CNN against its formulas, written out here one word and one filter at a time."""

from __future__ import annotations

import pytest
import torch

from builders import CHARACTERS, SMALL, SPECIAL, VOCAB_SIZE, batch_of
from lmzoo.backbone import build_backbone
from lmzoo.nn.char_cnn import BEGIN_SENTENCE, BEGIN_WORD, END_WORD, MASKED, PADDING, CharCnn, spell
from lmzoo.types import Context


@pytest.fixture
def cnn() -> CharCnn:
    torch.manual_seed(0)
    made = CharCnn(SMALL["elmo_2018"], CHARACTERS)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return made


def by_hand(cnn: CharCnn, characters: list[int]) -> torch.Tensor:
    """One word, position by position."""
    vectors = cnn.characters.weight[characters]  # (C, 16)
    answers = []
    for width, convolution in enumerate(cnn.convolutions, 1):
        for weight, bias in zip(convolution.weight, convolution.bias, strict=True):  # (16, width)
            seen = [
                (weight.t() * vectors[start : start + width]).sum() + bias
                for start in range(len(characters) - width + 1)
            ]
            answers.append(torch.relu(torch.stack(seen).max()))
    x = torch.stack(answers)
    for highway in cnn.highways:
        carried = torch.sigmoid(highway.carry.weight @ x + highway.carry.bias)
        x = carried * x + (1 - carried) * torch.relu(highway.transform.weight @ x + highway.transform.bias)
    return cnn.projection.weight @ x + cnn.projection.bias


def test_a_word_is_convolved_pooled_carried_and_projected(cnn):
    tokens = torch.tensor([[7, 8, 7], [9, 2, 4]])
    made = cnn(tokens)
    for row in range(2):
        for place in range(3):
            expected = by_hand(cnn, CHARACTERS[tokens[row, place]].tolist())
            torch.testing.assert_close(made[row, place], expected, atol=1e-5, rtol=1e-5)


def test_only_distinct_words_are_computed_and_their_gradients_add_up(cnn, monkeypatch):
    once = cnn(torch.tensor([[7, 8]])).square().sum()
    gradients = torch.autograd.grad(once, list(cnn.parameters()))
    whole, computed = cnn.embed_characters, []
    monkeypatch.setattr(cnn, "embed_characters", lambda spelt: computed.append(len(spelt)) or whole(spelt))
    thrice = cnn(torch.tensor([[7, 8, 7], [8, 8, 7]])).square().sum()
    assert computed == [2]
    for one, three in zip(gradients, torch.autograd.grad(thrice, list(cnn.parameters())), strict=True):
        torch.testing.assert_close(3 * one, three, atol=1e-4, rtol=1e-4)


def test_spelling():
    table = spell([b"", b"ab", "é".encode(), b"abcdefgh", b""], {0: BEGIN_SENTENCE, 4: PADDING}, 6)
    assert table.tolist() == [
        [BEGIN_WORD, BEGIN_SENTENCE, END_WORD, PADDING, PADDING, PADDING],
        [BEGIN_WORD, 97, 98, END_WORD, PADDING, PADDING],
        [BEGIN_WORD, 0xC3, 0xA9, END_WORD, PADDING, PADDING],
        [BEGIN_WORD, 97, 98, 99, 100, END_WORD],
        [PADDING] * 6,
    ]
    assert CHARACTERS[SPECIAL.mask].tolist()[:3] == [BEGIN_WORD, MASKED, END_WORD]


def test_an_unseen_word_has_the_vector_it_has_in_a_vocabulary(cnn):
    """Ids from V on are spelt by ``Batch.unseen``; the same spelling gives the same vector."""
    known = CHARACTERS[7][None]
    extended = cnn(torch.tensor([[7, VOCAB_SIZE, VOCAB_SIZE + 1]]), torch.cat([known, CHARACTERS[8][None]]))
    torch.testing.assert_close(extended[0, 0], extended[0, 1])
    torch.testing.assert_close(extended[0, 2], cnn(torch.tensor([[8]]))[0, 0])


@pytest.mark.parametrize("family", ["elmo", "bert_2018"])
def test_a_table_takes_the_vectors_of_unseen_words(family):
    torch.manual_seed(0)
    from dataclasses import replace

    config = replace(SMALL[family], num_segments=0, max_positions=6)
    backbone = build_backbone(config, Context.APART if family == "elmo" else Context.FULL, VOCAB_SIZE).eval()
    batch = batch_of([[[2, 7, 8, 3]]], 6)
    table = backbone.embedding.tokens.weight.detach()
    unseen = batch.replace(tokens=batch.tokens.clone(), unseen=table[7][None])
    unseen.tokens[0, 1] = VOCAB_SIZE
    with torch.no_grad():
        for one, other in zip(backbone(batch).streams, backbone(unseen).streams, strict=True):
            torch.testing.assert_close(one, other)
