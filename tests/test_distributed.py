"""Two real processes on a CPU: alone, when a run goes on, and inside a sweep with a failing job."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lmzoo.config import compose, save_config

SCRIPT = """
import json, os, sys, warnings
from pathlib import Path
import torch
from lightning.pytorch import LightningModule, Trainer
from lmzoo import cli, distributed
from lmzoo.config import to_dict
from lmzoo.errors import LmzooError

distributed.rank_command = lambda: [sys.executable, str(Path(__file__).resolve())]
warnings.simplefilter("ignore")


class Tiny(LightningModule):
    def __init__(self, seed):
        super().__init__()
        self.seed = seed
        self.linear = torch.nn.Linear(2, 1)
        torch.nn.init.ones_(self.linear.weight)

    def training_step(self, batch, index):
        if self.seed == 2 or (self.seed == 3 and self.global_rank == 1):
            raise LmzooError("the loss is not finite")
        return self.linear(batch + self.global_rank).sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


def job(config, folder, resuming):
    with distributed.as_rank_command(folder, to_dict(config), resuming):
        trainer = Trainer(
            accelerator="cpu", devices=config.hardware.devices, strategy=config.hardware.strategy,
            max_steps=3, logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False,
        )
        module = Tiny(config.seed)
        trainer.fit(module, torch.utils.data.DataLoader(torch.ones(12, 2), batch_size=2))
        seen = {"seed": config.seed, "world": trainer.world_size, "weights": module.linear.weight.tolist(),
                "resuming": resuming, "arguments": sys.argv[1:]}
        (folder / f"rank{trainer.global_rank}.json").write_text(json.dumps(seen))
    names = {"LOCAL_RANK", "WORLD_SIZE", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT", "LMZOO_RANK_JOB"}
    left = names & set(os.environ)
    if trainer.global_rank == 0:
        (folder / "after.json").write_text(json.dumps([sorted(left), torch.distributed.is_initialized()]))


cli.run(job)
"""


@pytest.fixture
def script(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text(SCRIPT)
    return tmp_path / "train.py"


def run(script: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(script), *argv],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=180,
    )


def check_ranks(folder: Path, seed: int, resuming: bool) -> None:
    ranks = [json.loads((folder / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    assert [rank["seed"] for rank in ranks] == [seed, seed]
    assert [rank["world"] for rank in ranks] == [2, 2]
    assert [rank["resuming"] for rank in ranks] == [resuming, resuming]
    assert ranks[1]["arguments"] == []
    # Each step's gradient is 2 on rank 0 and 4 on rank 1, 3 on average: 1 - 3 steps x 0.01 x 3.
    for rank in ranks:
        assert rank["weights"] == [pytest.approx([0.91, 0.91])]
    assert json.loads((folder / "after.json").read_text()) == [[], False]


def test_a_run_goes_on_in_two_processes(script):
    folder = Path("run")
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / "last.ckpt").touch()
    save_config(compose(["seed=5"]), folder / "config.yaml")
    result = run(script, "resume=run", "hardware=ddp")
    assert result.returncode == 0, result.stderr
    check_ranks(folder, 5, resuming=True)
    assert sorted(path.name for path in Path.cwd().iterdir()) == ["run", "train.py"]


@pytest.mark.slow
def test_a_sweep_in_two_processes_with_a_failing_job(script):
    result = run(script, "-m", "seed=1,2,4", "hardware=ddp", "hydra.sweep.dir=sweep")
    assert result.returncode == 1, result.stderr
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert errors == [
        "error: job 1 (seed=2 hardware=ddp): the loss is not finite",
        "error: 1 of 3 jobs failed: job 1 (seed=2 hardware=ddp); run them again by "
        f"sweep.resume={Path.cwd() / 'sweep'}",
    ]
    check_ranks(Path("sweep/0"), 1, resuming=False)
    check_ranks(Path("sweep/2"), 4, resuming=False)
    left = ["0", "2", "jobs", "multirun.yaml", "sweep.json"]
    assert sorted(path.name for path in Path("sweep").iterdir()) == left
    assert sorted(path.name for path in Path.cwd().iterdir()) == ["sweep", "train.py"]


@pytest.mark.slow
def test_a_rank_that_fails_alone_ends_the_run_and_says_why(script):
    result = run(script, "seed=3", "hardware=ddp")
    assert result.returncode != 0
    assert "error: rank 1: the loss is not finite" in result.stderr


def test_a_rank_ends_with_the_process_that_has_started_it(tmp_path):
    """Rank 0 is killed before there is a group whose end the other would notice."""
    rank = (
        "import os, sys, time; from lmzoo.distributed import taking_part\n"
        "with taking_part() as job: print(os.getpid(), job, flush=True); time.sleep(60)"
    )
    first = (
        "import json, os, subprocess, sys, time; from lmzoo.distributed import RANK_JOB\n"
        "os.environ[RANK_JOB] = json.dumps({'folder': 'here', 'parent': os.getpid()})\n"
        "subprocess.Popen([sys.executable, '-c', sys.argv[1]]); time.sleep(60)"
    )
    command = [sys.executable, "-c", first, rank]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        number, job = parent.stdout.readline().split(maxsplit=1)
        assert job.strip() == "{'folder': 'here'}"
        parent.kill()
        deadline = time.monotonic() + 20
        while Path(f"/proc/{number}").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
