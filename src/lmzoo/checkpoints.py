"""What a checkpoint holds beside the weights, when one is written, and whether a run may go on with it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.distributed
from lightning.pytorch.callbacks import Callback, Checkpoint
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_only

from lmzoo import __version__, signals
from lmzoo import config as configs
from lmzoo.checkpoint_files import LAST_NAME, PREVIOUS_NAME, Saved, read_checkpoint_file
from lmzoo.data.store import Store
from lmzoo.errors import LmzooError
from lmzoo.logs import settle_loggers
from lmzoo.modules import LanguageModelModule
from lmzoo.progress import say
from lmzoo.settings import TrainConfig, with_later_keys
from lmzoo.sharded_files import read_folder, read_whole

FORMAT = 1
"""Version of what a checkpoint holds; raise it when an older one can no longer be gone on with."""
ADVICE = "start the run again, or from a copy"
LAST, PREVIOUS = f"checkpoints/{LAST_NAME}", f"checkpoints/{PREVIOUS_NAME}"


SAME = ("model", "objective", "seed", "seq_len", "batch_size", "context", "ramp", "averaging")
"""What must not change where a run goes on."""


class RunRecord(Callback):
    """Keeps in every checkpoint what a resumed run must know: its config, its text, its W&B run's id."""

    def __init__(
        self, config: dict[str, Any], wandb_id: str | None, content: str, vectors_found: float | None
    ) -> None:
        self._record = {
            "format": FORMAT,
            "config": config,
            "wandb_id": wandb_id,
            "content": content,
            "vectors_found": vectors_found,
            "lmzoo_version": __version__,
        }

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: Any) -> None:
        checkpoint["lmzoo"] = self._record


class LastCheckpoint(Checkpoint):
    """Writes ``last.ckpt`` every so many steps, at the end, and when a signal asks the run to stop.

    Where a validation falls on the same step it comes first: a run that goes on from the checkpoint then
    neither leaves that validation out nor takes it twice. For the same reason this callback must follow the
    one that keeps the best checkpoint, whose state is part of this one's.

    Args:
        folder: the run's.
        every_steps: steps between two checkpoints.
        valid_every_steps: steps between two validations.
        branches: shares of the budget after which another is kept, for ``branch_from=``.
    """

    def __init__(
        self, folder: Path, every_steps: int, valid_every_steps: int, branches: Sequence[float] = ()
    ) -> None:
        self._path = folder / LAST
        self._every = every_steps
        self._valid_every = valid_every_steps
        self._saved = 0
        self._branches = sorted(branches)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._saved = _steps(pl_module)
        if self._saved:
            self._branches = [share for share in self._branches if share > pl_module.progress]  # type: ignore[operator]
        signals.hold()

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        if not trainer.should_stop and _steps(pl_module) % self._valid_every:
            self._after_step(trainer, pl_module)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        signals.take_over()

    on_test_start = on_validation_start

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            self._after_step(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._save(trainer, pl_module)
        signals.release(_steps(pl_module))

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: Any) -> None:
        signals.let_go()

    def _after_step(self, trainer: L.Trainer, module: Any) -> None:
        steps = _steps(module)
        while self._branches and self._branches[0] <= module.progress:
            trainer.save_checkpoint(self._path.with_name(branch_name(self._branches.pop(0))))
        if module.stop_asked:
            self._save(trainer, module)
            raise signals.Stopped(_agreed_signal(trainer), steps)
        if steps % self._every == 0:
            self._save(trainer, module)

    def _save(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if self._saved != _steps(module):
            settle_loggers(trainer.loggers)  # no checkpoint without the rows of its steps
            trainer.save_checkpoint(self._path)
            self._saved = _steps(module)


def branch_name(share: float) -> str:
    """The file of `checkpoint.branches`."""
    return f"branch-{share:g}.ckpt"


def _steps(module: Any) -> int:
    return module.ledger.steps


def _agreed_signal(trainer: L.Trainer) -> int:
    """The signal that came to any rank; the largest number, if there are several."""
    number = torch.tensor([signals.received()], device=trainer.strategy.root_device)
    if trainer.world_size > 1:
        torch.distributed.all_reduce(number, op=torch.distributed.ReduceOp.MAX)
    return int(number)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What a checkpoint holds, in the memory of the CPU; of a folder of shards, the shapes of the weights.

    Raises:
        LmzooError: the file is not there, is damaged, carries code or is of another version.
    """
    saved = read_folder(path) if path.is_dir() else read_checkpoint_file(path)
    if not isinstance(saved, dict) or not {"state_dict", "ledger", "lmzoo"} <= set(saved):
        raise LmzooError(f"{path} is no checkpoint of this version of lmzoo")
    found = saved["lmzoo"].get("format", FORMAT)
    if found != FORMAT:
        raise LmzooError(
            f"{path} is of another version of lmzoo ({saved['lmzoo'].get('lmzoo_version')}, format {found}), "
            f"and this one ({__version__}) goes on from format {FORMAT}"
        )
    return saved


def weights_of(saved: Saved) -> dict[str, Any]:
    """All weights of a checkpoint; of a folder of shards, which have only shapes so far, they are read now."""
    return read_whole(saved.path)["state_dict"] if saved.path.is_dir() else saved.content["state_dict"]


def read_last(folder: Path) -> Saved:
    """The last checkpoint of a run; with a warning, the one before it where the last cannot be used.

    Raises:
        LmzooError: neither can be used.
    """
    last, previous = folder / LAST, folder / PREVIOUS
    try:
        return Saved(last, read_checkpoint(last))
    except LmzooError as error:
        if not previous.exists():
            raise LmzooError(f"{error}; {ADVICE}") from error
        try:
            saved = Saved(previous, read_checkpoint(previous))
        except LmzooError as other:
            raise LmzooError(f"{error}, and so is the one before: {other}; {ADVICE}") from other
        if rank_zero_only.rank == 0:  # type: ignore[attr-defined]
            say(f"warning: {error}; going on from the one before, {previous.name}, of step {saved.steps:,}")
        return saved


def refuse_another_run(
    saved: Saved, config: TrainConfig, module: LanguageModelModule, store: Store, folder: Path
) -> None:
    """Refuse to go on with another model, another vocabulary or another text than the checkpoint's."""
    table = "spelling" if config.model.is_spelt else "weight"
    name = f"backbone.embedding.tokens.{table}"
    rows, own = saved.content["state_dict"][name].shape[0], module.state_dict()[name].shape[0]
    if rows != own:
        raise LmzooError(
            f"{saved.path} was trained with {rows} pieces and the tokenizer has {own}; "
            "the corpus or the tokenizer file has changed since: put back the ones of the run"
        )
    record = saved.content["lmzoo"]
    before, now = with_later_keys(record["config"]), configs.to_dict(config)
    for section in SAME:
        if before[section] != now[section]:
            raise LmzooError(
                f"{folder / 'config.yaml'} does not fit its checkpoint: {section} has been changed"
            )
    if record["content"] != store.content:
        raise LmzooError(
            f"{saved.path} was trained on another text or another tokenizer than is there now; "
            "put back the files of the run (for data=stdlib, the same Python), or start a new one"
        )
