"""Where the parts of a task lie: files under a root, files of the user's own, or splits on the hub."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from lmzoo.errors import LmzooError
from lmzoo.inference.sources import slow_progress
from lmzoo.places import DATA
from lmzoo.tasks.config import TaskConfig
from lmzoo.tasks.formats import JOIN, Values, read_values

if TYPE_CHECKING:
    from lmzoo.tasks.hub_rows import HubRows


class Sources:
    """The files of a task.

    Args:
        config: names them in `train`, `valid` and `test`.
        root: the folder that these are relative to, if there is one.
        given: those of the three that the user named; they may lie in the working folder too.

    Raises:
        LmzooError: ``root`` is no folder.
    """

    def __init__(self, config: TaskConfig, root: Path | None, given: set[str]) -> None:
        self.config = config
        self.root = root.expanduser() if root is not None else None
        self.given = given
        if config.format != "hub" and self.root is not None and not self.root.is_dir():
            raise LmzooError(f"task.root={root} is not a folder; give the one that holds {config.train}")

    def read(self, part: str) -> Iterator[tuple[str, Values]]:
        """Every item of a part (`train`, `valid` or `test`), with where it stands.

        Raises:
            LmzooError: a missing file or one without items; what ``formats.read_values`` refuses.
        """
        if self.config.format == "hub":
            for split in getattr(self.config, part).split(JOIN):
                with slow_progress(f"reading {self.config.name}", None) as advance:
                    for entry in self._not_none(self._hub.values(split), f"{self.config.hub} ({split})"):
                        advance(1)
                        yield entry
            return
        for path in self.paths(part):
            with slow_progress(f"reading {path.name}", path.stat().st_size) as advance:
                yield from self._not_none(read_values(path, self.config, advance), str(path))

    def paths(self, part: str) -> list[Path]:
        """The files of a part.

        Raises:
            LmzooError: one is missing, naming where it was looked for.
        """
        names = getattr(self.config, part)
        whole = self._existing(names, part)
        if whole is not None:
            return [whole]
        found = [(name, self._existing(name, part)) for name in names.split(JOIN)]
        for name, path in found:
            if path is None:
                raise LmzooError(self._missing(name, part))
        return [path for _, path in found if path is not None]

    def _existing(self, name: str, part: str) -> Path | None:
        own = Path(name).expanduser()
        places = [own] if part in self.given or own.is_absolute() else []
        if self.root is not None:
            places.append(self.root / name)
        return next((place for place in places if place.is_file()), None)

    def _missing(self, name: str, part: str) -> str:
        if self.root is None and part not in self.given:
            return (
                f"task={self.config.name} reads {name}: give task.root= (or set {DATA}), the folder with "
                f"it, or a file of your own with task.{part}="
            )
        places = [str(Path.cwd())] if part in self.given else []
        places += [f"task.root={self.root}"] if self.root is not None else []
        what = "is a folder" if any((Path(place) / name).is_dir() for place in places) else "does not exist"
        return (
            f"task={self.config.name}: {name} {what} (looked in {' and '.join(places)}); give another "
            f"task.root=, or the file with task.{part}="
        )

    def _not_none(self, entries: Iterator[tuple[str, Values]], source: str) -> Iterator[tuple[str, Values]]:
        empty = True
        for entry in entries:
            empty = False
            yield entry
        if empty:
            raise LmzooError(f"{source} holds no items; give another file for task={self.config.name}")

    @cached_property
    def _hub(self) -> HubRows:
        from lmzoo.tasks.hub_rows import HubRows

        return HubRows(self.config)
