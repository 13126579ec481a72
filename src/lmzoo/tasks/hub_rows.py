"""A task's items out of a data set on the Hugging Face hub, or in a folder of its layout."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lmzoo.errors import LmzooError, one_of
from lmzoo.tasks.config import TaskConfig
from lmzoo.tasks.formats import Values, refuse_unknown_columns, wanted_columns
from lmzoo.text.hub import HubText


class HubRows(HubText):
    """The columns of a data set that a task names; labels that are kept as numbers come as their names.

    Raises:
        LmzooError: `datasets` is not installed or too old; the data set cannot be found or reached, or is of
            another kind than text.
    """

    def __init__(self, config: TaskConfig) -> None:
        assert config.hub
        self.config = config
        try:
            super().__init__(config.hub, config.subset, config.revision, config.texts[0])
        except LmzooError as error:
            raise LmzooError(f"task={config.name}: {_own_words(str(error))}") from error

    def values(self, split: str) -> Iterator[tuple[str, Values]]:
        """Every row of a split, with where it stands.

        Raises:
            LmzooError: no such split or column; the data set cannot be read on.
        """
        one_of(f"task={self.config.name}: split", split, self.splits)
        wanted = wanted_columns(self.config)
        known = self._columns(split)
        if known is not None:
            refuse_unknown_columns(wanted, known, self._called(split))
        names = self._label_names(split)
        try:
            rows = self._splits[split].select_columns(wanted)
            for number, row in enumerate(rows, 1):
                yield (
                    f"{self._called(split)}:{number}",
                    {name: _named(row[name], names.get(name)) for name in wanted},
                )
        except LmzooError:
            raise
        except Exception as error:  # the library raises whatever its readers raise
            reason = " ".join(str(error).split())
            raise LmzooError(f"{self._called(split)} cannot be read ({reason})") from None

    def _label_names(self, split: str) -> dict[str, list[str]]:
        """By column: the names of its labels, where it holds their numbers, one or a list of them."""
        found: dict[str, list[str]] = {}
        for name, feature in (self._splits[split].features or {}).items():
            kind = getattr(feature, "feature", feature)
            if hasattr(kind, "int2str"):
                found[name] = list(kind.names)
        return found


def _named(value: Any, names: list[str] | None) -> Any:
    if names is None:
        return value
    if isinstance(value, list):
        return [_named(one, names) for one in value]
    # a number outside the names stands for "no gold label", as SNLI's -1
    return names[value] if isinstance(value, int) and 0 <= value < len(names) else str(value)


def _own_words(message: str) -> str:
    """The keys that a task has, in place of a pretraining corpus's."""
    for theirs, ours in (("data=hub", "format: hub"), ("data.name", "hub"), ("data.revision", "revision")):
        message = message.replace(theirs, ours)
    return message
