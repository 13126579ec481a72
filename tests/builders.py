"""Small batches and modules that many tests share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from lmzoo.modules import FAMILIES, LanguageModelModule
from lmzoo.nn.config import MODELS, LstmConfig, ModelConfig, TransformerConfig
from lmzoo.objectives.config import OBJECTIVES
from lmzoo.types import NO_DOCUMENT, Batch, SpecialTokens

VOCAB_SIZE = 50
SPECIAL = SpecialTokens(VOCAB_SIZE)
PAIRS = [
    (family, objective)
    for family in FAMILIES
    for objective, config in OBJECTIVES.items()
    if set(config.contexts) & set(MODELS[family].contexts)
]
"""Every backbone with every legal objective."""

SMALL: dict[str, ModelConfig] = {
    "elmo": LstmConfig(name="elmo", num_layers=2, hidden_size=16, cell_size=12),
    "gpt": TransformerConfig(name="gpt", num_layers=2, hidden_size=16, num_heads=2, ffn_size=24),
    "bert": TransformerConfig(name="bert", num_layers=2, hidden_size=16, num_heads=2, ffn_size=24),
}


def small_module(family: str, objective: str, *, seed: int = 1, **changes) -> LanguageModelModule:
    """A module of 16 dimensions; ``changes`` override its model config or go to its constructor."""
    config = SMALL[family]
    fields = {name: changes.pop(name) for name in list(changes) if hasattr(config, name)}
    return FAMILIES[family](
        objective,
        model=replace(config, **fields),
        special=SPECIAL,
        seed=seed,
        pairs=objective == "mlm_nsp",
        **changes,
    )


def batch_of(rows: Sequence[Sequence[Sequence[int]]], length: int, *, first_sample: int = 0) -> Batch:
    """A batch from rows of documents of ids, padded to ``length``."""
    tokens = torch.zeros(len(rows), length, dtype=torch.long)
    documents = torch.full_like(tokens, NO_DOCUMENT)
    positions = torch.zeros_like(tokens)
    for i, row in enumerate(rows):
        place = 0
        for number, document in enumerate(row):
            end = place + len(document)
            tokens[i, place:end] = torch.tensor(document)
            documents[i, place:end] = number
            positions[i, place:end] = torch.arange(len(document))
            place = end
    return Batch(tokens, documents, positions, torch.arange(first_sample, first_sample + len(rows)))


def with_pairs(batch: Batch) -> Batch:
    """The same rows as NSP pairs: the second half of each row is segment B, every other row random."""
    half = batch.tokens.shape[1] // 2
    segments = (torch.arange(batch.tokens.shape[1]) >= half).long().expand_as(batch.tokens)
    return replace(batch, segments=segments.contiguous(), is_random=torch.arange(len(batch)) % 2)


def random_batch(objective: str = "mlm", *, rows: int = 4, length: int = 24, seed: int = 0) -> Batch:
    """Rows of one to three packed documents, the last row padded."""
    generator = torch.Generator().manual_seed(seed)

    def document(size: int) -> list[int]:
        inner = torch.randint(5, VOCAB_SIZE, (size - 2,), generator=generator).tolist()
        return [SPECIAL.cls, *inner, SPECIAL.sep]

    made = [
        [document(length)],
        [document(10), document(length - 10)],
        [document(8), document(7), document(9)],
    ]
    made = [*(made * rows)[: rows - 1], [document(11), document(6)]]
    if objective == "mlm_nsp":  # a pair is one document
        made = [[document(length)] for _ in range(rows - 1)] + [[document(length - 5)]]
        return with_pairs(batch_of(made, length))
    return batch_of(made, length)
