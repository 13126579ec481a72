"""Which jobs of a sweep can be, before the first one starts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from lmzoo.config import composed, from_hydra, resolve
from lmzoo.errors import LmzooError, MismatchError
from lmzoo.inference.sources import slow_progress
from lmzoo.settings import TrainConfig
from lmzoo.sweeps.record import Job, Skipped


def kind_of(config: TrainConfig) -> str:
    """What runs that take about as long have in common."""
    return f"{config.model.name} {config.size}"


def check(jobs: Sequence[Job], search_path: Sequence[str] = ()) -> tuple[list[Job], list[Skipped]]:
    """The jobs that can be, numbered from 0, and the combinations that cannot.

    Args:
        jobs: as they were asked for.
        search_path: what Hydra must be told to find the user's own choices.

    Raises:
        LmzooError: a value that is wrong in any combination; or no combination is possible.
    """
    possible: list[Job] = []
    skipped: list[Skipped] = []
    first: MismatchError | None = None
    common = set.intersection(*(set(job.overrides) for job in jobs)) if jobs else set()
    with _outside_hydra(), slow_progress("checking the jobs", len(jobs)) as advance:
        for job in jobs:
            try:
                job.kind = kind_of(resolve(from_hydra(composed([*search_path, *job.overrides]))))
            except MismatchError as error:
                first = first or error
                skipped.append(Skipped(job.overrides, str(error)))
            except LmzooError as error:
                raise LmzooError(
                    f"{error} ({' '.join(job.overrides)})" if len(jobs) > 1 else str(error)
                ) from error
            else:
                job.number = len(possible)
                job.own = [entry for entry in job.overrides if entry not in common]
                possible.append(job)
            advance(1)
    if first is not None and not possible:
        raise first
    return possible, skipped


@contextmanager
def _outside_hydra() -> Iterator[None]:
    """Compose although Hydra is running: it knows of one composition at a time."""
    from hydra.core.global_hydra import GlobalHydra

    current = GlobalHydra.instance()
    outer, current.hydra = current.hydra, None
    try:
        yield
    finally:
        current.hydra = outer
