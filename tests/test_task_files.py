"""Labelled tasks: their YAML, what is read of their files and what is refused, and how they are parted."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from lmzoo.errors import LmzooError
from lmzoo.tasks.describe import METRICS, read_config, task_names
from lmzoo.tasks.examples import Labelled, Question, Tagged
from lmzoo.tasks.metrics import HEADLINES
from lmzoo.tasks.read import load_task
from lmzoo.tasks.spans import NOT_THERE, placed
from lmzoo.tasks.splits import content
from lmzoo.tasks.tags import repaired

HERE = [
    *("sst2", "cola", "trec", "agnews", "rte", "mrpc", "stsb", "snli"),
    *("pos_ewt", "ner_wnut17", "ner_wikigold", "ner_uner"),
    *("squad", "pos_gsd", "ner_gsd", "cmrc2018", "drcd"),
]
"""Tasks whose files lie in the shared data."""
OWN_FILES = ["mnli", "qqp", "qnli", "wnli", "conll2003"]


def write(path: Path, text: str | bytes) -> Path:
    raw = text if isinstance(text, bytes) else text.encode()
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return path


def refusal(*args, **kwargs) -> str:
    with pytest.raises(LmzooError) as caught:
        load_task(*args, **kwargs)
    message = str(caught.value)
    assert "\n" not in message
    return message


SENTENCES = "shape: sentence\ntexts: [text]\nlabel: label\ntrain: train.tsv\nvalid: dev.tsv\n"


def sentences(count: int, start: int = 0) -> str:
    return "text\tlabel\n" + "".join(
        f"sentence {n}\t{'even' if n % 2 == 0 else 'odd'}\n" for n in range(start, start + count)
    )


@pytest.fixture
def small(tmp_path) -> str:
    """A task of one's own with 40 sentences to learn from and 6 to score."""
    write(tmp_path / "train.tsv", sentences(40))
    write(tmp_path / "dev.tsv", sentences(6, start=100))
    return str(write(tmp_path / "mine.yaml", SENTENCES))


# ---------------------------------------------------------------------------------- YAML


def test_the_names_are_those_of_the_issue():
    assert task_names() == sorted(HERE + OWN_FILES)
    assert set(METRICS) == set(HEADLINES)


@pytest.mark.parametrize("name", HERE + OWN_FILES)
def test_every_yaml_is_whole(name):
    config, home = read_config(name)
    assert config.name == name
    assert home is None
    assert len(config.about) > 40
    assert config.valid or config.test or config.split


def test_chinese_text_that_is_also_pretraining_text_is_flagged():
    flagged = {name for name in HERE if read_config(name)[0].overlaps}
    assert flagged == {"cmrc2018", "drcd"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (SENTENCES + "lable: x\n", "lable: there is no such key; did you mean label"),
        (SENTENCES + "zzz: x\n", "zzz: there is no such key; a task has: name, shape"),
        (
            SENTENCES + "max_length: long\n",
            "max_length: 'long' is of the wrong type: give a whole number or null",
        ),
        (SENTENCES + "regression: 1\n", "regression: 1 is of the wrong type: give true or false"),
        (SENTENCES + "labels: even\n", "labels: 'even' is of the wrong type: give a list as in [A, B]"),
        (SENTENCES + "labels: [yes, no]\n", "labels: [True, False] is of the wrong type"),
        (SENTENCES + "labels: [even, even]\n", "labels: give two or more, each once"),
        (SENTENCES + "references: [1]\n", "references: [1] is of the wrong type: give a section"),
        (
            SENTENCES.replace("sentence", "sentense"),
            "shape: sentense is not known; choose one of: sentence, pair",
        ),
        ("train: x\n", "shape: is missing; choose one of"),
        ("shape: sentence\n", "train: is missing"),
        (SENTENCES + "metric: entity_f1\n", "metric: entity_f1 does not score sentence; choose accuracy"),
        (SENTENCES + "metric: f1\n", "positive: name the label that f1 is of"),
        (SENTENCES + "metric: pearson_spearman\n", "regression: true goes with metric: pearson_spearman"),
        (SENTENCES.replace("[text]", "[a, b]"), "texts: the shape sentence takes 1 in texts:"),
        (SENTENCES + "format: conll\n", "format: a task of shape sentence is read from tsv, jsonl, hub"),
        (SENTENCES + "format: hub\n", "hub: is missing"),
        (SENTENCES + "split_fraction: 1\n", "split_fraction: 1.0 is not between 0 and 1"),
        ("shape: tagging\nformat: conllu\ntrain: x\nlabel: pos\n", "label: pos is no field of CoNLL-U"),
        (
            "shape: tagging\nformat: conllu\ntrain: x\nsplit: sent\n",
            "split: rows of the shape tagging have no column",
        ),
        ("[1]\n", "holds no keys"),
        ("a: [\n", "cannot be read as YAML"),
    ],
)
def test_a_yaml_that_is_wrong_is_refused_with_file_and_key(tmp_path, text, said):
    path = write(tmp_path / "mine.yaml", text)
    message = refusal(str(path), None)
    assert message.startswith(str(path))
    assert said in message


def test_a_task_is_read_without_torch():
    modules = "lmzoo.tasks.read, lmzoo.tasks.metrics, lmzoo.tasks.controls"
    code = f"import sys, {modules}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_an_unknown_task_and_a_missing_yaml():
    assert "task=sst is not known; did you mean sst2" in refusal("sst", None)
    assert "task=none.yaml does not exist" in refusal("none.yaml", None)


def test_whole_numbers_are_labels_and_scores(tmp_path):
    path = write(tmp_path / "mine.yaml", SENTENCES + "labels: [0, 1]\nreferences: {best: 90}\n")
    config, home = read_config(str(path))
    assert config.labels == ["0", "1"]
    assert config.references == {"best": 90.0}
    assert (config.name, home) == ("mine", tmp_path)


# ---------------------------------------------------------------------------------- where the files lie


def test_a_yaml_of_ones_own_finds_its_files_beside_it(small):
    data = load_task(small, None)
    assert len(data.train) + len(data.stop) == 40
    assert (len(data.scored), data.scored_part) == (6, "valid")
    assert data.labels == ["even", "odd"]
    assert data.scored[0] == Labelled("scored:1", ("sentence 100",), "even")


def test_the_yaml_in_the_documents_is_a_task(tmp_path):
    page = (Path(__file__).parents[1] / "docs" / "yardsticks.md").read_text(encoding="utf-8")
    (yaml,) = re.findall(r"```yaml\n(# reviews\.yaml\n.*?)```", page, re.DOTALL)
    for part, count in (("train", 30), ("dev", 5)):
        write(tmp_path / f"reviews.{part}.tsv", sentences(count).replace("label", "stars"))
    data = load_task(str(write(tmp_path / "reviews.yaml", yaml)), None)
    assert (data.config.name, data.scored_part, len(data.scored)) == ("reviews", "valid", 5)
    assert data.labels == ["even", "odd"]


def test_files_given_win_and_lie_in_the_working_folder(small, tmp_path, monkeypatch):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    write(elsewhere / "mine.tsv.gz", sentences(20))
    monkeypatch.chdir(elsewhere)
    data = load_task(small, None, train="mine.tsv.gz")
    assert len(data.train) + len(data.stop) == 20
    assert len(data.scored) == 6


def test_a_test_part_is_scored_and_the_dev_part_not_read(small, tmp_path):
    path = write(tmp_path / "other.yaml", SENTENCES.replace("dev.tsv", "absent.tsv") + "test: dev.tsv\n")
    data = load_task(str(path), None)
    assert (len(data.scored), data.scored_part) == (6, "test")
    assert data.notes == ["scored on dev.tsv; absent.tsv is not used"]
    # one who gives a dev part means it
    assert load_task(str(path), None, valid=tmp_path / "dev.tsv").scored_part == "valid"


def test_files_that_belong_together_are_joined(small, tmp_path):
    write(tmp_path / "more.tsv", sentences(3, start=200))
    data = load_task(small, None, valid="dev.tsv + more.tsv")
    assert [item.id for item in data.scored] == [f"scored:{n}" for n in range(1, 10)]


@pytest.mark.parametrize(
    ("kwargs", "said"),
    [
        ({"task": "sst2", "root": None}, "task=sst2 reads classification/sst2.train.tsv.gz: give task.root="),
        ({"root": Path("absent")}, "task.root=absent is not a folder"),
        ({"train": "absent.tsv"}, "absent.tsv does not exist (looked in"),
        ({"limit": 0}, "limit=0 leaves no item"),
    ],
)
def test_a_missing_file_is_named_with_where_it_was_looked_for(small, kwargs, said, monkeypatch):
    monkeypatch.delenv("LMZOO_DATA", raising=False)
    assert said in refusal(**({"task": small, "root": None} | kwargs))


def test_without_a_root_files_are_looked_for_where_the_environment_says(tmp_path, small, monkeypatch):
    monkeypatch.setenv("LMZOO_DATA", str(tmp_path / "elsewhere"))
    assert load_task(small, None).train  # a YAML of one's own lies beside its files
    assert "LMZOO_DATA" in refusal("sst2", None)
    assert "is no folder" in refusal("sst2", None)
    folder = tmp_path / "elsewhere" / "classification"
    folder.mkdir(parents=True)
    for part, packed in (("train", True), ("dev", False)):
        rows = "".join(f"{n % 2}\tsentence {part} {n}\n" for n in range(40))
        raw = f"label\tsentence\n{rows}".encode()
        name = f"sst2.{part}.tsv" + ".gz" * packed
        (folder / name).write_bytes(gzip.compress(raw) if packed else raw)
    assert len(load_task("sst2", None).scored) == 40


def test_a_task_without_anything_to_score(tmp_path, small):
    path = write(tmp_path / "other.yaml", SENTENCES.replace("valid: dev.tsv\n", ""))
    assert "has nothing to score: give task.valid=" in refusal(str(path), None)


# ---------------------------------------------------------------------------------- columns


def test_columns_are_read_without_quoting_with_bom_and_both_line_ends(tmp_path, small):
    text = 'label\ttext\tmore\r\neven\tsay "no\tx\r\nodd\t\'t was " so\ty\r\n\r\n'
    write(tmp_path / "dev.tsv", b"\xef\xbb\xbf" + text.encode())
    data = load_task(small, None)
    assert [item.texts[0] for item in data.scored if isinstance(item, Labelled)] == [
        'say "no',
        "'t was \" so",
    ]
    assert data.counts == {}


BROKEN = [
    ("dev.tsv", "text\tlabel\na\teven\nb\n", "dev.tsv:3 has 1 column and the header 2"),
    ("dev.tsv", "text\tlabel\na\tb\teven\n", "dev.tsv:2 has 3 columns and the header 2"),
    ("dev.tsv", "texts\tlabel\na\teven\n", "dev.tsv:1 has no column 'text'; did you mean texts?"),
    ("dev.tsv", "text\tlabel\na\t \n", "dev.tsv:2 has no label in label"),
    ("dev.tsv", "text\tlabel\n", "dev.tsv holds no items"),
    ("dev.tsv", "", "dev.tsv holds no items"),
    ("dev.tsv", b"text\tlabel\na\teven\n\xff\todd\n", "dev.tsv:3 is not UTF-8"),
    ("dev.tsv", b"\xff\xfet\0e\0", "dev.tsv:1 is not UTF-8"),
    (
        "dev.tsv",
        "text\tlabel\na\teven\nb\tblue\nc\tblue\n",
        "dev.tsv:3: the label 'blue' (2 items of the scored",
    ),
    ("train.tsv", "text\tlabel\na\teven\nb\teven\n", "one label alone, 'even'"),
    ("train.tsv", "text\tlabel\na\teven\na\todd\n", "nothing can be kept apart for stop"),
    (
        "dev.jsonl",
        '{"text": "a", "label": "even"}\n{"text": 3, "label": "odd"}\n',
        "dev.jsonl:2: text is no text",
    ),
    ("dev.jsonl", '{"text": "a"}\n', "dev.jsonl:1 has no column 'label'"),
    ("dev.jsonl", '{"text": "a", "label": null}\n', "dev.jsonl:1 has no label"),
    ("dev.jsonl", "[]\n", "dev.jsonl:1 is no JSON object"),
    ("dev.jsonl", '{"text": "a"\n', "dev.jsonl:1 is not JSON"),
    ("dev.jsonl", '{"text": "\\ud800", "label": "odd"}\n', "dev.jsonl:1 holds half a surrogate pair"),
]


@pytest.mark.parametrize(("name", "text", "said"), BROKEN, ids=[said for _, _, said in BROKEN])
def test_broken_rows_are_refused_with_file_and_line(tmp_path, small, name, text, said):
    write(tmp_path / name, text)
    if name.endswith("jsonl"):
        rows = [{"text": f"s {n}", "label": ("even", "odd")[n % 2]} for n in range(10)]
        write(tmp_path / "train.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
        small = str(write(tmp_path / "j.yaml", SENTENCES.replace(".tsv", ".jsonl") + "format: jsonl\n"))
    assert said in refusal(small, None)


def test_a_damaged_gz_is_refused(tmp_path, small):
    packed = gzip.compress(sentences(500).encode())
    (tmp_path / "cut.tsv.gz").write_bytes(packed[: len(packed) // 2])
    assert "cut.tsv.gz is damaged" in refusal(small, None, train=tmp_path / "cut.tsv.gz")


def test_what_is_left_out_or_odd_is_counted(tmp_path, small):
    write(tmp_path / "dev.tsv", "text\tlabel\n\teven\nb\nc\t-\nsentence 3\todd\n")
    extra = 'skip_labels: ["-"]\nskip_broken_rows: true\n'
    data = load_task(str(write(tmp_path / "other.yaml", SENTENCES + extra)), None)
    assert [item.id for item in data.scored] == ["scored:1", "scored:4"]
    assert data.counts == {
        "scored_empty": 1,
        "scored_broken_rows_skipped": 1,
        "scored_items_without_gold_label": 1,
        "scored_also_in_train": 1,
    }
    assert "1 item of the scored part also in the training part" in data.notes


def test_labels_of_the_yaml_keep_their_order_and_refuse_others(tmp_path, small):
    named = write(tmp_path / "named.yaml", SENTENCES + "labels: [odd, even, none]\n")
    assert load_task(str(named), None).labels == ["odd", "even", "none"]
    write(tmp_path / "dev.tsv", "text\tlabel\na\tnone\n")
    assert load_task(str(named), None).counts == {"scored_labels_never_trained": 1}
    few = write(tmp_path / "few.yaml", SENTENCES + "labels: [odd, blue]\n")
    assert "train.tsv:2: the label 'even' is not among the task's labels" in refusal(str(few), None)


def test_a_label_that_training_lacks_is_refused_with_those_it_has(tmp_path, small):
    named = write(tmp_path / "named.yaml", SENTENCES + "labels: [even, odd, prime]\n")
    write(tmp_path / "dev.tsv", "text\tlabel\na\teven\nb\tblue\n")
    assert "does not occur in training, which has even, odd; mend it" in refusal(str(named), None)


def test_a_regression_wants_numbers(tmp_path):
    yaml = (
        "shape: pair\ntexts: [a, b]\nlabel: score\nregression: true\nmetric: pearson_spearman\n"
        "train: t.tsv\nvalid: d.tsv\n"
    )
    path = str(write(tmp_path / "mine.yaml", yaml))
    write(tmp_path / "t.tsv", "a\tb\tscore\n" + "".join(f"x{n}\ty\t{n / 2}\n" for n in range(8)))
    write(tmp_path / "d.tsv", "a\tb\tscore\nx\ty\t1e0\n")
    data = load_task(path, None)
    assert (data.labels, data.scored[0]) == ([], Labelled("scored:1", ("x", "y"), 1.0))
    for wrong in ("high", "nan"):
        write(tmp_path / "d.tsv", f"a\tb\tscore\nx\ty\t{wrong}\n")
        assert f"d.tsv:2: the label '{wrong}' is not a number" in refusal(path, None)


# ---------------------------------------------------------------------------------- tags


TAGGING = "shape: tagging\nformat: conll\ntrain: t.conll\nvalid: d.conll\nmetric: entity_f1\n"
CONLL = "Ann\tB-PER\nsang\tO\n\nIn\tO\nOslo\tB-LOC\n\n"


@pytest.fixture
def tagging(tmp_path) -> str:
    write(tmp_path / "t.conll", CONLL + "Bo\tB-PER\nLi\tI-PER\n")
    return str(write(tmp_path / "tags.yaml", TAGGING))


def test_words_with_tags_and_what_breaks_iob2(tmp_path, tagging):
    broken = "Rome\tI-LOC\nis\tO\nLi\tI-PER\nOslo\tI-LOC\nX\tI-LOC\n\n\nto\tB-ORG\n"
    write(tmp_path / "d.conll", broken)
    data = load_task(tagging, None)
    assert data.labels == ["B-LOC", "B-PER", "I-PER", "O"]
    assert data.scored == [
        Tagged("scored:1", ("Rome", "is", "Li", "Oslo", "X"), ("B-LOC", "O", "B-PER", "B-LOC", "I-LOC")),
        Tagged("scored:2", ("to",), ("B-ORG",)),
    ]
    # I-LOC and B-ORG stand in no training sentence: two words that no model tags right
    assert data.counts == {"scored_tags_repaired": 3, "scored_labels_never_trained": 2}


def test_conll_2003_is_read_as_it_comes(tmp_path, tagging):
    mark, first = "-DOCSTART- -X- -X- O\n", "EU NNP I-NP I-ORG\nrejects VBZ I-VP O\n"
    second = "UN NNP I-NP I-ORG\nUS NNP I-NP B-ORG\n"
    write(tmp_path / "d.conll", f"{mark}\n{first}\n{mark}{second}")
    data = load_task(tagging, None)
    assert data.scored == [
        Tagged("scored:2", ("EU", "rejects"), ("B-ORG", "O")),
        Tagged("scored:3", ("UN", "US"), ("B-ORG", "B-ORG")),
    ]
    assert data.counts["scored_document_marks_skipped"] == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a\tO\nb\n", "d.conll:2 has a word without a tag"),
        ("a\tO\nb\t\n", "d.conll:2 has a word without a tag"),
        ("a\tO\nb O\n", "d.conll:2 has a word without a tag"),
        ("\na\tO\nb\tS-PER\n", "d.conll:2: the sentence has the tag 'S-PER'"),
        ("\n\n", "d.conll holds no items"),
    ],
)
def test_broken_tags_are_refused(tmp_path, tagging, text, said):
    write(tmp_path / "d.conll", text)
    assert said in refusal(tagging, None)


def test_repaired_is_iob2():
    assert repaired(["I-A", "I-A", "I-B", "O", "I-A", "B-A", "I-A"]) == [
        *("B-A", "I-A", "B-B", "O", "B-A", "B-A", "I-A"),
    ]
    assert repaired(["B-A", "I-A", "O"]) == ["B-A", "I-A", "O"]
    assert repaired([]) == []


CONLLU = """# newdoc id = 1
# text = Don't go.
1-2\tDon't\t_\t_\t_\t_\t_\t_\t_\t_
1\tDo\tdo\tAUX\t_\t_\t3\taux\t_\t_
2\tn't\tnot\tPART\t_\t_\t3\tadvmod\t_\t_
3\tgo\tgo\tVERB\t_\t_\t0\troot\t_\tSpaceAfter=No
3.1\tthere\t_\tADV\t_\t_\t_\t_\t_\t_
4\t.\t.\tPUNCT\t_\t_\t3\tpunct\t_\t_

# text = alone

1\tGo\tgo\tVERB\t_\t_\t0\troot\t_\t_
"""


def test_conllu_has_words_only_and_the_text_as_written(tmp_path):
    yaml = "shape: tagging\nformat: conllu\ntrain: t.conllu\nvalid: d.conllu.gz\n"
    path = str(write(tmp_path / "mine.yaml", yaml))
    write(tmp_path / "t.conllu", CONLLU)
    write(tmp_path / "d.conllu.gz", CONLLU)
    data = load_task(path, None)
    words, tags = ("Do", "n't", "go", "."), ("AUX", "PART", "VERB", "PUNCT")
    assert data.scored == [
        Tagged("scored:1", words, tags, "Don't go."),
        Tagged("scored:3", ("Go",), ("VERB",)),
    ]
    assert data.counts["scored_sentences_without_words_skipped"] == 1
    lemmas = load_task(str(write(tmp_path / "lemma.yaml", yaml + "label: lemma\n")), None)
    assert lemmas.scored[0].tags == ("do", "not", "go", ".")
    write(tmp_path / "d.conllu.gz", "1\tDo\tdo\tAUX\n")
    assert "d.conllu.gz:1 has 4 columns, and CoNLL-U has 10" in refusal(path, None)


# ---------------------------------------------------------------------------------- answers


def squad_of(*questions: tuple[str, str, list]) -> str:
    paragraphs = [
        {
            "context": context,
            "qas": [
                {
                    "id": name,
                    "question": f"{name}?",
                    "answers": [{"text": text, "answer_start": start} for text, start in answers],
                }
            ],
        }
        for name, context, answers in questions
    ]
    return json.dumps({"data": [{"paragraphs": paragraphs}]})


SPANS = "shape: spans\nformat: squad\ntrain: t.json\nvalid: d.json.gz\nmetric: exact_match_f1\n"


@pytest.fixture
def spans(tmp_path) -> str:
    write(tmp_path / "t.json", squad_of(("a", "red blue", [("blue", 4)]), ("b", "one two", [("one", 0)])))
    write(tmp_path / "d.json.gz", squad_of(("c", "up down", [("up", 0)])))
    return str(write(tmp_path / "spans.yaml", SPANS))


def test_answers_are_mended_or_skipped_and_counted(tmp_path, spans):
    hard = [
        ("shifted", "a b a b a", [("a", 5)]),  # the nearest, of equal ones the first
        ("nowhere", "a b", [("z", 0)]),
        ("both", "a b", [("z", 0), ("b", 2), ("b", 0)]),
        ("none", "a b", []),
        ("both", "c d", [("c", 0)]),
        ("nulls", "c d d", [("d", None)]),
    ]
    write(tmp_path / "t.json", squad_of(*hard))
    write(tmp_path / "d.json.gz", squad_of(*hard))
    data = load_task(spans, None)
    learned = {item.id: item.answers for item in [*data.train, *data.stop] if isinstance(item, Question)}
    assert learned == {
        "shifted": (("a", 4),),
        "both": (("b", 2), ("b", 2)),
        "train:5": (("c", 0),),
        "nulls": (("d", 2),),
    }
    scored = {item.id: item.answers for item in data.scored if isinstance(item, Question)}
    assert scored["nowhere"] == (("z", NOT_THERE),)
    assert scored["both"] == (("z", NOT_THERE), ("b", 2), ("b", 2))
    every = {
        "answers_not_in_context": 2,
        "answer_offsets_mended": 3,
        "questions_without_answer_skipped": 1,
        "repeated_ids": 1,
    }
    assert data.counts == {
        **{f"{part}_{name}": count for part in ("train", "scored") for name, count in every.items()},
        "train_questions_without_answer_in_context_skipped": 1,
        "scored_also_in_train": 4,
        "scored_sharing_a_text_with_train": 5,
    }


def test_placed_finds_the_nearest():
    assert placed("ab ab ab", "ab", 4) == 3
    assert placed("ab ab ab", "ab", None) == 0
    assert placed("ab ab ab", "ab", 6) == 6
    assert placed("ab ab ab", "ab", -5) == 0
    assert placed("aaa", "aa", 2) == 1
    assert placed("ab", "", 0) == NOT_THERE
    assert placed("ab", "c", 0) == NOT_THERE


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"data": [\n{"paragraphs": 3}]}', "d.json.gz: data[0] has no list 'paragraphs'"),
        ('{"data": []}', "d.json.gz holds no items"),
        ('{"data": [\n,', "d.json.gz:2 is not JSON"),
        (
            '{"data": [{"paragraphs": [{"context": "a", "qas": [{"question": "b"}]}]}]}',
            "qas[0] has no list 'answers'",
        ),
        (squad_of(("a", "b", [])), "leaves no item for task=spans: all 1 were skipped"),
    ],
)
def test_what_is_not_in_squads_layout_is_refused(tmp_path, spans, text, said):
    write(tmp_path / "d.json.gz", text)
    assert said in refusal(spans, None)


def test_tags_and_answers_in_rows_of_json(tmp_path):
    rows = [{"words": ["a", "b", str(n)], "tags": ["X", "Y", "X"]} for n in range(5)]
    write(tmp_path / "t.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    yaml = "format: jsonl\ntrain: t.jsonl\nsplit: hash\nsplit_fraction: 0.3\n"
    tags = write(tmp_path / "tags.yaml", yaml + "shape: tagging\ntexts: [words]\nlabel: tags\n")
    assert load_task(str(tags), None).labels == ["X", "Y"]
    write(tmp_path / "t.jsonl", '{"words": ["a"], "tags": ["X", "Y"]}\n')
    assert "t.jsonl:1 has 1 words and 2 tags" in refusal(str(tags), None)
    write(tmp_path / "t.jsonl", '{"words": "a", "tags": ["X"]}\n')
    assert "t.jsonl:1: words is no list of texts" in refusal(str(tags), None)

    answers = {"text": ["b", "c"], "answer_start": [2]}
    rows = [{"q": "?", "c": f"a b c {n}", "a": answers} for n in range(5)]
    write(tmp_path / "t.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    asked = yaml + "shape: spans\ntexts: [q, c]\nlabel: a\nmetric: exact_match_f1\n"
    path = str(write(tmp_path / "asked.yaml", asked))
    assert load_task(path, None).scored[0].answers == (("b", 2), ("c", 4))
    write(tmp_path / "t.jsonl", '{"q": "?", "c": "a", "a": "a"}\n')
    assert "t.jsonl:1: a holds no answers" in refusal(path, None)


# ---------------------------------------------------------------------------------- parts


def test_the_parts_do_not_depend_on_the_order_of_the_file(tmp_path, small):
    header, *lines = sentences(1000).splitlines(keepends=True)
    found = []
    for order in (lines, lines[::-1]):
        write(tmp_path / "train.tsv", "".join([header, *order]))
        data = load_task(small, None, seed=len(found))
        found.append({content(item) for item in data.stop})
        assert not found[-1] & {content(item) for item in data.train}
    assert found[0] == found[1]
    assert 70 <= len(found[0]) <= 130  # a tenth of 1000, as the hash falls


def test_the_scored_part_is_cut_by_a_column(tmp_path):
    rows = "".join(f"{n % 30}\ttext {n}\t{'ab'[n % 2]}\n" for n in range(300))
    write(tmp_path / "t.tsv", "document\ttext\tlabel\n" + rows)
    yaml = (
        "shape: sentence\ntexts: [text]\nlabel: label\ntrain: t.tsv\nsplit: document\nsplit_fraction: 0.3\n"
    )
    data = load_task(str(write(tmp_path / "mine.yaml", yaml)), None)
    parts = [data.train, data.stop, data.scored]
    documents = [{int(content(item)[0].split()[1]) % 30 for item in part} for part in parts]
    assert sum(map(len, documents)) == len(set().union(*documents)) == 30
    assert all(documents)
    assert data.scored_part == "split"
    assert "no official part: 30 % of t.tsv is scored, cut off by a hash of the column document" in data.notes


def test_pairs_of_one_first_text_stay_together(tmp_path):
    rows = "".join(f"premise {n // 5}\thypothesis {n}\t{'ab'[n % 2]}\n" for n in range(200))
    write(tmp_path / "t.tsv", "one\tother\tlabel\n" + rows)
    yaml = "shape: pair\ntexts: [one, other]\nlabel: label\ntrain: t.tsv\nvalid: t.tsv\n"
    data = load_task(str(write(tmp_path / "mine.yaml", yaml)), None)
    assert len(data.stop) % 5 == 0
    assert not {content(item)[0] for item in data.stop} & {content(item)[0] for item in data.train}


@pytest.mark.parametrize("count", [2, 3, 5])
def test_a_few_items_leave_no_part_empty(tmp_path, small, count):
    write(tmp_path / "train.tsv", sentences(count))
    data = load_task(small, None)
    assert data.train
    assert data.stop


def test_limit_cuts_each_part_and_never_moves_an_item(small):
    whole, cut, again = (
        load_task(small, None, limit=limit, seed=seed) for limit, seed in ((None, 0), (2, 0), (2, 5))
    )
    for part in ("train", "stop", "scored"):
        assert len(getattr(cut, part)) == min(2, len(getattr(whole, part)))
        assert set(getattr(cut, part)) <= set(getattr(whole, part))
    assert (cut.scored, cut.stop) == (again.scored, again.stop)
    assert cut.train != again.train
    kept = len(cut.train) + len(cut.stop) + len(cut.scored)
    assert cut.counts == {"left_out_by_limit": 46 - kept}
    assert cut.labels == whole.labels


def test_what_training_has_too_is_counted_among_what_the_limit_leaves(tmp_path, small):
    write(tmp_path / "dev.tsv", sentences(6))
    assert load_task(small, None).counts == {"scored_also_in_train": 6}
    assert load_task(small, None, limit=2).counts.get("scored_also_in_train", 0) <= 2


def test_the_hash_is_of_what_is_scored(tmp_path, small):
    first = load_task(small, None)
    assert first.hash == load_task(small, None, train="train.tsv").hash
    # not of the places in the file
    skipping = write(tmp_path / "other.yaml", SENTENCES + "skip_labels: [none]\n")
    write(tmp_path / "dev.tsv", sentences(6, start=100).replace("\nsent", "\nx\tnone\nsent", 1))
    assert load_task(str(skipping), None).hash == first.hash
    write(tmp_path / "dev.tsv", sentences(6, start=100).replace("100\teven", "100\todd"))
    assert load_task(small, None).hash != first.hash


# ---------------------------------------------------------------------------------- the hub


def test_a_data_set_of_the_hubs_layout(tmp_path):
    pytest.importorskip("datasets")
    folder = tmp_path / "set"
    folder.mkdir()
    for split, count in (("train", 20), ("test", 4)):
        rows = [{"text": f"{split} {n}", "kind": n % 2} for n in range(count)]
        write(folder / f"{split}.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    yaml = (
        f"shape: sentence\nformat: hub\nhub: {folder}\ntrain: train\ntest: test\ntexts: [text]\nlabel: kind\n"
    )
    path = str(write(tmp_path / "mine.yaml", yaml))
    data = load_task(path, None)
    assert len(data.train) + len(data.stop) == 20
    assert data.scored[1] == Labelled("scored:2", ("test 1",), "1")
    assert "split=dev is not known; choose one of: " in refusal(path, None, test="dev")
    # numbers of labels come as their names, where the data set has them
    named = "dataset_info:\n  features:\n  - name: text\n    dtype: string\n  - name: kind\n    dtype:\n"
    named += "      class_label:\n        names:\n          '0': even\n          '1': odd\n"
    write(folder / "README.md", f"---\n{named}---\n")
    assert load_task(path, None).scored[1] == Labelled("scored:2", ("test 1",), "odd")
    wrong = str(write(tmp_path / "wrong.yaml", yaml.replace("kind", "king")))
    assert "has no column 'king'; did you mean kind?" in refusal(wrong, None)


# ---------------------------------------------------------------------------------- the shared data

ROWS = {
    "sst2": (67_349, 872),
    "cola": (8_551, 1_043),
    "trec": (5_452, 500),
    "agnews": (9_000, 1_001),
    "rte": (2_490, 277),
    "mrpc": (4_076, 1_725),
    "stsb": (5_749, 1_500),
    "pos_ewt": (12_544, 2_001),
    "ner_wnut17": (3_394, 1_287),
    "ner_wikigold": (1_472, 369),
    "squad": (7_938, 10_570),
    "ner_gsd": (3_997, 500),
    "cmrc2018": (3_524, 3_219),
    "drcd": (3_219, 3_524),
}
PARTED = {"snli": 9_842, "ner_uner": 2_001, "pos_gsd": 500}
WORDS = {"pos_ewt": (204_577, 25_147), "ner_wnut17": (62_730, 23_394), "ner_gsd": (98_616, 12_663)}
ENTITIES = {"ner_wnut17": (1_975, 1_079), "ner_wikigold": (2_813, 745), "ner_gsd": (6_118, 753)}
ALSO_IN_TRAIN = {"sst2": 2, "trec": 11, "agnews": 1}


def learned_and_scored(data, what) -> tuple[int, int]:
    return sum(map(what, [*data.train, *data.stop])), sum(map(what, data.scored))


def entities(item) -> int:
    return sum(tag.startswith("B-") for tag in item.tags)


@pytest.mark.parametrize("name", HERE)
def test_the_shared_files_have_what_their_readme_says(name, shared_data):
    data = load_task(name, shared_data)
    learned, scored = learned_and_scored(data, lambda item: 1)
    if name in PARTED:
        assert learned + scored == PARTED[name]
        assert 0.15 < scored / PARTED[name] < 0.25
        assert data.scored_part == "split"
    else:
        marks = [data.counts.get(f"{part}_document_marks_skipped", 0) for part in ("train", "scored")]
        assert (learned + marks[0], scored + marks[1]) == ROWS[name]
        assert bool(any(marks)) == (name == "ner_wikigold")  # the one file that has them, as sentences
        assert data.scored_part == ("test" if data.config.test else "valid")
    assert 0.08 < len(data.stop) / learned < 0.12 or (learned < 500 and data.stop)
    if name in WORDS:
        assert learned_and_scored(data, lambda item: len(item.words)) == WORDS[name]
    if name in ENTITIES:
        assert learned_and_scored(data, entities) == ENTITIES[name]
    if name == "ner_uner":
        assert sum(learned_and_scored(data, entities)) == 966
    if name in ALSO_IN_TRAIN:
        assert data.counts["scored_also_in_train"] == ALSO_IN_TRAIN[name]
    assert not [count for count in data.counts if "repaired" in count or "never_trained" in count]
    if data.config.shape != "tagging":
        # a text, a premise or a context lies in one part
        parts = [data.train, data.stop, data.scored if data.scored_part == "split" else []]
        place = -1 if data.config.shape == "spans" else 0
        groups = [{content(item)[place] for item in part} for part in parts]
        assert sum(map(len, groups)) == len(set().union(*groups))


def test_classes_are_as_often_as_the_readme_says(shared_data):
    data = load_task("snli", shared_data)
    items = [*data.train, *data.stop, *data.scored]
    counts = Counter(item.label for item in items if isinstance(item, Labelled))
    assert counts == {"entailment": 3_329, "contradiction": 3_278, "neutral": 3_235}
    assert len(load_task("pos_ewt", shared_data).labels) == 17


def test_every_answer_of_the_shared_files_stands_where_they_say(shared_data):
    for name in ("squad", "cmrc2018"):
        data = load_task(name, shared_data)
        assert not [count for count in data.counts if "answer" in count]
        notes = [note for note in data.notes if "wikipedia_zh" in note]
        assert bool(notes) == (name == "cmrc2018")
        if name == "squad":
            assert sum(len(item.answers) for item in data.scored if isinstance(item, Question)) == 34_726
