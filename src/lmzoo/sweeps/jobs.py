"""What Hydra calls for every job of a command, in this process or in a launcher's worker."""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmzoo.errors import LmzooError, MismatchError
from lmzoo.launched import check_launch
from lmzoo.sweeps.record import DONE, FAILED, SKIPPED, STOPPED, Job, State

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from lmzoo.settings import TrainConfig

Work = Callable[..., object]
"""``work(config, folder, resuming=False)``: what is done with a resolved config in a run folder."""
Guard = Callable[[Path], AbstractContextManager[None]]
"""Around the work in a folder: it says how to go on after an interruption."""
After = Callable[[Path, Sequence[Mapping[str, Any]]], object]
"""``after(folder, finetune)``: what is done with a trained run beside."""


class Jobs:
    """One run, or those of a sweep. It travels to workers with what was planned.

    Args:
        work: trains.
        guard: around it.
        after: fine-tunes.
    """

    def __init__(self, work: Work, guard: Guard, after: After | None = None) -> None:
        self.work, self.guard, self.after = work, guard, after
        self.metric: str | None = None
        """Of metrics.json, what a job gives back to a sweeper that looks at it: ``valid/loss``."""
        self.process = os.getpid()
        self.error: Exception | None = None
        """Of a run that is no sweep's."""
        self.planned: list[Job] | None = None
        """The jobs in the order in which Hydra counts them; None where a sweeper makes them as it goes."""
        self.goes_on = False
        """Whether the sweep was begun by another command."""
        self.began = False
        """Whether a launcher was given the jobs."""
        self.tell: Callable[[Job], object] = lambda job: None
        """Told of a job that begins in this process."""

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"tell": None}  # it belongs to this process

    def start(self, cfg: DictConfig) -> float | None:
        """One job. An error is kept, not raised: Hydra would add lines of its own to it.

        Returns:
            the metric, where one is asked for and has a meaning.
        """
        from hydra.core.hydra_config import HydraConfig
        from hydra.types import RunMode

        settings = HydraConfig.get()
        folder = Path(settings.runtime.output_dir)
        if settings.mode == RunMode.MULTIRUN:
            sweep = Path(settings.sweep.dir).absolute()
            job = self._job(int(settings.job.num), list(settings.overrides.task))
            return self._start_in(sweep, folder, job, cfg)
        try:
            self._run(folder, cfg, None)
        except Exception as error:
            self.error = error
        return None

    def _job(self, place: int, overrides: list[str]) -> Job:
        return self.planned[place] if self.planned is not None else Job(place, overrides)

    def _start_in(self, sweep: Path, folder: Path, job: Job, cfg: DictConfig) -> float | None:
        is_worker = os.getpid() != self.process
        self.began = True
        state = State(job.number, job.name, folder=os.path.relpath(folder, sweep), kind=job.kind)
        state.write(sweep)
        if is_worker:
            from lmzoo.progress import no_bars

            no_bars()
        else:
            self.tell(job)
        state.state = STOPPED
        try:
            metrics = self._run(folder, cfg, " ".join(sweep.parts[-3:]), job)
            state.state = DONE
            return picked(metrics, self.metric) if self.metric and isinstance(metrics, Mapping) else None
        except Exception as error:
            state.state = SKIPPED if isinstance(error, MismatchError) else FAILED
            state.error = _one_line(error)
            if not isinstance(error, LmzooError):
                traceback.print_exception(error)
            if not is_worker:  # what a worker says is told by whoever looks at the states
                print(f"error: {job.name}: {state.error}", file=sys.stderr, flush=True)
            return None
        finally:
            state.ended = time.time()
            state.write(sweep)

    def _run(self, folder: Path, cfg: DictConfig, group: str | None, job: Job | None = None) -> object:
        from lmzoo.config import from_hydra, resolve
        from lmzoo.folders import claim, give_up, remove_empty

        if job is not None and self.goes_on and (folder / "config.yaml").is_file():
            return self._go_on(folder, resolve(from_hydra(cfg)), job)
        try:
            config = resolve(from_hydra(cfg))
            check_launch(config.hardware)
            config.logger.group = config.logger.group or group
            claim(folder, config)
        except BaseException:
            remove_empty(folder)
            raise
        try:
            with self.guard(folder):
                metrics = self.work(config, folder, resuming=False)
                self._finish(folder, job)
        except BaseException:
            give_up(folder)
            raise
        return metrics

    def _go_on(self, folder: Path, asked: TrainConfig, job: Job) -> object:
        """Go on in a folder that another command began, with the hardware and the logger of this one."""
        from lmzoo.config import load_config, resolve

        config = resolve(load_config(folder / "config.yaml"))
        asked.logger.group = asked.logger.group or config.logger.group
        config.hardware, config.logger = asked.hardware, asked.logger
        metrics = trained(folder, config)
        with self.guard(folder):
            if metrics is None:
                metrics = self.work(config, folder, resuming=has_checkpoint(folder))
            self._finish(folder, job)
        return metrics

    def _finish(self, folder: Path, job: Job | None) -> None:
        if job is not None and job.finetune and self.after is not None:
            self.after(folder, job.finetune)


def has_checkpoint(folder: Path) -> bool:
    """Whether there is a checkpoint, file or folder, from which a run can go on; else it begins anew."""
    return any((folder / "checkpoints" / f"{name}.ckpt").exists() for name in ("last", "previous"))


def trained(folder: Path, config: TrainConfig) -> dict[str, Any] | None:
    """metrics.json of a run that came to its end, evaluations included; None where something may be missing."""
    try:
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    whole = not config.evaluate_along and (not config.evaluate_at_end or "evaluations" in metrics)
    return metrics if whole else None


def picked(metrics: Mapping[str, Any], name: str) -> float | None:
    """A figure of metrics.json by its name, ``valid/loss``; None where it has no meaning for the run.

    Raises:
        LmzooError: there is none of this name.
    """
    found: Any = metrics
    for part in name.split("/"):
        if not isinstance(found, Mapping) or part not in found:
            known = [f"{stage}/{key}" for stage in ("valid", "ledger") for key in metrics.get(stage) or {}]
            raise LmzooError(
                f"sweep.metric={name} is no figure of the run; choose one of: {', '.join(known)}"
            )
        found = found[part]
    return None if found is None else float(found)


def _one_line(error: BaseException) -> str:
    return " ".join(part.strip() for part in (str(error) or type(error).__name__).splitlines())
