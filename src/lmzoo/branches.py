"""`branch_from=`: another run that goes on from a checkpoint of one, its trunk, and ends with its own budget.

With warm-up, stable and decay (`schedule=wsd`, Hu et al. 2024, arXiv:2404.06395, section 4) the rate of a run does not
depend on its budget until it decays. So the runs of several budgets share their stable part: the trunk keeps its whole
state on the way (`checkpoint.branches`), and a branch decays from there.
"""

from __future__ import annotations

from pathlib import Path

from lmzoo import config as configs
from lmzoo.checkpoint_files import Saved
from lmzoo.checkpoints import SAME, read_checkpoint
from lmzoo.data.store import Store
from lmzoo.errors import LmzooError
from lmzoo.ledger import Ledger
from lmzoo.settings import TrainConfig, with_later_keys


def read_trunk(config: TrainConfig, store: Store) -> Saved:
    """The checkpoint that a branch goes on from.

    Raises:
        LmzooError: it cannot be used, is of a run with other settings or another text, or this run's budget or
            decay lies before it.
    """
    path = Path(str(config.branch_from))
    if path.is_dir():
        raise LmzooError(
            f"branch_from={path} is a folder; give a checkpoint: train with checkpoint.branches=[0.5], then "
            f"branch_from=RUN/checkpoints/branch-0.5.ckpt"
        )
    if not path.exists():
        raise LmzooError(
            f"branch_from={path} does not exist; give a checkpoint that a run kept on its way "
            "(checkpoint.branches): branch_from=RUN/checkpoints/branch-0.5.ckpt"
        )
    saved = Saved(path, read_checkpoint(path))
    before, now = with_later_keys(saved.content["lmzoo"]["config"]), configs.to_dict(config)
    for section in (*SAME, "optimizer"):
        was, is_now = before[section], now[section]
        if was != is_now:
            raise LmzooError(f"branch_from={path}: its run had {_difference(section, was, is_now)}")
    if saved.content["lmzoo"]["content"] != store.content:
        raise LmzooError(f"branch_from={path} was trained on another text or another tokenizer")
    if saved.content["loops"]["fit_loop"]["epoch_progress"]["current"]["completed"]:
        raise LmzooError(
            f"branch_from={path} is of a run that had ended; give one that was kept on the way "
            "(checkpoint.branches)"
        )
    _refuse_late(config, saved)
    # which checkpoint of the trunk was its best is no matter of this run
    saved.content["callbacks"] = {
        name: state for name, state in saved.content["callbacks"].items() if "ModelCheckpoint" not in name
    }
    return saved


def _difference(section: str, was: object, now: object) -> str:
    if isinstance(was, dict) and isinstance(now, dict):
        name = next(key for key in {**was, **now} if was.get(key) != now.get(key))
        return f"{section}.{name}={was.get(name)} and this one has {now.get(name)}"
    return f"{section}={was} and this one has {now}"


def _refuse_late(config: TrainConfig, saved: Saved) -> None:
    ledger = Ledger()
    ledger.load_state_dict(saved.content["ledger"])
    spent = ledger.spent(config.budget)
    schedule = config.schedule
    decay = schedule.decay if schedule.name == "wsd" else 0.0
    if spent >= 1:
        raise LmzooError(
            f"branch_from={saved.path} has spent this budget already; it is counted from the beginning of the "
            "trunk: give more"
        )
    if spent > 1 - decay + 1e-9:
        raise LmzooError(
            f"branch_from={saved.path} has spent {spent:.3g} of this budget, and schedule.decay={decay} begins "
            f"at {1 - decay:.3g}; give a larger budget, or schedule.decay={1 - spent:.3g} or less"
        )
    if spent < schedule.warmup:
        raise LmzooError(
            f"branch_from={saved.path} has spent {spent:.3g} of this budget, which is within "
            f"schedule.warmup={schedule.warmup}; lower it"
        )
