"""What a checkpoint holds beside the weights, and whether a run may go on with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from lmzoo import __version__
from lmzoo import config as configs
from lmzoo.data.store import Store
from lmzoo.errors import LmzooError
from lmzoo.hub.files import unpickle
from lmzoo.modules import LanguageModelModule
from lmzoo.settings import TrainConfig

LAST, BEST = "checkpoints/last.ckpt", "checkpoints/best.ckpt"


class RunRecord(Callback):
    """Keeps in every checkpoint what a resumed run must know: its config, its text, its W&B run's id."""

    def __init__(
        self, config: dict[str, Any], wandb_id: str | None, content: str, vectors_found: float | None
    ) -> None:
        self._record = {
            "config": config,
            "wandb_id": wandb_id,
            "content": content,
            "vectors_found": vectors_found,
            "lmzoo_version": __version__,
        }

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: Any) -> None:
        checkpoint["lmzoo"] = self._record


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What a checkpoint holds, in the memory of the CPU.

    Raises:
        LmzooError: the file is damaged, carries code or is of another version.
    """
    saved = unpickle(path)
    if not isinstance(saved, dict) or not {"state_dict", "ledger", "lmzoo"} <= set(saved):
        raise LmzooError(
            f"{path} is no checkpoint of this version of lmzoo; start the run again, or from a copy"
        )
    return saved


def refuse_another_run(
    saved: dict[str, Any], config: TrainConfig, module: LanguageModelModule, store: Store, folder: Path
) -> None:
    """Refuse to go on with another model, another vocabulary or another text than the checkpoint's."""
    table = "spelling" if config.model.embedding == "characters" else "weight"
    name = f"backbone.embedding.tokens.{table}"
    rows, own = saved["state_dict"][name].shape[0], module.state_dict()[name].shape[0]
    if rows != own:
        raise LmzooError(
            f"{folder / LAST} was trained with {rows} pieces and the tokenizer has {own}; "
            "the corpus or the tokenizer file has changed since: put back the ones of the run"
        )
    before, now = saved["lmzoo"]["config"], configs.to_dict(config)
    for section in ("model", "objective", "seed", "seq_len", "batch_size", "context"):
        if before[section] != now[section]:
            raise LmzooError(
                f"{folder / 'config.yaml'} does not fit its checkpoint: {section} has been changed"
            )
    if saved["lmzoo"]["content"] != store.content:
        raise LmzooError(
            f"{folder / LAST} was trained on another text or another tokenizer than is there now; "
            "put back the files of the run (for data=stdlib, the same Python), or start a new one"
        )
