"""Which text a yardstick is taken on: bounds that are met, and another text that is refused."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from lmzoo import evaluate
from lmzoo.config import load_config
from lmzoo.errors import LmzooError
from lmzoo.evaluate import store_of
from lmzoo.yardsticks.run import sentences_of
from lmzoo.yardsticks.streams import bounded


def size_of(documents: list[list[str]]) -> int:
    return sum(len(sentence.encode()) for document in documents for sentence in document)


@pytest.mark.parametrize("length", [50, 1000, 40_000])
def test_a_long_text_is_cut_to_nearly_what_is_allowed_however_short_its_documents_are(length):
    documents = [["x" * 9 + " "] * (length // 10) for _ in range(2_000_000 // length)]
    assert 0.9 * 1_200_000 <= size_of(bounded(documents, 1_200_000)) <= 1_200_000


def test_a_run_whose_text_has_changed_is_refused(tmp_path):
    text = tmp_path / "text.txt"
    lines = [f"Sentence number {i} of this text is here.\n\n" for i in range(200)]
    text.write_text("".join(lines), encoding="utf-8")
    run = tmp_path / "run"
    model = [
        "model=gpt",
        "model.num_layers=1",
        "model.hidden_size=16",
        "model.num_heads=2",
        "model.ffn_size=32",
    ]
    small = ["tokenizer.vocab_size=300", "seq_len=32", "batch_size=4", "budget.steps=1", "logger=none"]
    places = [f"data.train={text}", f"cache_dir={tmp_path / 'cache'}", f"hydra.run.dir={run}"]
    command = [sys.executable, "-m", "lmzoo.train", "data=text", *model, *small, *places]
    subprocess.run(command, check=True, capture_output=True)
    given = store_of(load_config(run / "config.yaml"), run)
    assert size_of(sentences_of(given())) > 0
    assert json.loads((run / "metrics.json").read_text())["run"]["content"]
    text.write_text("".join(reversed(lines)) + "One more.\n", encoding="utf-8")
    changed = store_of(load_config(run / "config.yaml"), run)
    with pytest.raises(LmzooError, match="is not what it was trained with"):
        changed()
    with pytest.raises(LmzooError, match="not what it was trained with; give text=FILE"):
        evaluate._validation(changed)
