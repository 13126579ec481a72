"""From overrides to Hydra: its composition, its launchers and its sweepers, with refusals told in one line."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any
from unittest.mock import patch

from lmzoo.errors import LmzooError

_BASIC = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"
Chosen = Callable[[list[list[str]]], list[list[str]]]
"""Given the overrides of every combination, those of the jobs to launch."""


def launch(task: Callable[[Any], Any], argv: Sequence[str], choose: Chosen | None = None) -> None:
    """Have Hydra compose and call ``task``: once, or once a job of a sweep.

    Args:
        task: given the composed config.
        argv: Hydra's flags and the overrides.
        choose: which jobs Hydra's basic sweeper launches, and in which order.

    Raises:
        LmzooError: what was said cannot be composed, or there is no room for the run's folder.
    """
    import hydra
    from hydra.core.plugins import Plugins

    from lmzoo.config import config_folder, register_schemas
    from lmzoo.refusals import composition_errors, explain

    register_schemas()
    # Hydra's own plugins are executed anew when it looks for plugins: only then are the classes those it uses
    basic: Any = Plugins.instance().class_name_to_class[_BASIC]
    every, legal = basic.split_arguments, basic.validate_batch_is_legal

    def split(overrides: Any, max_batch_size: int | None) -> list[list[list[str]]]:
        jobs = [list(job) for batch in every(overrides, None) for job in batch]
        jobs = jobs if choose is None else choose(jobs)
        size = max_batch_size or len(jobs)
        return [jobs[first : first + size] for first in range(0, len(jobs), size)]

    command = hydra.main(version_base="1.3", config_path=str(config_folder()), config_name="train")(task)
    try:
        # With the variable set, Hydra hands its errors on, to be told in one line, instead of printing.
        with (
            patch.object(sys, "argv", [sys.argv[0], *argv]),
            patch.dict(os.environ, {"HYDRA_FULL_ERROR": "1"}),
            patch.object(basic, "split_arguments", staticmethod(split)),
            # what was chosen has been composed and checked
            patch.object(basic, "validate_batch_is_legal", legal if choose is None else lambda *_: None),
        ):
            command()
    except composition_errors() as error:  # some of them are an OSError too
        raise LmzooError(explain(error)) from error
    except OSError as error:  # a job's own are kept by it: this is Hydra making the folder
        raise LmzooError(
            f"the run folder cannot be made ({error.strerror}: {error.filename}); give another hydra.run.dir="
        ) from error
