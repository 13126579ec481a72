"""`data=task`: a language model's text out of a labelled task, the first step of ULMFiT.

The training part is what the task is learned from, the validation part what it is stopped by; nothing that
is scored is in either, not even where a file holds the same text twice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmzoo.data.config import DataConfig
from lmzoo.errors import LmzooError
from lmzoo.tasks.examples import Example, Labelled, Tagged, TaskData

if TYPE_CHECKING:  # every config imports this file
    from lmzoo.text.readers import Document


def texts_of(item: Example, joint: str) -> list[str]:
    """The texts of an item: of a question its context and itself, of a pair both.

    Args:
        item: of any shape.
        joint: what stands between words whose sentence is not known as it was written.
    """
    if isinstance(item, Labelled):
        return list(item.texts)
    if isinstance(item, Tagged):
        return [item.text if item.text is not None else joint.join(item.words)]
    return [item.context, item.question]


def task_documents(data: TaskData) -> tuple[dict[str, list[str]], int]:
    """The documents of a language model by part, ``train`` and ``valid``, and how many texts were left out.

    A text that is scored too is left out, and so is one that came before: several questions have one
    context, several pairs one premise. A text of the part for stopping that training has too is training's.
    """
    joint = "" if data.config.language == "zh" else " "
    scored = {text.strip() for item in data.scored for text in texts_of(item, joint)}
    seen: set[str] = set()
    left_out: set[str] = set()
    parts: dict[str, list[str]] = {}
    for name, items in (("train", data.train), ("valid", data.stop)):
        parts[name] = []
        for text in (text.strip() for item in items for text in texts_of(item, joint)):
            if text in scored:
                left_out.add(text)
            elif text and text not in seen:
                seen.add(text)
                parts[name].append(text)
    return {name: texts for name, texts in parts.items() if texts}, len(left_out)


class TaskSource:
    """The documents of `data=task`; see ``lmzoo.data.sources.Source``."""

    def __init__(self, data: DataConfig) -> None:
        """
        Raises:
            LmzooError: there is no such task, its files are missing or damaged, or no text is left.
        """
        from lmzoo.progress import console
        from lmzoo.tasks.read import load_task

        assert data.task is not None
        root = None if data.root is None else Path(data.root).expanduser()
        task = load_task(data.task, root, train=data.train, valid=data.valid, test=data.test)
        self._name = task.config.name
        self._documents, left_out = task_documents(task)
        if "train" not in self._documents:
            raise LmzooError(f"task={self._name} has no training text beside what is scored")
        if left_out:
            console.print(
                f"note: texts of task={self._name} that are scored too and were left out: {left_out:,}",
                markup=False,
                highlight=False,
            )
        self.total = None
        self.parts = list(self._documents)

    def describe(self) -> dict[str, Any]:
        found = hashlib.blake2b(digest_size=16)
        for part, texts in self._documents.items():
            for text in (part, *texts):
                raw = text.encode("utf-8", "surrogatepass")
                found.update(len(raw).to_bytes(8, "little") + raw)
        return {"task": self._name, "texts": found.hexdigest()}

    def read(self, advance: Callable[[int], object]) -> Iterator[tuple[str, Document]]:
        from lmzoo.text.readers import Document

        for part, texts in self._documents.items():
            for number, text in enumerate(texts, 1):
                yield part, Document(text, f"task {self._name}, {part} text {number}")
