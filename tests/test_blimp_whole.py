"""All 67,000 pairs of BLiMP: our scores of a Hugging Face folder against transformers, and the harness."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch

import lmzoo
from hub_folders import made_folder
from inference_models import language_model
from lmzoo.yardsticks.base import Asked
from lmzoo.yardsticks.minimal_pairs import minimal_pairs, read_pairs
from test_harness import evaluated, harness  # noqa: F401
from test_minimal_pairs import sharpened

pytestmark = pytest.mark.slow
ROWS = 2048
"""Of a batch."""
POSITIONS = 128
"""Of a table of learned ones: some sentences have more than 40 tokens, and transformers reads none that does not fit."""
CLOSE = 2e-3
"""Nats by which two scores of a pair may differ in 32 bits, whatever the order of their sums."""


@pytest.fixture(scope="module")
def blimp(shared_data) -> Path:
    return shared_data / "zeroshot" / "blimp.jsonl.gz"


@pytest.fixture(scope="module")
def english(blimp):
    """A small tokenizer of BLiMP's own words: of another text its sentences would be letters."""
    from lmzoo.text.config import TokenizerConfig
    from lmzoo.text.tokenizer import train_tokenizer

    return train_tokenizer(TokenizerConfig(vocab_size=2000), (pair.good for pair in read_pairs(blimp, 200)))


def in_batches(rows: list[list[int]]) -> Iterable[np.ndarray]:
    """Numbers of rows of one length, so that nothing is padded."""
    lengths = np.array([len(row) for row in rows])
    for length in np.unique(lengths):
        alike = np.flatnonzero(lengths == length)
        yield from (alike[start : start + ROWS] for start in range(0, len(alike), ROWS))


def theirs(folder: Path, kind: str, texts: list[str], special) -> np.ndarray:
    """(n,) scores by transformers' model and tokenizer alone: log-likelihoods, or each token masked alone."""
    transformers = pytest.importorskip("transformers")
    model = getattr(transformers, kind).from_pretrained(folder).eval()
    ids = transformers.AutoTokenizer.from_pretrained(folder)(texts, add_special_tokens=False)["input_ids"]
    rows = [[special.cls, *row, special.sep] for row in ids]
    found = np.zeros(len(rows))
    if kind == "AutoModelForCausalLM":
        for chosen in in_batches(rows):
            tokens = torch.tensor([rows[i] for i in chosen])
            nats = model(input_ids=tokens).logits[:, :-1].log_softmax(-1)
            found[chosen] = nats.gather(2, tokens[:, 1:, None]).sum((1, 2)).numpy()
        return found
    masked, owner, place, target = [], [], [], []
    for number, row in enumerate(rows):
        for i in range(1, len(row) - 1):
            masked.append([*row[:i], special.mask, *row[i + 1 :]])
            owner.append(number)
            place.append(i)
            target.append(row[i])
    owners, places, targets = (torch.tensor(each) for each in (owner, place, target))
    for chosen in in_batches(masked):
        tokens = torch.tensor([masked[i] for i in chosen])
        each = torch.arange(len(chosen))
        output = model(input_ids=tokens)
        logits = output.prediction_logits if "prediction_logits" in output else output.logits
        nats = logits[each, places[chosen]].log_softmax(-1)[each, targets[chosen]]
        np.add.at(found, owners[chosen].numpy(), nats.numpy())
    return found


@pytest.mark.parametrize(
    ("form", "kind", "limit"),
    [
        ("gpt2", "AutoModelForCausalLM", None),
        ("modernbert-decoder", "AutoModelForCausalLM", None),
        ("bert", "AutoModelForPreTraining", 100),
        ("modernbert", "AutoModelForMaskedLM", None),
    ],
)
@torch.no_grad()
def test_every_pair_comes_out_as_transformers_computes_it(form, kind, limit, blimp, english, tmp_path):
    folder = made_folder(tmp_path, english, form, foreign=False)
    sharpened(folder, form, english, POSITIONS)
    measured = minimal_pairs(lmzoo.load(folder), Asked(pairs=blimp, limit=limit))
    pairs = list(read_pairs(blimp, limit))
    texts = [text for pair in pairs for text in (pair.good, pair.bad)]
    scores = theirs(folder, kind, texts, english.special).reshape(-1, 2)
    ours = np.array([(item["good"], item["bad"]) for item in measured.items])
    assert len(ours) == 67 * (limit or 1000)
    assert measured.parts["cut"] == measured.parts["without_tokens"] == 0
    assert np.abs(ours - scores).max() < CLOSE
    right = scores[:, 0] > scores[:, 1]
    decided = np.abs(scores[:, 0] - scores[:, 1]) > CLOSE
    assert decided.mean() > 0.98
    said = np.array([item["correct"] for item in measured.items])
    assert (said == right)[decided].all()
    assert 30 < measured.figure < 70


@pytest.mark.parametrize(("family", "objective"), [("gpt", "clm"), ("elmo", "bilm"), ("bert", "mlm")])
def test_the_harness_finds_the_same_pairs_right(harness, family, objective, blimp, english):  # noqa: F811
    model = language_model(family, objective, english, sharpness=3)
    accuracy, outcomes = evaluated(harness, model, blimp)
    ours = minimal_pairs(model, Asked(pairs=blimp))
    assert len(outcomes) == 67_000
    # sums in another order: a pair whose scores are equal to rounding may come out either way
    decided = np.array([abs(item["good"] - item["bad"]) > CLOSE for item in ours.items])
    assert decided.mean() > 0.98
    said = np.array([float(item["correct"]) for item in ours.items])
    assert (np.array(outcomes) == said)[decided].all()
    assert accuracy == pytest.approx(ours.figure, abs=0.02)
