"""Where documents come from: the running Python, files, a Hugging Face data set, or another room."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, Protocol

from lmzoo.data.config import OPENERS, DataConfig, check_sources
from lmzoo.data.store import PARTS
from lmzoo.errors import LmzooError
from lmzoo.text.hub import VALIDATION, HubText
from lmzoo.text.readers import Document, read_documents, resolve_paths
from lmzoo.text.stdlib import stdlib_documents, stdlib_fingerprint

_ROWS_TOLD = 100


class Source(Protocol):
    """Documents, each with the part that it was given for."""

    @property
    def total(self) -> int | None:
        """What ``advance`` sums to in one reading; None where nobody knows."""
        ...

    @property
    def parts(self) -> list[str]:
        """``train``, and ``valid`` and ``test`` where they are given apart."""
        ...

    def describe(self) -> dict[str, Any]:
        """All that decides which documents there are."""
        ...

    def read(self, advance: Callable[[int], object]) -> Iterator[tuple[str, Document]]:
        """Every document with its part; can be done again, with the same outcome."""
        ...


class PythonSource:
    """`data=stdlib`."""

    def __init__(self) -> None:
        self.total = None
        self.parts = ["train"]
        self._documents: list[Document] | None = None

    def describe(self) -> dict[str, Any]:
        return {"python": stdlib_fingerprint()}

    def read(self, advance: Callable[[int], object]) -> Iterator[tuple[str, Document]]:
        if self._documents is None:  # slow to find, and small enough to keep for the second reading
            self._documents = list(stdlib_documents())
        for document in self._documents:
            yield "train", document


class FileSource:
    """`data=text`.

    Args:
        files: of each part, in order.
        column: the field or column that holds the text, where a file has several.
        max_bytes: that a packed file may unpack to.
    """

    def __init__(self, files: dict[str, list[Path]], column: str, max_bytes: float | None = None) -> None:
        self._column, self._max_bytes = column, max_bytes
        self._files = files
        self.sizes = [path.stat().st_size for _, path in self._in_order()]
        """Bytes of every file, in the order in which they are read."""
        self.total = sum(self.sizes)

    def cut(self, ends: list[int]) -> list[FileSource]:
        """The same files in runs, as sources of their own: up to the ``ends[0]``-th, and so on."""
        files = self._in_order()
        cut = []
        for first, end in pairwise([0, *ends]):
            held: dict[str, list[Path]] = {}
            for part, path in files[first:end]:
                held.setdefault(part, []).append(path)
            cut.append(FileSource(held, self._column, self._max_bytes))
        return cut

    def _in_order(self) -> list[tuple[str, Path]]:
        return [(part, path) for part, paths in self._files.items() for path in paths]

    @property
    def parts(self) -> list[str]:
        return list(self._files)

    def describe(self) -> dict[str, Any]:
        described: dict[str, Any] = {
            part: [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
            for part, paths in self._files.items()
        }
        # the usual column is not written down: stores were named without it before there was a choice
        return described | ({} if self._column == DataConfig.column else {"column": self._column})

    def read(self, advance: Callable[[int], object]) -> Iterator[tuple[str, Document]]:
        # most documents end within a block of the file that is read already: no news for the bar
        moved: Callable[[int], object] = lambda amount: advance(amount) if amount else None  # noqa: E731
        for part, paths in self._files.items():
            for document in read_documents(paths, moved, column=self._column, max_bytes=self._max_bytes):
                yield part, document


class HubSource:
    """`data=hub`: the split ``train`` unless another is named, and the data set's own validation split if
    it has one and none is named. A test split is read only where it is asked for."""

    def __init__(self, data: DataConfig, given: dict[str, Any]) -> None:
        assert data.name is not None
        self._text = HubText(data.name, data.subset, data.revision, data.column)
        self._described = {"subset": data.subset, "revision": data.revision, "column": data.column}
        usual = {"train": "train"}
        own = [split for split in VALIDATION if split in self._text.splits]
        named = given.values()
        if own and own[0] not in chain.from_iterable(map(_names, named)):
            usual["valid"] = own[0]
        self._splits = {
            part: _names(split) for part in PARTS if (split := (usual | given).get(part)) is not None
        }
        for part, splits in self._splits.items():
            self._text.check(splits, f"data.{part}")
        self.total = self._text.num_rows(list(chain.from_iterable(self._splits.values())))

    @property
    def parts(self) -> list[str]:
        return list(self._splits)

    def describe(self) -> dict[str, Any]:
        files = {part: self._text.files(splits) for part, splits in self._splits.items()}
        return {"dataset": self._text.name, **self._described, "splits": self._splits, "files": files}

    def read(self, advance: Callable[[int], object]) -> Iterator[tuple[str, Document]]:
        for part, splits in self._splits.items():
            for split in splits:
                waiting = 0
                for document in self._text.documents(split):
                    yield part, document
                    waiting += 1
                    if waiting == _ROWS_TOLD:
                        advance(waiting)
                        waiting = 0
                advance(waiting)


def open_source(data: DataConfig) -> Source:
    """The source of a config.

    Raises:
        LmzooError: settings that do not go together, or text that is not there.
    """
    check_sources(data)
    given = {part: getattr(data, part) for part in PARTS if getattr(data, part) is not None}
    match data.source:
        case "stdlib":
            return PythonSource()
        case "text":
            files = {part: resolve_paths(value, f"data.{part}") for part, value in given.items()}
            return FileSource(files, data.column, data.max_bytes)
        case "hub":
            return HubSource(data, given)
        case source if source in OPENERS:
            return OPENERS[source](data)
        case source:
            raise LmzooError(f"data={source} is opened by a room above this one: import lmzoo.config first")


def _names(given: Any) -> list[str]:
    names = [given] if isinstance(given, str) else list(given) if isinstance(given, list | tuple) else []
    if not names or not all(isinstance(name, str) and name for name in names):
        raise LmzooError(f"data=hub takes the name of a split, or a list of names, not {given!r}")
    return names
