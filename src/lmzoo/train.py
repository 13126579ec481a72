"""`python -m lmzoo.train`: one run, or a sweep of them with ``-m``."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmzoo import cli

if TYPE_CHECKING:
    from lmzoo.settings import TrainConfig


def job(config: TrainConfig, folder: Path, resuming: bool) -> object:
    """Train as ``config`` says, in ``folder``."""
    from lmzoo.training import train  # torch and Lightning, only after the config has been accepted

    return train(config, folder, resuming)


def after(folder: Path, finetune: Sequence[Mapping[str, Any]]) -> None:
    """Put a trained model to tasks, each as `lmzoo finetune run=FOLDER` with these arguments; once."""
    from lmzoo.finetune import Finetune, finetuned
    from lmzoo.sweeps.table import result_folder
    from lmzoo.tasks.result import RESULT

    for given in finetune:
        place = result_folder(folder, given)
        if not (place / RESULT).is_file():
            said = {key.replace(".", "_"): value for key, value in given.items() if key != "name"}
            print(f"\n{finetuned(Finetune(run=str(folder), to=str(place), **said))}", flush=True)


def main() -> None:
    # torch asks for it at its first tensor: pages of 2 MB, or a training step on a CPU spends a tenth of its
    # time on having the 4 KB pages of its large buffers mapped
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    cli.run(job, after=after)


if __name__ == "__main__":
    main()
