"""A sweep's command line: what kind of a sweep is it, and does it begin or go on?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lmzoo.adoption import with_adopted
from lmzoo.config import composed
from lmzoo.errors import LmzooError
from lmzoo.progress import say
from lmzoo.sweeps import command, experiment
from lmzoo.sweeps.cells import asked_for
from lmzoo.sweeps.jobs import After, Guard, Jobs, Work


def run(
    work: Work, guard: Guard, after: After | None, flags: Sequence[str], arguments: Sequence[str]
) -> None:
    """Begin a sweep or an experiment of several cells, or go on with one.

    Args:
        work: trains.
        guard: around it.
        after: fine-tunes.
        flags: Hydra's, -m among them.
        arguments: the overrides.

    Raises:
        LmzooError: nothing can run, or a job failed.
    """
    asked = command.Asked.of(flags, arguments)

    def make() -> Jobs:
        return Jobs(work, guard, after)

    if "resume" in asked.own:
        if not asked.own["resume"]:
            raise LmzooError("sweep.resume= is empty; give the folder of a sweep")
        folder = Path(asked.own["resume"]).expanduser().absolute()
        if (folder / experiment.FILE).is_file():
            experiment.go_on(folder, asked, make)
            return
        outcome = command.go_on(folder, asked, make())
        if outcome is None:
            say(f"sweep.resume={folder}: nothing is missing and nothing unfinished")
            return
    else:
        of_cells = asked_for(asked.overrides, asked.config_dir)
        if of_cells is not None:
            experiment.begin(of_cells, asked, make)
            return
        if "rates" in asked.own:
            raise LmzooError(
                "sweep.rates= goes with an experiment that searches rates, such as which_objective"
            )
        asked.overrides = with_adopted(asked.overrides, composed)
        outcome = command.sweep(asked, make())
    command.conclude(outcome)
