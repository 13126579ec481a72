"""`model.vectors=`: a table that starts from a file of word vectors, through whole runs on real text."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from lmzoo.config import compose, save_config
from lmzoo.errors import LmzooError
from lmzoo.text.config import TokenizerConfig
from lmzoo.text.tokenizer import train_tokenizer
from lmzoo.training import train
from lmzoo.vectors import words_of

RUN = [
    "logger=csv",
    "hardware=cpu",
    "hardware.precision=fp32",
    "model.hidden_size=16",
    "model.num_layers=1",
    "seq_len=16",
    "batch_size=4",
    "valid.sequences=4",
    "budget.steps=3",
]
HEADS = ["model.num_heads=2", "model.ffn_size=24"]
TEXT = "the cat sat on the mat . 12 dogs saw the cat . The dogs sat .\n\n" * 40


@pytest.fixture
def vectors(tmp_path) -> Path:
    rng = np.random.default_rng(0)
    path = tmp_path / "vectors.txt"
    words = ["the", "cat", "nowhere", "dogs"]
    path.write_text(
        "".join(f"{word} {' '.join(f'{x:.4f}' for x in rng.normal(size=16))}\n" for word in words)
    )
    return path


def run(tmp_path: Path, vectors: Path, *overrides: str, resuming: bool = False) -> tuple[Path, dict]:
    text = tmp_path / "text.txt"
    if not text.exists():
        text.write_text("".join(f"{i} {TEXT}" for i in range(12)))
    folder = tmp_path / "run"
    folder.mkdir(exist_ok=True)
    data = ["data=text", f"data.train={text}", "data.valid_fraction=0.3", f"cache_dir={tmp_path / 'cache'}"]
    config = compose([*RUN, *data, "tokenizer=word", f"model.vectors={vectors}", *overrides])
    if not resuming:
        save_config(config, folder / "config.yaml")
    return folder, train(config, folder, resuming=resuming)


def table_of(folder: Path) -> tuple[dict[str, int], torch.Tensor]:
    state = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    vocabulary = json.loads((folder / "model" / "tokenizer.json").read_text())["model"]["vocab"]
    return vocabulary, state["backbone.embedding.tokens.weight"]


def given(vectors: Path) -> dict[str, torch.Tensor]:
    lines = (line.split() for line in vectors.read_text().splitlines())
    return {word: torch.tensor([float(x) for x in numbers]) for word, *numbers in lines}


@pytest.mark.parametrize(
    "model", [["model=elmo", "model.cell_size=12"], ["model=bert", *HEADS], ["model=gpt_2018", *HEADS]]
)
def test_a_frozen_table_stays_as_the_file_filled_it(model, tmp_path, vectors, capfd):
    folder, metrics = run(tmp_path, vectors, *model, "model.freeze_vectors=true")
    vocabulary, table = table_of(folder)
    for word in ("the", "cat", "dogs"):
        torch.testing.assert_close(table[vocabulary[word]], given(vectors)[word])
    words = len(vocabulary) - sum(token.startswith("[") for token in vocabulary)
    assert metrics["run"]["vectors_found"] == pytest.approx(3 / words)
    assert f"3 of {words} tokens ({3 / words:.1%}) found" in capfd.readouterr().err.replace("\n", "")


def test_a_table_that_is_not_frozen_moves_on_from_the_file(tmp_path, vectors):
    folder, metrics = run(tmp_path, vectors, "model=bert", *HEADS, "optimizer.lr=0.01")
    vocabulary, table = table_of(folder)
    moved = (table[vocabulary["cat"]] - given(vectors)["cat"]).abs().max()
    assert 0 < moved < 0.1
    vectors.rename(tmp_path / "gone.txt")
    _, again = run(tmp_path, vectors, "model=bert", *HEADS, "optimizer.lr=0.01", resuming=True)
    assert again["run"]["vectors_found"] == metrics["run"]["vectors_found"]  # kept in the checkpoint


def test_another_width_is_refused_with_the_one_that_fits(tmp_path, vectors):
    with pytest.raises(LmzooError, match=r"has 16 numbers a word.*give model.hidden_size=16"):
        run(tmp_path, vectors, "model=bert", *HEADS, "model.hidden_size=32")


def test_which_pieces_are_words():
    bpe = train_tokenizer(TokenizerConfig(vocab_size=273), ["the cat sat on the mat, the cat"] * 30)
    words = words_of(bpe)
    assert bpe.decode([words["the"]]) == " the"  # in running text it follows a space
    wordpiece = train_tokenizer(TokenizerConfig(name="wordpiece", vocab_size=20), ["singing ring sing"] * 30)
    for word, number in words_of(wordpiece).items():
        assert wordpiece.encode_batch([word]) == [[number]]  # no ##ing
