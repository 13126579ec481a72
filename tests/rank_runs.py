"""Several runs, one after the other, in the same few processes: `python rank_runs.py RUNS.json`.

Starting a process costs more than such a run. What a launcher would set is in the environment already, so no
rank starts others; how they are started by the command itself is the matter of test_distributed.py.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from corpora import made_documents, write_text
from lmzoo.config import compose, save_config
from lmzoo.modules import LanguageModelModule
from lmzoo.training import train

SHAPES = {
    "elmo": ["model.cell_size=24"],
    "elmo_2018": ["model.cell_size=24", "model.filters=[4,8,8]", "model.num_highway=1"],
    **{
        name: ["model.num_heads=2", "model.ffn_size=48"]
        for name in ("gpt", "bert", "gpt_2018", "gpt2", "bert_2018")
    },
}
SMALL = [
    "logger=csv",
    "logger.every_steps=1",
    "hardware.accelerator=cpu",
    "hardware.precision=fp32",
    "model.hidden_size=32",
    "model.num_layers=2",
    "model.dropout=0",
    "seq_len=32",
    "batch_size=8",
    "optimizer.lr=1e-3",
    "optimizer.gradient_clip=0.1",
    "schedule.warmup=0.3",
    "tokenizer.vocab_size=300",
    "valid.sequences=16",
    "valid.every_steps=3",
    "checkpoint.every_steps=3",
    "data=text",
    "data.valid_fraction=0.2",
]


@dataclass
class Run:
    """One run of `lmzoo.training.train`."""

    folder: str
    overrides: list[str]
    copied_from: str | None = None
    """A folder that rank 0 copies first, and whose run goes on."""
    stop: int | None = None
    """The run breaks in the step after this one."""
    port: int = field(default=0)


def small_run(cache: Path, family: str, objective: str, *overrides: str) -> list[str]:
    """Overrides of a small run on a made-up text, of documents of uneven length, that lies in ``cache``."""
    text = cache / "text.txt"
    if not text.exists():
        write_text(text, [d for n in (1, 3, 9) for d in made_documents(40, seed=n, sentences=n)])
    data = [f"cache_dir={cache}", f"data.train={text}"]
    return [f"model={family}", f"objective={objective}", *SMALL, *SHAPES[family], *data, *overrides]


def hardware(strategy: str, ranks: int) -> list[str]:
    return [f"hardware.strategy={strategy}", f"hardware.devices={ranks}"]


def in_processes(runs: list[Run], ranks: int, folder: Path, seconds: float = 150) -> None:
    """Do all runs in ``ranks`` processes."""
    for run in runs:
        run.port = free_port()
    file = folder / f"runs{free_port()}.json"
    file.write_text(json.dumps([asdict(run) for run in runs]))
    said = os.environ | {"OMP_NUM_THREADS": "1", "NODE_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, str(file)],
            env=said | {"LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(ranks)
    ]
    end = time.monotonic() + seconds
    try:
        told = [process.communicate(timeout=max(end - time.monotonic(), 1))[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    for rank, (process, text) in enumerate(zip(processes, told, strict=True)):
        assert process.returncode == 0, f"rank {rank} of {ranks}:\n{text}"


def here(run: Run) -> dict[str, Any]:
    """Do a run in this process."""
    prepare(run)
    return do(run)


def prepare(run: Run) -> None:
    folder = Path(run.folder)
    if run.copied_from is not None:
        shutil.copytree(run.copied_from, folder)
        return
    folder.mkdir(parents=True)
    save_config(compose(run.overrides), folder / "config.yaml")


class Broken(Exception):
    """What a run is interrupted with; no part of lmzoo knows it."""


def do(run: Run) -> dict[str, Any]:
    whole = LanguageModelModule.training_step

    def breaking(module: LanguageModelModule, batch: Any, batch_idx: int) -> None:
        if module.ledger.steps == run.stop:
            raise Broken
        whole(module, batch, batch_idx)

    LanguageModelModule.training_step = breaking
    try:
        return train(compose(run.overrides), Path(run.folder), resuming=run.copied_from is not None)
    except Broken:
        return {}
    finally:
        LanguageModelModule.training_step = whole


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def losses(folder: str | Path) -> list[float]:
    """Of every step, and of every validation."""
    return [*_column(folder, "train/loss"), *_column(folder, "valid/loss")]


def norms(folder: str | Path) -> list[float]:
    """Of every step's gradient, before it was clipped."""
    return _column(folder, "train/gradient_norm")


def _column(folder: str | Path, name: str) -> list[float]:
    with (Path(folder) / "history.csv").open(encoding="utf-8") as file:
        return [float(row[name]) for row in csv.DictReader(file) if row.get(name)]


def ledgers(folder: str | Path, ranks: int) -> list[dict[str, float]]:
    """What each rank counted, but for the memory of its own."""
    told = [json.loads((Path(folder) / f"rank{rank}.json").read_text())["ledger"] for rank in range(ranks)]
    return [{key: value for key, value in ledger.items() if "memory" not in key} for ledger in told]


def exported(folder: str | Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(Path(folder) / "model" / "model.safetensors")


def main(file: Path) -> None:
    for number, entry in enumerate(json.loads(file.read_text())):
        run = Run(**entry)
        os.environ["MASTER_PORT"] = str(run.port)
        ready = file.with_suffix(f".{number}")
        if os.environ["LOCAL_RANK"] == "0":
            prepare(run)
            ready.touch()
        while not ready.exists():
            time.sleep(0.02)
        metrics = do(run)
        (Path(run.folder) / f"rank{os.environ['LOCAL_RANK']}.json").write_text(json.dumps(metrics))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
