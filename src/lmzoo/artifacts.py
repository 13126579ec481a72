"""Models kept in W&B: the last and the best weights of a run, and no others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.loggers.logger import Logger

from lmzoo.progress import console

KEPT = ("best", "last")
"""Aliases of the two versions, which are the names of their checkpoints; `latest` is the one logged last."""


def log_models(loggers: Sequence[Logger], folder: Path, metadata: dict[str, Any]) -> None:
    """Log a finished run's ``last.ckpt`` (with its export) and ``best.ckpt`` as W&B artifacts.

    Both are versions of one artifact, ``model-RUN_ID``, found by their alias. Offline they wait in the
    run folder for `wandb sync`; online, versions that an earlier part of a resumed run left are removed.

    Args:
        loggers: of the run, not closed yet; without W&B nothing happens.
        folder: the run folder.
        metadata: shown beside the artifact; plain values.
    """
    import wandb

    for logger in loggers:
        if not isinstance(logger, WandbLogger):
            continue
        run = logger.experiment
        logged = []
        for alias in KEPT:
            checkpoint = folder / "checkpoints" / f"{alias}.ckpt"
            if not checkpoint.exists():  # a run that ended before its first validation has no best
                continue
            artifact = wandb.Artifact(f"model-{run.id}", type="model", metadata=metadata | {"kept": alias})
            # the files stay where they are: without a copy of every weight in W&B's own cache
            for path in sorted(checkpoint.glob("*")) if checkpoint.is_dir() else [checkpoint]:
                name = str(path.relative_to(checkpoint.parent))
                artifact.add_file(str(path), name=name, policy="immutable")
            exported = sorted((folder / "model").glob("*")) if alias == "last" else []
            for path in exported:  # `add_dir` would print
                artifact.add_file(str(path), name=f"model/{path.name}", policy="immutable")
            logged.append(run.log_artifact(artifact, aliases=[alias]))
        if not run.offline and logged:
            for artifact in logged:
                artifact.wait()
            remove_others(wandb.Api(), f"{run.entity}/{run.project}/model-{run.id}")


def remove_others(api: Any, name: str) -> None:
    """Delete the versions of an artifact that are neither the last nor the best.

    A server that does not allow it costs a line on the terminal, not the run.
    """
    import wandb

    try:
        for version in api.artifacts("model", name):
            if not set(version.aliases) & set(KEPT):
                version.delete(delete_aliases=True)
    except (wandb.Error, ValueError) as error:
        console.print(
            f"W&B keeps earlier versions of {name}: {str(error).splitlines()[0]}",
            soft_wrap=True,
            markup=False,
            highlight=False,
        )
