"""What inference is held against: transformers on exported folders, in the batches that ours makes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from lmzoo.inference.engine import BATCH_TOKENS, by_length
from lmzoo.text.tokenizer import TextTokenizer


def quieten() -> None:
    """Transformers tells at length which heads a folder has or lacks, which is as it should be here."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def padded(rows: Sequence[Sequence[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, T) ids, and (B, T) ones where they are."""
    longest = max(map(len, rows))
    tokens = torch.tensor([[*row, *([pad] * (longest - len(row)))] for row in rows])
    inside = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    return tokens, inside


def transformers_means(
    folder: Path, tokenizer: TextTokenizer, sentences: list[str]
) -> Callable[[], torch.Tensor]:
    """Every sentence through transformers' model, in the batches that ours makes, as means of states."""
    import transformers

    model = transformers.AutoModel.from_pretrained(folder).eval()
    special = tokenizer.special
    rows = [[special.cls, *ids, special.sep] for ids in tokenizer.encode_batch(sentences)]

    @torch.inference_mode()
    def forward() -> torch.Tensor:
        means = torch.empty(len(rows), model.config.hidden_size)
        for group in by_length([len(row) for row in rows], BATCH_TOKENS):
            tokens, inside = padded([rows[i] for i in group], special.pad)
            states = model(input_ids=tokens, attention_mask=inside).last_hidden_state
            means[group] = (states * inside[..., None]).sum(1) / inside.sum(1, keepdim=True)
        return means

    return forward


def transformers_likelihoods(
    folder: Path, tokenizer: TextTokenizer, sentences: list[str]
) -> Callable[[], torch.Tensor]:
    """The log-likelihood of every sentence after [CLS], from all logits of each batch."""
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    special = tokenizer.special
    rows = [[special.cls, *ids] for ids in tokenizer.encode_batch(sentences)]

    @torch.inference_mode()
    def forward() -> torch.Tensor:
        nats = torch.empty(len(rows))
        for group in by_length([len(row) for row in rows], BATCH_TOKENS):
            tokens, inside = padded([rows[i] for i in group], special.pad)
            logits = model(input_ids=tokens, attention_mask=inside, use_cache=False).logits[:, :-1]
            found = logits.log_softmax(-1).gather(-1, tokens[:, 1:, None]).squeeze(-1)
            nats[group] = (found * inside[:, 1:]).sum(1)
        return nats

    return forward


def transformers_pseudo_likelihoods(
    folder: Path, tokenizer: TextTokenizer, sentences: list[str]
) -> Callable[[], torch.Tensor]:
    """The same with each token masked alone: a row a token, and the logits at that token."""
    import transformers

    model = transformers.AutoModelForMaskedLM.from_pretrained(folder).eval()
    special = tokenizer.special
    assert special.mask is not None
    rows = [[special.cls, *ids, special.sep] for ids in tokenizer.encode_batch(sentences)]
    masked, targets, owners, places = [], [], [], []
    for owner, row in enumerate(rows):
        for place in range(1, len(row) - 1):
            masked.append([*row[:place], special.mask, *row[place + 1 :]])
            targets.append(row[place])
            owners.append(owner)
            places.append(place)
    all_targets, all_owners, all_places = map(torch.tensor, (targets, owners, places))

    @torch.inference_mode()
    def forward() -> torch.Tensor:
        nats = torch.zeros(len(rows))
        for group in by_length([len(row) for row in masked], BATCH_TOKENS):
            tokens, inside = padded([masked[i] for i in group], special.pad)
            logits = model(input_ids=tokens, attention_mask=inside).logits
            logits = logits[torch.arange(len(group)), all_places[group]]
            found = logits.log_softmax(-1).gather(-1, all_targets[group][:, None]).squeeze(-1)
            nats.index_add_(0, all_owners[group], found)
        return nats

    return forward


def transformers_continuation(
    folder: Path, tokenizer: TextTokenizer, prompt: str, new_tokens: int
) -> Callable[[], list[int]]:
    """The greedy continuation of one prompt."""
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    special = tokenizer.special
    row = torch.tensor([[special.cls, *tokenizer.encode_batch([prompt])[0]]])
    how = transformers.GenerationConfig(
        max_new_tokens=new_tokens, do_sample=False, use_cache=True, pad_token_id=special.pad
    )
    model.generation_config.eos_token_id = None  # which would end it, and is not looked for with ours either

    def go_on() -> list[int]:
        found = model.generate(row, attention_mask=torch.ones_like(row), generation_config=how)
        return found[0, row.shape[1] :].tolist()

    return go_on
