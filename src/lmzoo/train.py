"""`python -m lmzoo.train`: one run, or a sweep of them with ``-m``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lmzoo import cli

if TYPE_CHECKING:
    from lmzoo.settings import TrainConfig


def job(config: TrainConfig, folder: Path, resuming: bool) -> object:
    """Train as ``config`` says, in ``folder``."""
    from lmzoo.training import train  # torch and Lightning, only after the config has been accepted

    return train(config, folder, resuming)


def main() -> None:
    cli.run(job)


if __name__ == "__main__":
    main()
