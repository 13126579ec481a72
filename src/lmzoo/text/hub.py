"""Texts of Hugging Face data sets, streamed: none of a data set's code is run, nothing is unpickled."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lmzoo.errors import LmzooError
from lmzoo.text.readers import Document, refuse_half_characters

_KINDS = ("arrow", "csv", "json", "parquet", "text")
"""What holds tables of text; the other kinds are media, or containers that could hold anything."""
_LEAST_VERSION = 4
"""The first `datasets` that cannot run a data set's own script."""
VALIDATION = ("validation", "valid", "dev")
"""What data sets call the split that is held out, the first choice first."""


class HubText:
    """A data set by its name on the hub, or in a folder of the same layout.

    Args:
        name: on the hub, or a folder.
        subset: its configuration, where it has several.
        revision: commit, branch or tag; None for the newest, which is then kept to while this lives.
        column: the one that holds the text.

    Raises:
        LmzooError: `datasets` is not installed or too old; the data set cannot be found or reached, is of
            another kind than text, or names files outside itself.
    """

    def __init__(self, name: str, subset: str | None, revision: str | None, column: str) -> None:
        self.name = name
        self.column = column
        if Path(name).is_dir() and revision is not None:
            raise LmzooError(f"data.revision={revision} goes with a name on the hub, and {name} is a folder")
        datasets = _import_datasets()
        try:
            self._builder = datasets.load_dataset_builder(name, subset, revision=revision)
            self._refuse_others()
            self._splits: dict[str, Any] = dict(self._builder.as_streaming_dataset())
        except LmzooError:
            raise
        except Exception as error:  # the library raises whatever its readers raise
            raise LmzooError(
                f"data.name={name} cannot be opened ({_reason(error)}): is it a data set's name, or a folder "
                "of one, and is the network there?"
            ) from None

    @property
    def splits(self) -> list[str]:
        """The names of its splits."""
        return list(self._splits)

    def files(self, splits: Sequence[str]) -> list[list[Any]]:
        """What decides the content of these splits: of every file its path, size and time on this machine,
        or its address with the commit on the hub."""
        found = []
        for split in splits:
            for address in self._builder.config.data_files[split]:
                if "://" in address:
                    found.append([address])
                else:
                    stat = os.stat(address)
                    found.append([os.path.abspath(address), stat.st_size, stat.st_mtime_ns])
        return found

    def num_rows(self, splits: Sequence[str]) -> int | None:
        """Rows of these splits, where the data set says so."""
        known = self._builder.info.splits or {}
        if not all(split in known and known[split].num_examples for split in splits):
            return None
        return sum(known[split].num_examples for split in splits)

    def check(self, splits: Sequence[str], what: str) -> None:
        """Raises LmzooError where a split or its column does not exist; ``what`` is the key that names it."""
        for split in splits:
            if split not in self._splits:
                raise LmzooError(
                    f"{what}={split} is no split of {self.name}; choose one of: {', '.join(self.splits)}"
                )
            columns = self._columns(split)
            if columns is not None and self.column not in columns:
                raise LmzooError(
                    f"{self._called(split)} has no column {self.column!r}; its columns are "
                    f"{', '.join(columns)}: name one with data.column="
                )

    def documents(self, split: str) -> Iterator[Document]:
        """The texts of a split, one document a row, white space alone left out.

        Raises:
            LmzooError: a row holds no text, or the data set cannot be read on.
        """
        called = self._called(split)
        empty = True
        for number, row in enumerate(self._rows(split), 1):
            text = row.get(self.column)
            if not isinstance(text, str):
                found = "nothing" if text is None else f"a value of type {type(text).__name__}"
                raise LmzooError(
                    f"{called}: row {number} has {found} instead of text in its column {self.column!r}"
                )
            refuse_half_characters(text, f"{called}: row {number}")
            if text.strip():
                empty = False
                yield Document(text, f"{called}:{number}")
        if empty:
            raise LmzooError(f"{called} holds no text; name another split")

    def _rows(self, split: str) -> Iterator[dict[str, Any]]:
        try:
            # the other columns may hold pictures, which would be decoded
            yield from self._splits[split].select_columns([self.column])
        except Exception as error:  # as above
            raise LmzooError(f"{self._called(split)} cannot be read ({_reason(error)})") from None

    def _columns(self, split: str) -> list[str] | None:
        try:
            return self._splits[split].column_names
        except Exception as error:  # as above
            raise LmzooError(f"{self._called(split)} cannot be read ({_reason(error)})") from None

    def _called(self, split: str) -> str:
        return f"{self.name} ({split})"

    def _refuse_others(self) -> None:
        """Refuse what is no table of text, and files outside the data set, which its settings could name."""
        kind = type(self._builder).__module__.split(".")[-1]
        if kind not in _KINDS:
            raise LmzooError(
                f"data.name={self.name} is a data set of kind {kind}; one of text has files of the kind "
                f"{', '.join(_KINDS)}"
            )
        base = str(self._builder.base_path or "")
        is_folder = "://" not in base
        repositories = {self.name, getattr(self._builder, "repo_id", None)}
        insides = (
            [os.path.abspath(base).rstrip("/") + "/"]
            if is_folder
            else [f"hf://datasets/{repository}@" for repository in repositories]
        )
        for addresses in (self._builder.config.data_files or {}).values():
            for address in addresses:
                placed = os.path.abspath(address) if is_folder and "://" not in address else address
                if not placed.startswith(tuple(insides)) or ".." in placed.split("/"):
                    raise LmzooError(
                        f"data.name={self.name} names a file outside itself: {address}; use another data set"
                    )


def _import_datasets() -> Any:
    try:
        import datasets
    except ImportError:
        raise LmzooError("data=hub needs the extra hub: pip install 'lmzoo[hub]'") from None
    if int(datasets.__version__.split(".")[0]) < _LEAST_VERSION:
        raise LmzooError(
            f"data=hub needs datasets {_LEAST_VERSION} or newer, and {datasets.__version__} is installed; "
            "run pip install -U 'lmzoo[hub]'"
        )
    # what goes wrong is told once, by the exception
    logging.getLogger("datasets").setLevel(logging.CRITICAL)
    return datasets


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
