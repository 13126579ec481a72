"""What a labelled task is: types and defaults only, nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

SHAPES = ("sentence", "pair", "tagging", "spans")
"""One label a text; one label (or number) a pair of texts; one label a word; an answer out of a context."""
FORMATS = ("tsv", "conll", "conllu", "squad", "jsonl", "hub")


@dataclass
class TaskConfig:
    """`task=NAME` is `conf/task/NAME.yaml`; `task=FILE.yaml` one of your own, of the same keys."""

    name: str = "???"
    shape: str = "???"
    """`sentence`, `pair`, `tagging` or `spans`."""
    format: str = "tsv"
    """`tsv` (a header line, no quoting), `jsonl`, `conll` (word, tab, tag), `conllu`, `squad`, or `hub`."""
    train: str = "???"
    """Training file, relative to `task.root`; .gz is read as it is. Several that belong together are joined
    as in `a.tsv + b.tsv`; so they are in `valid` and `test`. For `hub` the names of splits stand here."""
    valid: str | None = None
    """The official dev set, for the score alone; None where a split of `train` serves, see `split`."""
    test: str | None = None
    """Scored instead of `valid` where it is the part that the literature reports."""
    texts: list[str] = field(default_factory=list)
    """Columns (or JSON keys) of the texts: one for a sentence, two for a pair. Rows of `jsonl` and `hub` hold
    tagged sentences as one list of words, and questions as two keys, of the question and of the context."""
    label: str | None = None
    """Column of the label; for `conllu` the field: `upos`. For rows of `jsonl` and `hub`: the list of tags;
    the answers, as `{text: […], answer_start: […]}`."""
    labels: list[str] | None = None
    """All labels, in order; without it those of the training part, sorted. A regression has none."""
    skip_labels: list[str] = field(default_factory=list)
    """Items with one of these labels are left out and counted: what stands for "no gold label"."""
    skip_broken_rows: bool = False
    """Leave out and count rows with too few or too many columns instead of refusing the file."""
    regression: bool = False
    metric: str = "accuracy"
    """The one that the literature reports: `accuracy`, `f1`, `matthews`, `pearson_spearman`, `entity_f1`,
    `exact_match_f1`."""
    positive: str | None = None
    """The label that `f1` is of."""
    split: str | None = None
    """How the scored part is cut from `train` where no file has it: `hash` of the item, or the name of a
    column whose equal values stay together, as SNLI's premise."""
    split_fraction: float = 0.1
    hub: str | None = None
    """For `format: hub`: the data set's name there, or a folder of one; needs the extra hub."""
    subset: str | None = None
    """Its configuration, where it has several."""
    revision: str | None = None
    """Its commit, branch or tag."""
    language: str = "en"
    """`zh` segments nothing by spaces and scores answers by characters."""
    overlaps: list[str] = field(default_factory=list)
    """Names of pretraining files that hold this task's text, e.g. `wikipedia_zh`; flagged in the result."""
    about: str = ""
    """What it is, with the source and licence."""
    references: dict[str, float] = field(default_factory=dict)
    """Published scores beside it, with what they are of in the name."""
    lr: dict[str, float] = field(default_factory=dict)
    """Learning rates by mode, where the defaults do not serve."""
    max_length: int | None = None
    """Tokens of a row; by default what the model was trained on."""
    extra: dict[str, Any] = field(default_factory=dict)
