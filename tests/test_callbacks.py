"""The progress bar over the budget, and the table that ends a run."""

from __future__ import annotations

import io
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from rich.console import Console

from lmzoo import callbacks, progress
from lmzoo.callbacks import BudgetBar
from lmzoo.summary import count, duration, size, summary_table


class Counting(L.LightningModule):
    """Spends an eighth of its budget a step, and counts how often it is asked."""

    def __init__(self, fails: bool = False) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.ledger = SimpleNamespace(tokens_per_second=42_100.0)
        self.last_loss: float | None = None
        self.steps = 0
        self.asked = 0
        self.fails = fails

    @property
    def progress(self) -> float:
        self.asked += 1
        return self.steps / 8

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        if self.fails:
            raise RuntimeError("a loss that is not finite")
        self.steps += 1
        self.last_loss = 5.4321
        return self.layer(batch).sum()

    def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None: ...

    def test_step(self, batch: torch.Tensor, batch_idx: int) -> None: ...

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What a person sees on a terminal of 80 columns."""
    return _console(monkeypatch, force_terminal=True)


def _console(monkeypatch: pytest.MonkeyPatch, **how: Any) -> io.StringIO:
    seen = io.StringIO()
    console = Console(file=seen, width=80, color_system=None, **how)
    monkeypatch.setattr(progress, "console", console)
    monkeypatch.setattr(callbacks, "console", console)
    return seen


def _trainer(bar: BudgetBar) -> L.Trainer:
    return L.Trainer(
        accelerator="cpu", max_epochs=1, callbacks=[bar], logger=False, enable_progress_bar=False,
        enable_checkpointing=False, enable_model_summary=False, num_sanity_val_steps=1,
    )  # fmt: skip


def _rows(number: int) -> Any:
    return torch.utils.data.DataLoader(torch.ones(number, 1))  # type: ignore[arg-type]


def test_bar_shows_budget_loss_and_speed(terminal: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callbacks, "_SECONDS_BETWEEN_DRAWINGS", 0.0)
    trainer = _trainer(BudgetBar("bert mlm"))
    trainer.fit(Counting(), _rows(8), _rows(2))
    trainer.test(Counting(), _rows(4), verbose=False)
    lines = [line.split() for line in terminal.getvalue().replace("\r", "\n").splitlines()]
    training = [" ".join(line) for line in lines if "mlm" in line]
    for percent in (12, 50, 100):
        assert any(f"{percent} %" in line and "loss 5.432 · 42.1 k tokens/s" in line for line in training)
    assert not any("loss" in line for line in training if " 0 % " in line)  # none before the first step
    for what in ("validation", "test"):
        assert any(what in line and "50" in line for line in lines), what
    assert "\x1b[?25h" in terminal.getvalue()  # the cursor is given back


def test_bar_of_a_resumed_run_begins_where_it_was(terminal: io.StringIO) -> None:
    module = Counting()
    module.steps = 6
    bar = BudgetBar()
    bar.setup(SimpleNamespace(is_global_zero=True), module, "fit")  # type: ignore[arg-type]
    bar.on_train_start(None, module)  # type: ignore[arg-type]
    bar.teardown(None, module, "fit")  # type: ignore[arg-type]
    assert "75 %" in terminal.getvalue()


def test_bar_of_a_validation_goes_when_it_ends(terminal: io.StringIO) -> None:
    bar = BudgetBar()
    trainer: Any = SimpleNamespace(is_global_zero=True, sanity_checking=False, num_val_batches=[4])
    bar.setup(trainer, None, "fit")  # type: ignore[arg-type]
    bar.on_validation_start(trainer, None)  # type: ignore[arg-type]
    bar.on_validation_batch_end()
    assert bar._bar is not None
    assert [(task.description, task.percentage) for task in bar._bar.tasks] == [("validation", 25)]
    bar.on_validation_end(trainer, None)  # type: ignore[arg-type]
    assert bar._bar.tasks == []
    bar.teardown(trainer, None, "fit")  # type: ignore[arg-type]


def test_bar_looks_at_the_module_a_few_times_a_second_only(terminal: io.StringIO) -> None:
    module, bar = Counting(), BudgetBar()
    bar.setup(SimpleNamespace(is_global_zero=True), module, "fit")  # type: ignore[arg-type]
    bar.on_train_start(None, module)  # type: ignore[arg-type]
    begun = time.monotonic()
    for _ in range(20_000):
        bar.on_train_batch_end(None, module, None, None, 0)  # type: ignore[arg-type]
    seconds = time.monotonic() - begun
    bar.teardown(None, module, "fit")  # type: ignore[arg-type]
    assert module.asked <= 2 + seconds / 0.2


def test_no_bar_without_a_terminal_or_above_rank_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = _console(monkeypatch, force_terminal=False)
    module = Counting()
    _trainer(BudgetBar()).fit(module, _rows(8), _rows(2))
    assert (seen.getvalue(), module.asked) == ("", 0)
    seen = _console(monkeypatch, force_terminal=True)
    BudgetBar().setup(SimpleNamespace(is_global_zero=False), module, "fit")  # type: ignore[arg-type]
    assert seen.getvalue() == ""


def test_bar_is_taken_down_when_a_run_fails(terminal: io.StringIO) -> None:
    bar = BudgetBar()
    with pytest.raises(RuntimeError, match="not finite"):
        _trainer(bar).fit(Counting(fails=True), _rows(8), _rows(2))
    assert "\x1b[?25h" in terminal.getvalue()
    assert bar._bar is None


# -- the summary

LEDGER = {
    "tokens_seen": 3_500_032,
    "unique_tokens": 691_234,
    "predicted_tokens": 525_000,
    "flops": 1.234e13,
    "seconds": 72.1,
    "tokens_per_second": 48_612.3,
    "peak_memory_bytes": 612_345_678,
    "params_total": 1_470_000,
    "params_non_embedding": 397_000,
}
BERT = {
    "loss": 5.1,
    "perplexity": 82.44,
    "bits_per_byte": None,
    "mlm_loss": 4.412,
    "mlm_accuracy": 0.3125,
    "nsp_loss": 0.688,
    "nsp_accuracy": 0.561,
    "nsp_chance": 0.504,
    "nsp_overlap_accuracy": 0.8803,
    "unigram_entropy": 6.325,
}
ELMO = {
    "loss": 5.1,
    "perplexity": 164.0,
    "bits_per_byte": None,
    "forward_loss": 5.0,
    "forward_accuracy": 0.15,
    "forward_bits_per_byte": 1.931,
    "backward_loss": 5.2,
    "backward_accuracy": 0.14,
    "backward_bits_per_byte": None,
    "unigram_entropy": 6.325,
}


def _summary(model: str, objective: str, folder: Path, **parts: Any) -> str:
    run = {"model": model, "objective": objective, "seed": 7, "version": "0", "git": None}
    metrics = {"run": run, "ledger": LEDGER, **parts}
    return summary_table(metrics, folder, next_commands=["python -m lmzoo.train resume=X"], link=None)


def test_summary_of_bert_stands_beside_what_is_to_be_beaten(tmp_path: Path) -> None:
    (tmp_path / "metrics.json").touch()
    (tmp_path / "model").mkdir()
    assert _summary("bert", "mlm_nsp", tmp_path, valid=BERT) == (
        "bert · mlm_nsp · seed 7\n"
        "\n"
        "                      loss  unigram    gain  perplexity  bits/byte  accuracy\n"
        "valid: masked token  4.412    6.325  +1.913        82.4          –    31.2 %\n"
        "losses in nats a prediction; unigram: what token frequencies alone would pay\n"
        "valid: next sentence 56.1 % right, by chance 50.4 %, by word overlap 88.0 %\n"
        "\n"
        "tokens      3.5 M seen · 691 k unique · 525 k predicted\n"
        "compute     1.2e13 FLOPs\n"
        "time        1 min 12 s · 48.6 k tokens/s\n"
        "memory      612 MB at the peak\n"
        "parameters  1.47 M · 397 k without embeddings and heads\n"
        "\n"
        f"run folder  {tmp_path}\n"
        "            metrics.json · model\n"
        "\n"
        "next\n"
        "  python -m lmzoo.train resume=X"
    )


def test_summary_of_elmo_with_test_text(tmp_path: Path) -> None:
    lines = _summary("elmo", "bilm", tmp_path, valid=ELMO, test=ELMO | {"loss": None}).splitlines()
    assert lines[2:9] == [
        "                  loss  unigram    gain  perplexity  bits/byte  accuracy",
        "valid: forward   5.000    6.325  +1.325           –      1.931    15.0 %",
        "valid: backward  5.200    6.325  +1.125           –          –    14.0 %",
        "valid: together  5.100    6.325  +1.225       164.0          –",
        "test: forward    5.000    6.325  +1.325           –      1.931    15.0 %",
        "test: backward   5.200    6.325  +1.125           –          –    14.0 %",
        "test: together       –    6.325       –       164.0          –",
    ]


def test_summary_of_gpt_has_bits_per_byte(tmp_path: Path) -> None:
    figures = {
        "loss": 4.5,
        "perplexity": 90.0,
        "bits_per_byte": 1.75,
        "clm_loss": 4.5,
        "clm_accuracy": 0.25,
        "unigram_entropy": 6.5,
    }
    lines = _summary("gpt", "clm", tmp_path, valid=figures).splitlines()
    assert lines[3] == "valid: next token  4.500    6.500  +2.000        90.0      1.750    25.0 %"


def test_summary_never_breaks_what_is_to_be_copied(tmp_path: Path) -> None:
    folder = tmp_path / ("a long name " * 12).strip()
    link = f"wandb sync '{folder}/wandb/offline-run-1'"
    command = f"python -m lmzoo.evaluate run='{folder}'"
    metrics = {"run": {"model": "gpt", "objective": "clm", "seed": 1}, "ledger": LEDGER, "valid": None}
    lines = summary_table(metrics, folder, next_commands=[command], link=link).splitlines()
    assert f"run folder  {folder}" in lines
    assert f"W&B         {link}" in lines
    assert lines[-1] == f"  {command}"


@pytest.mark.parametrize(
    ("written", "text"),
    [
        (count(None), "–"),
        (count(0), "0"),
        (count(512), "512"),
        (count(999.6), "1 k"),
        (count(42_123.4), "42.1 k"),
        (count(3_500_000), "3.5 M"),
        (count(999_999), "1 M"),
        (count(6.2e9), "6.2 G"),
        (count(1.2345e13), "1.2e13"),
        (count(999.9e9), "1.0e12"),
        (size(312_000_000), "312 MB"),
        (size(5_400_000_000), "5.4 GB"),
        (size(None), "–"),
        (duration(9.44), "9.4 s"),
        (duration(59.97), "1 min 00 s"),
        (duration(112), "1 min 52 s"),
        (duration(3600 * 3 + 299), "3 h 04 min"),
        (duration(None), "–"),
    ],
)
def test_figures_for_people(written: str, text: str) -> None:
    assert written == text
