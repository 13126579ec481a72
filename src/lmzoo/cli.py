"""From a command line to a job: compose, check, claim a folder, run; or one line that says why not.

Every command goes through ``run``. What the user can cause ends as one line on standard error and exit
status 1; anything else keeps its traceback, so that a bug is seen.
"""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmzoo import signals
from lmzoo.distributed import taking_part
from lmzoo.errors import LmzooError
from lmzoo.launched import check_launch, launch

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override

    from lmzoo.settings import TrainConfig

Job = Callable[..., object]
"""``job(config, folder, resuming=False)``: what is done with a resolved config in a run folder."""
After = Callable[..., object]
"""``after(folder, finetune)``: what is done with a trained model beside, as arguments of `lmzoo finetune`."""

SECONDS_FOR_RANK_0 = 10.0
"""How long a failed rank waits to be ended by rank 0, which tells of what befell all ranks alike."""


def run(job: Job, argv: list[str] | None = None, after: After | None = None) -> None:
    """Run ``job`` as the command line says: once, once per job of a sweep (``-m``), or to go on.

    Args:
        job: called as ``job(config, folder, resuming=…)``.
        argv: the arguments; the process's own by default.
        after: called as ``after(folder, finetune)`` where an experiment puts what it trained to tasks.

    Raises:
        SystemExit: status 1 after a refusal or a failure; 130, 138 or 143 after Ctrl-C, SIGUSR1 or SIGTERM.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if wants_help(argv, "train"):
        return
    with one_line(), taking_part() as handed:
        if handed is not None:
            _run_rank(job, handed)
            return
        arguments, overrides = _parse(argv)
        if arguments.multirun and (started := launch()) is not None and started.processes > 1:
            raise LmzooError(f"{started} for one run, and -m asks for several; start each by itself")
        folder = _resume_folder(overrides, arguments.multirun)
        if folder is None:
            _run_or_sweep(job, after, argv[: len(argv) - len(arguments.overrides)], arguments)
        elif arguments.cfg or arguments.info:
            raise LmzooError(f"--cfg and --info do not go with resume=; the config is {folder}/config.yaml")
        else:
            _go_on(job, folder, resumed_config(folder, overrides))


def wants_help(argv: list[str], command: str) -> bool:
    """Print the help of ``command`` if it is asked for."""
    if not {"-h", "--help"} & set(argv):
        return False
    from lmzoo.help import help_text

    print(help_text(command))
    return True


@contextmanager
def one_line() -> Iterator[None]:
    """Turn what a user can cause inside the block into one line and an exit status."""
    try:
        yield
    except LmzooError as error:
        _say(error)
        sys.exit(1)
    except KeyboardInterrupt as error:
        _say(str(error) or "interrupted")
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output has gone, as in `… | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _say(what: object) -> None:
    line = " ".join(part.strip() for part in str(what).splitlines())
    print(f"error: {line}", file=sys.stderr, flush=True)


def _parse(argv: list[str]) -> tuple[Any, list[Override]]:
    """Hydra's flags and overrides. Puts the flags first in ``argv``, where Hydra wants them."""
    from hydra._internal.utils import get_args_parser
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import OverrideParseException

    from lmzoo.refusals import explain

    parser = get_args_parser()

    def refuse(message: str) -> None:
        raise LmzooError(f"{message}; --help tells what can be said")

    parser.error = refuse  # type: ignore[assignment]
    arguments = parser.parse_intermixed_args(argv)
    argv[:] = [part for part in argv if part not in arguments.overrides] + arguments.overrides
    try:
        return arguments, OverridesParser.create().parse_overrides(arguments.overrides)
    except OverrideParseException as error:
        raise LmzooError(explain(error)) from error


# ---------------------------------------------------------------------------------- a rank above 0


def _run_rank(job: Job, handed: dict[str, Any]) -> None:
    from lmzoo.config import from_dict

    names = ("RANK", "SLURM_PROCID") if launch() is not None else ("LOCAL_RANK",)
    rank = next((os.environ[name] for name in names if name in os.environ), "?")
    folder = Path(handed["folder"])
    try:
        if not folder.is_dir():
            raise LmzooError(
                f"{folder} is not to be seen from {platform.node()}; run folder and cache_dir must lie where "
                "all nodes see them"
            )
        with signals.watched(folder, raises=False):
            job(from_dict(handed["config"]), folder, resuming=handed["resuming"])
    except signals.Stopped:
        return  # rank 0, which stops after the same step, tells of it
    except LmzooError as error:
        time.sleep(SECONDS_FOR_RANK_0)
        raise LmzooError(f"rank {rank}: {error}") from error


# ---------------------------------------------------------------------------------- going on


def _resume_folder(overrides: list[Override], multirun: bool) -> Path | None:
    for override in overrides:
        if override.key_or_group == "resume" and override.value() is not None:
            if multirun or override.is_sweep_override():
                raise LmzooError("resume= goes on with one run: give one folder, without -m")
            if not str(override.value()):
                raise LmzooError("resume= is empty; give the folder of a run")
            return Path(str(override.value())).expanduser().absolute()
    return None


def resumed_config(folder: Path, overrides: list[Override]) -> TrainConfig:
    """The config of the run in ``folder`` with other hardware and loggers, if such are given.

    Raises:
        LmzooError: where the folder is no run that can go on, or anything else is overridden.
    """
    from hydra.core.override_parser.types import OverrideType

    from lmzoo.checks import check_hardware
    from lmzoo.config import compose, load_config, resolve

    if not folder.is_dir():
        raise LmzooError(f"resume={folder}: there is no such folder")
    if not (folder / "config.yaml").is_file():
        raise LmzooError(f"resume={folder}: there is no config.yaml in it; give the folder of a run")
    if not has_checkpoint(folder) and (folder / "metrics.json").exists():
        raise LmzooError(
            f"resume={folder}: the run is done (there is metrics.json), and its checkpoints are gone"
        )
    changes = [override for override in overrides if override.key_or_group != "resume"]
    for override in changes:
        section = override.key_or_group.partition(".")[0]
        if section not in ("hardware", "logger", "skip_nonfinite") or override.type != OverrideType.CHANGE:
            raise LmzooError(
                f"{override.input_line} cannot be given with resume=: the config comes from the run, "
                "and only hardware, logger and skip_nonfinite may differ"
            )
    config = resolve(load_config(folder / "config.yaml"))
    new = compose([override.input_line or "" for override in changes])
    for override in changes:
        section, _, key = override.key_or_group.partition(".")
        if key:
            setattr(getattr(config, section), key, getattr(getattr(new, section), key))
        else:
            new.logger.group = new.logger.group or config.logger.group
            setattr(config, section, getattr(new, section))
    check_hardware(config.hardware, config.batch_size, config.optimizer.name)
    check_launch(config.hardware)
    return config


def has_checkpoint(folder: Path) -> bool:
    """Whether there is a checkpoint from which the run in ``folder`` goes on; else it begins anew."""
    return any((folder / "checkpoints" / f"{name}.ckpt").exists() for name in ("last", "previous"))


def _go_on(job: Job, folder: Path, config: TrainConfig) -> None:
    resuming = has_checkpoint(folder)
    if not resuming:
        from lmzoo.progress import say

        say(f"resume={folder}: it ended before its first checkpoint, and begins anew")
    with _told_how_to_go_on(folder):
        job(config, folder, resuming=resuming)


@contextmanager
def _told_how_to_go_on(folder: Path) -> Iterator[None]:
    """Take the signals that end a run; afterwards say what to type, and have SLURM start its job again."""
    try:
        with signals.watched(folder):
            yield
    except (KeyboardInterrupt, SystemExit, signals.Stopped) as stop:
        hint = f"; {signals.how_to_go_on(folder)}" if has_checkpoint(folder) else ""
        if isinstance(stop, signals.Stopped):
            _say(f"{stop}{hint}{signals.requeue(stop)}")
            sys.exit(stop.status)
        # Lightning turns the one into the other
        if isinstance(stop, SystemExit) and not isinstance(stop.__context__, KeyboardInterrupt):
            raise
        raise KeyboardInterrupt(f"interrupted{hint}") from None


# ---------------------------------------------------------------------------------- a run, a sweep


def _run_or_sweep(job: Job, after: After | None, flags: list[str], arguments: Any) -> None:
    from lmzoo.adoption import with_adopted
    from lmzoo.config import composed
    from lmzoo.sweeps.cells import refuse_cells
    from lmzoo.sweeps.command import Asked
    from lmzoo.sweeps.jobs import Jobs
    from lmzoo.sweeps.launch import launch as compose_and_run

    goes_on = any(said.startswith("sweep.resume=") for said in arguments.overrides)
    if arguments.multirun or goes_on:
        from lmzoo.sweeps import entry

        multirun = [] if arguments.multirun else ["-m"]
        entry.run(job, _told_how_to_go_on, after, [*flags, *multirun], arguments.overrides)
        return
    asked = Asked.of(flags, arguments.overrides)
    if asked.own:
        raise LmzooError(f"sweep.{next(iter(asked.own))}= is said of a sweep: add -m")
    refuse_cells(asked.overrides, asked.config_dir)
    one = Jobs(job, _told_how_to_go_on)
    compose_and_run(one.start, flags + with_adopted(arguments.overrides, composed))
    if one.error is not None:
        raise one.error
