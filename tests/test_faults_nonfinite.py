"""A loss or a gradient that is not finite: the weights are not spoiled, and what led to it is kept."""

from __future__ import annotations

import copy
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lmzoo import progress
from lmzoo.config import compose
from lmzoo.errors import LmzooError
from lmzoo.modules import LanguageModelModule
from lmzoo.nonfinite import read_batch
from lmzoo.summary import summary_table
from lmzoo.training import train
from small_runs import FAMILIES, arguments, assert_same, checkpoint, config_of, history, outcome, start


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("base")


@pytest.fixture
def spoiled(monkeypatch):
    """Make the loss, or the gradient alone, of some steps not finite; a step is numbered from 1."""

    def spoil(*steps: int, gradient: bool = False) -> None:
        divided = LanguageModelModule._divided

        def wrong(module, totals, counts):
            loss = divided(module, totals, counts)
            if module.ledger.steps not in steps:
                return loss
            if gradient:
                loss.register_hook(lambda gradient: gradient * math.inf)
                return loss
            for total in totals.values():
                total.data.fill_(math.nan)
            return loss * math.nan

        monkeypatch.setattr(LanguageModelModule, "_divided", wrong)

    return spoil


class States:
    """What the weights and the optimizer's state are around a step."""

    def __init__(self, monkeypatch, number: int) -> None:
        whole = LanguageModelModule.training_step

        def step(module, batch, batch_idx):
            here = module.ledger.steps == number - 1
            if here:
                self.batch = batch
                self.before = self.taken(module)
                self.module = module
            whole(module, batch, batch_idx)
            if here:
                self.after = self.taken(module)

        monkeypatch.setattr(LanguageModelModule, "training_step", step)

    @staticmethod
    def taken(module) -> dict:
        return copy.deepcopy(
            {"weights": module.state_dict(), "optimizer": module.optimizers().state_dict()["state"]}
        )


@pytest.mark.parametrize("gradient", [False, True], ids=["loss", "gradient"])
@pytest.mark.parametrize(("family", "objective"), FAMILIES)
def test_the_run_stops_before_the_weights_are_spoiled_and_keeps_the_batch(
    family, objective, gradient, base, tmp_path, spoiled, monkeypatch
):
    spoiled(5, gradient=gradient)
    states = States(monkeypatch, 5)
    with pytest.raises(LmzooError) as refusal:
        start(tmp_path / "run", config_of(family, objective, base))
    line = str(refusal.value)
    assert line.startswith("step 5: the loss is ")
    kept = tmp_path / "run" / "nonfinite" / "step-5.pt"
    for part in ("which is not finite", f"its batch is kept in {kept}", "skip_nonfinite=1"):
        assert part in line
    assert "\n" not in line
    assert_same(states.taken(states.module), states.before)
    assert checkpoint(tmp_path / "run")["ledger"]["steps"] == 3

    batch, told = read_batch(kept)
    assert_same(vars(batch), vars(states.batch))
    assert (told["step"], told["rank"], told["seed"]) == (5, 0, 1)
    assert math.isfinite(sum(told["losses"].values())) == gradient
    assert not math.isfinite(told["gradient_norm"])
    torch.set_rng_state(told["rng"])
    drawn = torch.rand(3)
    from lmzoo import rng

    rng.seed_dropout(1, 4, 0)
    assert torch.equal(drawn, torch.rand(3))


@pytest.mark.parametrize("given", [[], ["optimizer=muon"]], ids=["adamw", "muon"])
@pytest.mark.parametrize("gradient", [False, True], ids=["loss", "gradient"])
def test_a_step_that_is_left_out_changes_nothing_but_the_ledger(
    gradient, given, base, tmp_path, spoiled, monkeypatch
):
    spoiled(5, gradient=gradient)
    states = States(monkeypatch, 5)
    with progress.console.capture() as said:
        metrics = start(tmp_path / "run", config_of("bert", "mlm", base, "skip_nonfinite=1", *given))
    assert_same(states.after, states.before)
    (line,) = said.get().splitlines()
    assert line.startswith("step 5: the loss is ")
    assert line.endswith("; left out (1 of skip_nonfinite=1)")
    ledger = json.loads((tmp_path / "run" / "metrics.json").read_text())["ledger"]
    assert (ledger["steps"], ledger["skipped_steps"]) == (14, 1)
    rows = history(tmp_path / "run")
    assert [row["step"] for row in rows] == [str(step) for step in range(1, 15)]
    finite = [math.isfinite(float(row["train/loss"])) for row in rows]
    assert finite == [gradient or step != 5 for step in range(1, 15)]
    table = summary_table(metrics, tmp_path, next_commands=[], link=None)
    assert "steps whose loss or gradient was not finite: 1\n" in table
    assert all(torch.isfinite(weight).all() for weight in checkpoint(tmp_path / "run")["state_dict"].values())


def test_one_step_more_than_is_allowed_stops_the_run_and_it_goes_on_with_more(base, tmp_path, spoiled):
    spoiled(5, 8)
    start(tmp_path / "whole", config_of("bert", "mlm", base, "skip_nonfinite=2"))
    with pytest.raises(LmzooError, match=r"step 8: .*skip_nonfinite=2"):
        start(tmp_path / "run", config_of("bert", "mlm", base, "skip_nonfinite=1"))
    assert checkpoint(tmp_path / "run")["ledger"] | {"seconds": 0} == checkpoint(tmp_path / "run")[
        "ledger"
    ] | {"seconds": 0, "steps": 6, "skipped_steps": 1}
    train(config_of("bert", "mlm", base, "skip_nonfinite=2"), tmp_path / "run", resuming=True)
    # the order of the data counts steps, and so is the same
    assert_same(outcome(tmp_path / "run"), outcome(tmp_path / "whole"))


def test_where_nothing_is_left_out_the_setting_changes_nothing(base, tmp_path):
    start(tmp_path / "without", config_of("gpt", "clm", base))
    start(tmp_path / "with", config_of("gpt", "clm", base, "skip_nonfinite=9"))
    assert_same(outcome(tmp_path / "with"), outcome(tmp_path / "without"))


def test_a_batch_that_cannot_be_kept_does_not_hide_the_reason(base, tmp_path, spoiled):
    spoiled(2)
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "nonfinite").write_text("a file")
    config = config_of("bert", "mlm", base)
    (folder / "config.yaml").touch()
    with pytest.raises(LmzooError, match=r"step 2: the loss is nan.*could not be kept.*skip_nonfinite=1"):
        train(config, folder)


@pytest.mark.parametrize("number", [-1, "many"])
def test_a_number_of_steps_is_asked_for(number):
    with pytest.raises(LmzooError, match=r"skip_nonfinite=(-1|many)"):
        compose([f"skip_nonfinite={number}"])


SCRIPT = """
import math, os
from lmzoo import cli, distributed, train
from lmzoo.modules import LanguageModelModule
import sys
from pathlib import Path

distributed.rank_command = lambda: [sys.executable, str(Path(__file__).resolve())]
divided = LanguageModelModule._divided

def wrong(module, terms, counts):
    loss = divided(module, terms, counts)
    return loss * math.nan if module.ledger.steps == 5 and module.global_rank == 1 else loss

LanguageModelModule._divided = wrong
cli.run(train.job)
"""


@pytest.mark.slow
@pytest.mark.parametrize("allowed", [0, 1])
def test_two_processes_leave_out_the_same_step_where_one_alone_is_not_finite(allowed, base, tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    folder = tmp_path / "run"
    given = ["hardware=ddp", "hardware.accelerator=cpu", "hardware.micro_batch=2"]
    given.append(f"skip_nonfinite={allowed}")
    done = subprocess.run(
        [sys.executable, str(tmp_path / "script.py"), *arguments("bert", "mlm", base, *given),
         f"hydra.run.dir={folder}"],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert sorted(path.name for path in (folder / "nonfinite").iterdir()) == ["step-5-rank-1.pt", "step-5.pt"]
    assert "Traceback" not in done.stderr
    if allowed:
        assert done.returncode == 0, done.stderr
        assert json.loads((folder / "metrics.json").read_text())["ledger"]["skipped_steps"] == 1
        assert "step 5: " in done.stderr
        assert done.stderr.count("left out (1 of skip_nonfinite=1)") == 1
    else:
        assert done.returncode == 1
        assert "error: step 5: " in done.stderr
        assert checkpoint(folder)["ledger"]["steps"] == 3
