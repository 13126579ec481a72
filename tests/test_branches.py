"""Several budgets from one run: a branch off a trunk is the run of its budget, bit for bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lmzoo.errors import LmzooError
from lmzoo.training import train
from small_runs import assert_same, checkpoint, config_of, history, interrupt, outcome, start

TRUNK = ["schedule=wsd", "schedule.warmup=0.1", "budget.steps=20", "checkpoint.branches=[0.4]"]
BRANCH = ["schedule=wsd", "schedule.warmup=0.2", "budget.steps=10", "checkpoint.branches=null"]
"""Half the trunk's budget: as many steps of warm-up, and the decay begins where the trunk was kept."""


def trunk(base: Path, *more: str) -> Path:
    """A run, and its checkpoint of step 8."""
    start(base / "trunk", config_of("gpt", "clm", base, *TRUNK, *more))
    return base / "trunk" / "checkpoints" / "branch-0.4.ckpt"


def test_a_branch_is_the_run_of_its_budget(tmp_path):
    kept = trunk(tmp_path, "valid.every_steps=3")
    assert checkpoint(tmp_path / "trunk", "branch-0.4")["ledger"]["steps"] == 8
    settings = [*BRANCH, "valid.every_steps=3"]
    branch = start(tmp_path / "branch", config_of("gpt", "clm", tmp_path, *settings, f"branch_from={kept}"))
    alone = start(tmp_path / "alone", config_of("gpt", "clm", tmp_path, *settings))
    ours, theirs = outcome(tmp_path / "branch"), outcome(tmp_path / "alone")
    for part in ("weights", "optimizer", "ledger", "export"):
        assert_same(ours[part], theirs[part], part)
    assert branch["valid"] == alone["valid"]
    assert branch["ledger"]["tokens_seen"] == alone["ledger"]["tokens_seen"]
    rows = [row for row in history(tmp_path / "alone") if int(row["step"]) > 8]
    assert history(tmp_path / "branch") == rows


def test_an_interrupted_branch_goes_on_in_itself(tmp_path):
    kept = trunk(tmp_path)  # of a step with a validation
    config = config_of("gpt", "clm", tmp_path, *BRANCH, f"branch_from={kept}", "budget.steps=14")
    start(tmp_path / "whole", config)
    interrupt(tmp_path / "stopped", config, after=12)
    kept.unlink()  # nor is the trunk needed any more
    train(config, tmp_path / "stopped", resuming=True)
    assert_same(outcome(tmp_path / "stopped"), outcome(tmp_path / "whole"))


def test_an_interrupted_trunk_keeps_each_branch_once(tmp_path):
    config = config_of("gpt", "clm", tmp_path, *TRUNK, "checkpoint.branches=[0.2,0.6]")
    interrupt(tmp_path / "run", config, after=10)
    early = (tmp_path / "run" / "checkpoints" / "branch-0.2.ckpt").stat().st_mtime_ns
    train(config, tmp_path / "run", resuming=True)
    assert (tmp_path / "run" / "checkpoints" / "branch-0.2.ckpt").stat().st_mtime_ns == early
    assert checkpoint(tmp_path / "run", "branch-0.6")["ledger"]["steps"] == 12


def test_a_trunk_from_before_a_key_was_there_has_its_default(tmp_path):
    kept = trunk(tmp_path)
    content = torch.load(kept, weights_only=True)
    del content["lmzoo"]["config"]["objective"]["tail_divisor"]
    torch.save(content, kept)
    start(tmp_path / "branch", config_of("gpt", "clm", tmp_path, *BRANCH, f"branch_from={kept}"))
    del content["lmzoo"]["config"]["objective"]["label_smoothing"]
    torch.save(content, kept)
    another = config_of(
        "gpt", "clm", tmp_path, *BRANCH, f"branch_from={kept}", "objective.label_smoothing=0.1"
    )
    with pytest.raises(LmzooError, match=r"objective\.label_smoothing=0\.0 and this one has 0\.1"):
        start(tmp_path / "another", another)


def test_what_is_no_branch_is_refused_before_anything_is_trained(tmp_path):
    kept = trunk(tmp_path)
    for changes, part in (
        (["budget.steps=9"], "give a larger budget, or schedule.decay=0.111"),
        (["budget.steps=8"], "has spent this budget already"),
        (["optimizer.lr=1e-4"], "optimizer.lr=0.003 and this one has 0.0001"),
        (["batch_size=4"], "batch_size=8 and this one has 4"),
        (["averaging=ema"], "averaging.name=none and this one has ema"),
        (["schedule.warmup=0.85", "schedule.decay=0.1"], "lower it"),
        ([f"branch_from={tmp_path / 'trunk'}"], "is a folder"),
        ([f"branch_from={tmp_path / 'nothing.ckpt'}"], "does not exist; give a checkpoint"),
        ([f"branch_from={kept.with_name('last.ckpt')}", "budget.steps=40"], "of a run that had ended"),
    ):
        folder = tmp_path / part[:9].replace("/", "")
        with pytest.raises(LmzooError, match=part) as caught:
            start(folder, config_of("gpt", "clm", tmp_path, *BRANCH, f"branch_from={kept}", *changes))
        assert "\n" not in str(caught.value)
        assert not (folder / "checkpoints").exists()


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("checkpoint.branches=[1.5]", "shares in (0, 1)"),
        ("branch_from=a.ckpt init_from=bert", "two beginnings"),
        ("branch_from=a.ckpt hardware=fsdp", "needs whole weights"),
    ],
)
def test_what_does_not_go_together_is_refused(line, part):
    import re

    from lmzoo.config import composed, from_hydra, resolve

    with pytest.raises(LmzooError, match=re.escape(part)):
        resolve(from_hydra(composed(line.split())))
