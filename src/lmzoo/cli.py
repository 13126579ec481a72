"""From a command line to a job: compose, check, claim a folder, run; or one line that says why not.

Every command goes through ``run``. What the user can cause ends as one line on standard error and exit
status 1; anything else keeps its traceback, so that a bug is seen.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from lmzoo.distributed import rank_job
from lmzoo.errors import LmzooError

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override
    from omegaconf import DictConfig

    from lmzoo.settings import TrainConfig

Job = Callable[..., object]
"""``job(config, folder, resuming=False)``: what is done with a resolved config in a run folder."""

SECONDS_FOR_RANK_0 = 10.0
"""How long a failed rank waits to be ended by rank 0, which tells of what befell all ranks alike."""


def run(job: Job, argv: list[str] | None = None) -> None:
    """Run ``job`` as the command line says: once, once per job of a sweep (``-m``), or to go on.

    Args:
        job: called as ``job(config, folder, resuming=…)``.
        argv: the arguments; the process's own by default.

    Raises:
        SystemExit: status 1 after a refusal or a failure, 130 after an interruption.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if wants_help(argv, "train"):
        return
    with one_line():
        handed = rank_job()
        if handed is not None:
            _run_rank(job, handed)
            return
        arguments, overrides = _parse(argv)
        folder = _resume_folder(overrides, arguments.multirun)
        if folder is None:
            from lmzoo.adoption import with_adopted
            from lmzoo.config import composed

            flags = argv[: len(argv) - len(arguments.overrides)]
            _compose_and_run(job, flags + with_adopted(arguments.overrides, composed))
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

    try:
        job(from_dict(handed["config"]), Path(handed["folder"]), resuming=handed["resuming"])
    except LmzooError as error:
        time.sleep(SECONDS_FOR_RANK_0)
        raise LmzooError(f"rank {os.environ.get('LOCAL_RANK', '?')}: {error}") from error


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
    if not (folder / "checkpoints" / "last.ckpt").is_file():
        raise LmzooError(
            f"resume={folder}: there is no checkpoints/last.ckpt yet; start the run again instead"
        )
    changes = [override for override in overrides if override.key_or_group != "resume"]
    for override in changes:
        section = override.key_or_group.partition(".")[0]
        if section not in ("hardware", "logger") or override.type != OverrideType.CHANGE:
            raise LmzooError(
                f"{override.input_line} cannot be given with resume=: the config comes from the run, "
                "and only hardware and logger may differ"
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
    check_hardware(config.hardware, config.batch_size)
    return config


def _go_on(job: Job, folder: Path, config: TrainConfig) -> None:
    with _told_how_to_go_on(folder):
        job(config, folder, resuming=True)


@contextmanager
def _told_how_to_go_on(folder: Path) -> Iterator[None]:
    """After Ctrl-C, which Lightning turns into SystemExit, and after SIGTERM, say what to type."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as stop:
        from lightning.pytorch.utilities.exceptions import SIGTERMException

        hint = f"; go on with resume={folder}" if (folder / "checkpoints" / "last.ckpt").exists() else ""
        if isinstance(stop, SIGTERMException):
            _say(f"ended by SIGTERM{hint}")
            sys.exit(128 + signal.SIGTERM)
        if isinstance(stop, SystemExit) and not isinstance(stop.__context__, KeyboardInterrupt):
            raise
        raise KeyboardInterrupt(f"interrupted{hint}") from None


# ---------------------------------------------------------------------------------- a run, a sweep


def _compose_and_run(job: Job, argv: list[str]) -> None:
    import hydra

    from lmzoo.config import config_folder, register_schemas
    from lmzoo.folders import end_sweep
    from lmzoo.refusals import composition_errors, explain

    register_schemas()
    jobs = _Jobs(job)
    command = hydra.main(version_base="1.3", config_path=str(config_folder()), config_name="train")(
        jobs.start
    )
    try:
        # With the variable set, Hydra hands its errors on, to be told in one line, instead of printing.
        with (
            patch.object(sys, "argv", [sys.argv[0], *argv]),
            patch.dict(os.environ, {"HYDRA_FULL_ERROR": "1"}),
        ):
            command()
    except composition_errors() as error:  # some of them are an OSError too
        raise LmzooError(explain(error)) from error
    except OSError as error:  # a job's own are kept by it: this is Hydra making the folder
        raise LmzooError(
            f"the run folder cannot be made ({error.strerror}: {error.filename}); give another hydra.run.dir="
        ) from error
    finally:
        end_sweep()
    jobs.conclude()


class _Jobs:
    """What Hydra calls for every job of a command, and what became of them."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.process = os.getpid()
        self.count = 0
        self.failed: list[str] = []
        self.error: Exception | None = None

    def start(self, cfg: DictConfig) -> None:
        """One job. An error is kept, not raised: Hydra would add lines of its own to it."""
        from hydra.core.hydra_config import HydraConfig
        from hydra.types import RunMode

        settings = HydraConfig.get()
        folder = Path(settings.runtime.output_dir)
        in_sweep = settings.mode == RunMode.MULTIRUN
        group = " ".join(Path(settings.sweep.dir).parts[-3:]) if in_sweep else None
        name = f"job {settings.job.num} ({' '.join(settings.overrides.task)})" if in_sweep else ""
        self.count += 1
        try:
            self._run_in(folder, cfg, group)
        except Exception as error:
            if os.getpid() != self.process:  # a launcher's worker: only an exception finds its way back
                raise
            if in_sweep:
                self._tell(name, error)
            self.failed.append(name)
            self.error = error

    def _run_in(self, folder: Path, cfg: DictConfig, group: str | None) -> None:
        from lmzoo.config import from_hydra, resolve
        from lmzoo.folders import claim, give_up, remove_empty

        try:
            config = resolve(from_hydra(cfg))
            config.logger.group = config.logger.group or group
            claim(folder, config)
        except BaseException:
            remove_empty(folder)
            raise
        try:
            with _told_how_to_go_on(folder):
                self.job(config, folder, resuming=False)
        except BaseException:
            give_up(folder)
            raise

    def _tell(self, name: str, error: Exception) -> None:
        if not isinstance(error, LmzooError):
            traceback.print_exception(error)
        _say(f"{name}: {error}")

    def conclude(self) -> None:
        """Raise what a single run ended with, or name the failed jobs of a sweep."""
        if self.error is None:
            return
        if not self.failed[0]:
            raise self.error
        raise LmzooError(f"{len(self.failed)} of {self.count} jobs failed: {'; '.join(self.failed)}")
