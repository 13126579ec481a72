"""What a yardstick is given and what it gives, and the files that keep it."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lmzoo.inference.model import LanguageModel
    from lmzoo.snapshots import Snapshot

FOLDER = "evaluations"
"""In the run folder."""


@dataclass(frozen=True)
class Asked:
    """What a measurement is to be taken on; a yardstick refuses where it needs what is not given."""

    text: Path | None = None
    """A text file in the layout of `data.train`; without it the run's own validation text."""
    pairs: Path | None = None
    """Minimal pairs in BLiMP's format."""
    root: Path | None = None
    """A folder with `wsd/`, `zeroshot/`, … as the yardsticks' files are laid out."""
    validation: Callable[[], list[list[str]]] | None = None
    """The sentences of every document of the run's validation text, where it has one."""
    counted: Callable[[], Any] | None = None
    """What gives the n-gram model of the run's training text, where it has one: a ``counted.Counted``."""
    sentences: str = "split"
    """How ``text`` is cut into sentences; as `data.sentences` of the run."""
    seq_len: int = 128
    """Tokens of a row in training."""
    limit: int | None = None
    """Items of each group at most, the first ones; for a trial."""
    batch_tokens: int = 8192
    seed: int = 0
    """Of items that are made; never the run's own, so that every run is measured on the same."""


@dataclass
class Measured:
    """One yardstick of one model."""

    figure: float | None
    """The one number; None where it has no meaning for this model, with the reason."""
    unit: str
    """e.g. `bits a byte`, `% correct`."""
    higher_is_better: bool
    kind: str
    """What may be compared: figures of one yardstick and one kind, e.g. `log-likelihood`."""
    parts: dict[str, Any] = field(default_factory=dict)
    """Figures of groups, layers, directions, and controls."""
    settings: dict[str, Any] = field(default_factory=dict)
    """What was chosen: temperature, how a sentence is framed, thresholds, the file's name."""
    items: list[dict[str, Any]] = field(default_factory=list)
    """An outcome an item, each with a unique `id`; what paired statistics need."""
    items_hash: str = ""
    """Of the items' inputs: see ``hash_of``."""
    reason: str | None = None
    """Why there is no figure."""


Yardstick = Callable[["LanguageModel", Asked], Measured]


def hash_of(inputs: Iterable[str]) -> str:
    """SHA-256 over the items' inputs in order; figures on different items are not comparable."""
    found = hashlib.sha256()
    for text in inputs:
        raw = text.encode("utf-8", "surrogatepass")
        found.update(len(raw).to_bytes(8, "little"))
        found.update(raw)
    return found.hexdigest()


def place_of(folder: Path, snapshot: Snapshot | None = None, reading: str | None = None) -> Path:
    """The folder within ``folder`` in which ``save`` puts its files."""
    return folder / FOLDER / (snapshot.name if snapshot else "") / (f"reading-{reading}" if reading else "")


def save(
    folder: Path,
    name: str,
    measured: Measured,
    header: dict[str, Any],
    snapshot: Snapshot | None = None,
    reading: str | None = None,
) -> Path:
    """Write ``evaluations/NAME.json``, and ``NAME.items.jsonl.gz`` beside it, in a run or model folder.

    Args:
        folder: the run folder.
        name: of the yardstick.
        measured: its outcome.
        header: what it was taken of: model, objective, version, seconds.
        snapshot: of which checkpoint within the run; it goes to ``evaluations/step-N/``, with ``step`` and
            ``ledger``.
        reading: the one that was asked for; it goes to ``evaluations/reading-past/`` or ``…-full/``.

    Returns:
        the path of the JSON.

    Raises:
        LmzooError: a file cannot be written.
    """
    from lmzoo.inference.sinks import whole

    target = place_of(folder, snapshot, reading) / f"{name}.json"
    if snapshot is not None:
        header = header | {"step": snapshot.step, "ledger": snapshot.ledger()}
    target.parent.mkdir(parents=True, exist_ok=True)
    record = {entry.name: getattr(measured, entry.name) for entry in fields(measured)}
    record["items"] = len(measured.items)
    items = target.with_name(f"{name}.items.jsonl.gz")
    # the outcomes first: a figure never stands without them
    with whole(items) as beside, gzip.GzipFile(beside, "wb", mtime=0) as file:
        for item in measured.items:
            file.write((json.dumps(item, ensure_ascii=False) + "\n").encode("utf-8", "surrogatepass"))
    with whole(target) as beside:
        text = json.dumps({"yardstick": name, **record, **header}, ensure_ascii=False, indent=2)
        beside.write_text(text + "\n", encoding="utf-8")
    return target
