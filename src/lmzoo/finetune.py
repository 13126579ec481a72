"""`python -m lmzoo.finetune`: a labelled task put to a trained model, frozen or as a whole."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import ClassVar

from lmzoo import cli
from lmzoo.arguments import parse
from lmzoo.errors import LmzooError
from lmzoo.tasks.settings import Settings, check


@dataclass(kw_only=True)
class Asked:
    """Which model, which task, and where the result goes."""

    run: str
    """A run folder or a Hugging Face folder."""
    task: str
    """A name, e.g. pos_ewt, or FILE.yaml of your own."""
    task_root: str | None = field(default=None, metadata={"key": "task.root"})
    """The folder that the task's files lie in; without it the one that the environment variable LMZOO_DATA
    names."""
    task_train: str | None = field(default=None, metadata={"key": "task.train"})
    """A training file in place of the task's own."""
    task_valid: str | None = field(default=None, metadata={"key": "task.valid"})
    """A file to score in place of the task's own."""
    task_test: str | None = field(default=None, metadata={"key": "task.test"})
    """Likewise; scored rather than task.valid."""
    to: str | None = None
    """The folder to write; by default RUN/finetune/TASK-MODE, with what is not at its default after it."""


@dataclass(kw_only=True)
class Finetune(Settings, Asked):
    """Learn a labelled task from a trained model, and score it on the task's official part.

    Sentences, pairs, tags of words, answers to questions: see conf/task. The part of the training data that
    epochs, rates and layers are chosen on is never scored, and the scored part chooses nothing.
    Beside each score stand controls: majority class, tf-idf, the bag of static vectors, and the same
    architecture with random weights. result.json holds all, predictions.jsonl.gz each prediction."""

    examples: ClassVar[str] = """\
        lmzoo finetune run=outputs/DATE/TIME task=pos_ewt task.root=data
        lmzoo finetune run=outputs/DATE/TIME task=sst2 task.root=data mode=full seeds=[1] lrs=[1e-4,3e-4]
        lmzoo finetune run=my-gpt task=ner_wnut17 task.root=data mode=full context=full
        lmzoo train init_from=outputs/DATE/TIME task=agnews task.root=data budget.epochs=3
        lmzoo finetune run=outputs/DATE/NEWTIME task=agnews task.root=data mode=full recipe=ulmfit"""


def main(argv: list[str] | None = None) -> None:
    """Put the task to the model as the command line says.

    Raises:
        SystemExit: status 1 after a refusal, 130 after an interruption.
    """
    with cli.one_line():
        asked = parse(list(sys.argv[1:] if argv is None else argv), "finetune", Finetune)
        if asked is not None:
            print(finetuned(asked), flush=True)


def finetuned(asked: Finetune) -> str:
    """Train, write the result, and give the table.

    Raises:
        LmzooError: anything wrong with the arguments, the model, the task or its files.
    """
    check(asked)
    place = Path(asked.run).expanduser()
    if asked.to is None and not place.is_dir():
        raise LmzooError(f"run={asked.run} is no folder here, in which the result could lie; give to=FOLDER")
    from lmzoo.tasks.read import load_task

    data = load_task(
        asked.task,
        None if asked.task_root is None else Path(asked.task_root).expanduser(),
        train=asked.task_train,
        valid=asked.task_valid,
        test=asked.task_test,
        limit=asked.limit,
    )
    from lmzoo.tasks.result import check_folder, place_of, save, table

    files = {part: getattr(asked, f"task_{part}") for part in ("train", "valid", "test")}
    named = place_of(place, data.config.name, asked, files)
    folder = Path(asked.to).expanduser() if asked.to else named
    check_folder(folder)
    # torch, after the task has been read
    from lmzoo.hub.folder import load_exported
    from lmzoo.inference.engine import Engine
    from lmzoo.progress import console
    from lmzoo.tasks.run import Subject, finetune

    loaded = load_exported(asked.run)
    if loaded.note:
        console.print(f"note: {asked.run}: {loaded.note}", soft_wrap=True, markup=False, highlight=False)
    described = loaded.description
    engine = Engine(
        loaded.module,
        loaded.tokenizer,
        vectors=described.model.vectors,
        opening=described.opening,
        trained_length=described.seq_len,
        device=asked.device,
        precision=asked.precision,
    )
    settings = Settings(**{entry.name: getattr(asked, entry.name) for entry in fields(Settings)})
    subject = Subject(engine, described.model, described.seq_len, asked.run)
    result = finetune(subject, data, settings)
    return table(result, save(folder, result, data))


if __name__ == "__main__":
    main()
