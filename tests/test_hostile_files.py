"""Configs, tables and weights from elsewhere: nothing in them runs, climbs out, or ends in a traceback."""

from __future__ import annotations

import ast
import copy
import functools
import gzip
import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from hostile import HALVES, TEXTS
from hub_folders import made_folder
from inference_models import language_model
from lmzoo.checkpoints import read_checkpoint
from lmzoo.config import compose, load_config, resolve, save_config, to_dict
from lmzoo.errors import LmzooError
from lmzoo.export import _read_yaml
from lmzoo.hub.describe import describe
from lmzoo.hub.files import read_safetensors, read_weights, unpickle, write_weights
from lmzoo.hub.folder import load_exported
from lmzoo.plain_yaml import read_yaml
from lmzoo.tasks.config import TaskConfig
from lmzoo.tasks.describe import read_config
from lmzoo.tasks.formats import read_values
from lmzoo.tasks.read import load_task
from lmzoo.text.readers import read_documents
from lmzoo.text.tokenizer import load_tokenizer
from lmzoo.text.vectors import VectorFile
from lmzoo.training import train
from lmzoo.yardsticks.base import Asked
from lmzoo.yardsticks.minimal_pairs import minimal_pairs, read_pairs
from lmzoo.yardsticks.word_uses import read_table, word_span

SOURCE = Path(__file__).resolve().parents[1] / "src" / "lmzoo"


def refusal(reading: Callable[[], object]) -> str:
    with pytest.raises(LmzooError) as caught:
        reading()
    message = str(caught.value)
    assert "\n" not in message
    return message


def tolerated(reading: Callable[[], object]) -> None:
    """It works, or is refused in one line; any other exception fails the test."""
    try:
        reading()
    except LmzooError as error:
        assert "\n" not in str(error)


# ---------------------------------------------------------------------------------- YAML

TAGS = {
    "apply": "!!python/object/apply:os.system ['touch {trace}']",
    "apply of a list": "!!python/object/apply:subprocess.check_output [[touch, '{trace}']]",
    "new": "!!python/object/new:os.system ['touch {trace}']",
    "object": "!!python/object:pathlib.Path {{}}",
    "name": "!!python/name:os.system",
    "module": "!!python/module:os",
    "tuple": "!!python/tuple [1]",
    "another program's": "!ruby/object:Gem::Installer [a]",
}
"""Values that an unguarded reader makes into objects, or runs; {trace} is a file that they would leave."""
READERS: dict[str, Callable[[Path], object]] = {
    "a run's config": load_config,
    "a task": lambda path: read_config(str(path)),
    "an export": _read_yaml,
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("tag", TAGS)
def test_a_tag_builds_nothing(tmp_path: Path, reader: str, tag: str) -> None:
    trace, path = tmp_path / "trace", tmp_path / "config.yaml"
    value = TAGS[tag].format(trace=trace)
    for text in (f"seed: {value}\n", value, f"train: [{value}]\nshape: sentence\n"):
        path.write_text(text)
        message = refusal(lambda: READERS[reader](path))
        assert message.startswith(f"{path} cannot be read as YAML: ")
        assert not trace.exists()
    if "touch" in value:
        yaml.unsafe_load(value)
        assert trace.exists()  # it would have


@pytest.mark.parametrize("tag", TAGS)
def test_a_tag_in_a_file_for_hydra_builds_nothing(tmp_path: Path, tag: str) -> None:
    trace = tmp_path / "trace"
    (tmp_path / "experiment").mkdir()
    value = TAGS[tag].format(trace=trace)
    (tmp_path / "experiment" / "mine.yaml").write_text(f"# @package _global_\nseed: {value}\n")
    refusal(lambda: compose([f"hydra.searchpath=[file://{tmp_path}]", "experiment=mine"]))
    assert not trace.exists()


def test_a_tag_in_the_config_of_a_run_with_vectors_is_passed_over(tmp_path: Path, tokenizer) -> None:
    trace = tmp_path / "trace"
    folder = made_folder(tmp_path, tokenizer, "bert", foreign=False, lmzoo__model__vectors="glove.txt")
    run = folder.rename(tmp_path / "model").parent
    (run / "config.yaml").write_text(
        f"model: {{vectors: !!python/object/apply:os.system ['touch {trace}']}}\n"
    )
    assert describe(run).model.vectors == str(run / "model" / "glove.txt")
    assert not trace.exists()


ODD_YAML = {
    "laughs": "a: &a [x]\nb: &b [*a, *a, *a]\nc: &c [*b, *b, *b]\ndata: [*c, *c]\n",
    "inside itself": "&a [*a]\n",
    "merge": "a: &a {x: 1}\nb:\n  <<: *a\n",
    "depth": "[" * 5000,
    "depth of keys": "{a: " * 5000,
    "no such day": "seed: 2024-13-45\n",
    "no such hour": "seed: 2001-01-01T00:00:00+99:99\n",
    "no such year": "seed: 0001-01-01 00:00:00 +23:59\n",
    "a date": "!!timestamp abc",
    "a truth": "!!bool abc",
    "a number": "!!int abc",
    "no digits": "!!int ''",
    "digits": "seed: " + "9" * 5000,
    "a zero byte": "seed: 1\0\n",
    "control": "seed: \x07\n",
    "a key of lists": "? [a]\n: b\n",
    "bytes": "seed: !!binary '===='\n",
    "nothing": "",
}


@pytest.mark.parametrize("case", ODD_YAML)
@pytest.mark.parametrize("reader", READERS)
def test_odd_yaml_is_read_or_refused_in_one_line(tmp_path: Path, reader: str, case: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(ODD_YAML[case])
    tolerated(lambda: READERS[reader](path))


def test_an_alias_is_refused_because_it_may_multiply(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(ODD_YAML["laughs"])
    assert "the alias *a is not followed; write it out" in refusal(lambda: read_yaml(path))
    path.write_text(ODD_YAML["depth"])
    assert "nested too deeply" in refusal(lambda: read_yaml(path))


def test_what_we_write_is_read_back(tmp_path: Path) -> None:
    shared = ["a.txt"]  # one list in two places, which a writer of YAML would make an alias of
    config = compose(["data=text", "data.train=[a.txt]", "data.valid=[a.txt]"])
    config.data.train = config.data.valid = shared
    save_config(config, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == config


@given(text=st.one_of(TEXTS, st.text(st.sampled_from("-:?[]{},&*!|>%@`'\"# \nab1.~\t"), max_size=40)))
@settings(max_examples=150)
def test_any_yaml_is_read_or_refused_in_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "any.yaml"
    path.write_text(text, newline="")
    for reading in READERS.values():
        tolerated(lambda reading=reading: reading(path))


@pytest.mark.parametrize("value", ["${oc.env:SECRET_OF_THE_TEST}", "${seed}", "a ${oc.decode:x} b"])
def test_a_run_of_someone_else_looks_nothing_up(tmp_path: Path, monkeypatch, value: str) -> None:
    monkeypatch.setenv("SECRET_OF_THE_TEST", "the password")
    path = tmp_path / "config.yaml"
    save_config(compose([]), path)
    text = path.read_text().replace("project: lmzoo", f"project: '{value}'")
    path.write_text(text)
    message = refusal(lambda: load_config(path))
    assert f"logger.project={value} looks something up" in message
    assert "the password" not in message


# ---------------------------------------------------------------------------------- JSON and configs, changed

ODD_VALUES = st.sampled_from(
    [None, True, False, -1, 0, 1, 3, 2**31, 10**12, 10**400, 0.5, -0.0, 1e308, float("inf"), float("nan"), "", "\0",
     "../../etc/passwd", "/etc/passwd", "x" * 3000, "\ud800", "${oc.env:HOME}", "bert", "1", [], [[]], [None], [0, 0],
     {}, {"a": 1}, {"name": "bert"}]
)  # fmt: skip


def places_in(value: Any, path: tuple = ()) -> list[tuple]:
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, one in inside for place in places_in(one, (*path, key)))]


@st.composite
def changes(draw: Any, content: Any) -> Any:
    """``content`` with one to three values replaced, taken out, or a key put in."""
    changed = copy.deepcopy(content)
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.sampled_from(places_in(changed)))
        if not place:
            if draw(st.integers(0, 9)) == 0:
                changed = draw(ODD_VALUES)
            continue
        *outer, last = place
        holder = functools.reduce(lambda value, key: value[key], outer, changed)
        if draw(st.integers(0, 3)) == 0:
            del holder[last]
        elif draw(st.integers(0, 9)) == 0 and isinstance(holder, dict):
            holder["unheard_of"] = draw(ODD_VALUES)
        else:
            holder[last] = copy.deepcopy(draw(ODD_VALUES))
    return changed


_A_CONFIG = to_dict(compose([]))


@given(content=changes(_A_CONFIG))
@settings(max_examples=150)
def test_a_changed_config_is_a_run_or_refused_in_one_line(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps(content))  # JSON is YAML
    tolerated(lambda: resolve(load_config(path)))


@pytest.fixture(scope="module")
def exports(tmp_path_factory, tokenizer) -> dict[str, tuple[Path, dict]]:
    """Exported folders, with what their config.json holds."""
    parent = tmp_path_factory.mktemp("exports")
    found = {
        "ours": made_folder(parent, tokenizer, "modernbert", foreign=False),
        "bert": made_folder(parent, tokenizer, "bert"),
        "gpt2": made_folder(parent, tokenizer, "gpt2"),
        "modernbert-decoder": made_folder(parent, tokenizer, "modernbert-decoder"),
    }
    return {
        name: (folder, json.loads((folder / "config.json").read_text())) for name, folder in found.items()
    }


@pytest.mark.parametrize("form", ["ours", "bert", "gpt2", "modernbert-decoder"])
@given(data=st.data())
@settings(max_examples=40)
def test_a_changed_model_is_loaded_or_refused_in_one_line(exports, form: str, data: st.DataObject) -> None:
    folder, content = exports[form]
    (folder / "config.json").write_text(json.dumps(data.draw(changes(content))))
    tolerated(lambda: load_exported(folder))


@given(data=st.data())
@settings(max_examples=80)
def test_a_changed_tokenizer_is_loaded_or_refused_in_one_line(
    tmp_path: Path, tokenizer, data: st.DataObject
) -> None:
    content = json.loads(tokenizer.json())
    model = content["model"]
    whole = {"vocab": model["vocab"], "merges": model["merges"]}
    model["vocab"], model["merges"] = {}, []  # changed by themselves: there are too many of them
    changed = data.draw(changes(content))
    if isinstance(changed, dict) and isinstance(changed.get("model"), dict):
        few = {"vocab": dict(list(whole["vocab"].items())[:20]), "merges": whole["merges"][:5]}
        kept = data.draw(changes(few)) if data.draw(st.booleans()) else None
        if kept is None:
            changed["model"] |= whole
        elif isinstance(kept, dict) and isinstance(kept.get("vocab"), dict):
            changed["model"] |= kept | {"vocab": whole["vocab"] | kept["vocab"]}
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(changed))

    def use() -> None:
        loaded = load_tokenizer(path)
        for ids in loaded.encode_batch(["The cat sat. 猫", "\0\U0010ffff", "[SEP] \u202e"]):
            assert all(0 <= number < loaded.vocab_size for number in ids)
            loaded.decode(ids)
        assert len(loaded.spellings()) == loaded.vocab_size

    tolerated(use)


@given(data=st.data())
@settings(max_examples=60)
def test_the_files_of_a_tokenizers_folder_changed(tmp_path: Path, data: st.DataObject) -> None:
    folder = tmp_path / "folder"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    settings_ = {
        "do_lower_case": True,
        "strip_accents": None,
        "unk_token": {"content": "[UNK]"},
        "sep_token": "[SEP]",
    }
    roles = {"pad_token": "[PAD]", "cls_token": "[CLS]", "vocab_file": "../secret.txt"}
    (folder / "tokenizer_config.json").write_text(json.dumps(data.draw(changes(settings_))))
    (folder / "special_tokens_map.json").write_text(json.dumps(data.draw(changes(roles))))
    words = data.draw(st.lists(st.one_of(TEXTS, st.sampled_from(["the", "##s", "\r", "[MASK]"])), max_size=8))
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words]), newline="")

    def use() -> None:
        loaded = load_tokenizer(folder)
        for ids in loaded.encode_batch(["the cats", *words]):
            assert all(0 <= number < loaded.vocab_size for number in ids)

    tolerated(use)


ODD_BYTES = st.one_of(
    st.binary(max_size=120),
    TEXTS.map(lambda text: text.encode()),
    st.sampled_from(
        [b"", b"\n" * 50, b"\xff\xfe", b"{" * 5000, b"[" * 5000, b'{"a":' * 3000, b"9" * 5000, b"\x1f\x8b"]
    ),
)
BYTES_READERS: dict[str, Callable[[Path], object]] = {
    "a.parquet": lambda path: list(read_documents([path])),
    "a.txt.gz": lambda path: list(read_documents([path])),
    "a.txt.xz": lambda path: list(read_documents([path])),
    "a.jsonl.zst": lambda path: list(read_documents([path])),
    "vectors.txt": lambda path: VectorFile(path).find(["a", "b"]),
    "tokenizer.json": load_tokenizer,
    "pairs.jsonl": lambda path: list(read_pairs(path)),
    "table.tsv": lambda path: list(read_table(path, ["word"])),
    "model.safetensors": read_safetensors,
    "last.ckpt": unpickle,
    "t.tsv": lambda path: list(read_values(path, TaskConfig(shape="sentence", texts=["a"], label="b"))),
    "t.jsonl": lambda path: list(read_values(path, TaskConfig(format="jsonl", texts=["a"], label="b"))),
    "t.conll": lambda path: list(read_values(path, TaskConfig(shape="tagging", format="conll"))),
    "t.conllu": lambda path: list(read_values(path, TaskConfig(shape="tagging", format="conllu"))),
    "t.squad": lambda path: list(read_values(path, TaskConfig(shape="spans", format="squad"))),
}


@pytest.mark.parametrize("name", BYTES_READERS)
@given(content=ODD_BYTES)
@settings(max_examples=40)
def test_any_bytes_are_read_or_refused_in_one_line(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    tolerated(lambda: BYTES_READERS[name](path))


def _packed(suffix: str) -> bytes:
    text = "".join(f"Line {n}, and {n * n}.\n\n" for n in range(60))
    if suffix == ".parquet":
        pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table({"text": text.split("\n\n"), "id": range(61)}), sink, row_group_size=20)
        return sink.getvalue().to_pybytes()
    if suffix == ".zst":
        return pytest.importorskip("zstandard").ZstdCompressor(write_checksum=True).compress(text.encode())
    import lzma

    return {".gz": gzip.compress, ".xz": lzma.compress}[suffix](text.encode())


@pytest.mark.parametrize("suffix", [".gz", ".xz", ".zst", ".parquet"])
@given(data=st.data())
@settings(max_examples=80)
def test_a_damaged_packing_gives_its_text_or_one_line(
    tmp_path: Path, suffix: str, data: st.DataObject
) -> None:
    content = bytearray(_packed(suffix))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content))) :]
    path = tmp_path / (f"a.txt{suffix}" if suffix != ".parquet" else "a.parquet")
    path.write_bytes(content)
    told: list[int] = []
    tolerated(lambda: list(read_documents([path], told.append)))
    assert min(told, default=0) >= 0
    assert sum(told) <= len(content)


# ---------------------------------------------------------------------------------- ways out of a folder


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "/etc/passwd", "..", "a/../../b", "model.bin/../../x.bin"]
)
@pytest.mark.parametrize("index", ["model.safetensors.index.json", "pytorch_model.bin.index.json"])
def test_an_index_names_files_of_its_own_folder_alone(tmp_path: Path, index: str, name: str) -> None:
    (tmp_path / index).write_text(json.dumps({"weight_map": {"a": name, "b": "pytorch_model-1.bin"}}))
    assert f"names {name!r}, which is no" in refusal(lambda: read_weights(tmp_path))


def test_no_path_in_the_files_of_a_tokenizer_is_followed(tmp_path: Path, tokenizer) -> None:
    tokenizer.save(tmp_path / "secret.json")
    folder = tmp_path / "folder"
    folder.mkdir()
    named = dict.fromkeys(("tokenizer_file", "vocab_file", "merges_file", "name_or_path"), "../secret.json")
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        (folder / name).write_text(json.dumps(named))
    assert "has no tokenizer.json, no vocab.txt" in refusal(lambda: load_tokenizer(folder))


@pytest.mark.parametrize("name", ["../glove.txt", "/etc/passwd", "..", "a/b"])
def test_the_vectors_of_a_model_lie_beside_it(tmp_path: Path, tokenizer, name: str) -> None:
    folder = made_folder(tmp_path, tokenizer, "bert", foreign=False, lmzoo__model__vectors=name)
    assert f"lmzoo.model.vectors={name} is no plain name" in refusal(lambda: describe(folder))


TASK = "shape: sentence\ntexts: [text]\nlabel: label\ntrain: train.tsv\nsplit: hash\n"


@pytest.mark.parametrize("key", ["train", "valid", "test"])
@pytest.mark.parametrize(
    "name", ["../secret.tsv", "/etc/passwd", "~/secret.tsv", "a/../../b.tsv", "a.tsv + ../b.tsv"]
)
def test_a_task_names_files_under_its_root_alone(tmp_path: Path, key: str, name: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(TASK.replace("train: train.tsv\n", "") + f"train: train.tsv\n{key}: {name}\n"
                    if key != "train" else TASK.replace("train.tsv", name))  # fmt: skip
    assert f"mine.yaml: {key}: " in refusal(lambda: read_config(str(path)))
    assert "leads out of task.root" in refusal(lambda: load_task(str(path), tmp_path))


def test_a_file_outside_is_taken_from_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "inside").mkdir()
    (tmp_path / "mine.tsv").write_text("text\tlabel\n" + "".join(f"s {n}\t{n % 2}\n" for n in range(40)))
    path = tmp_path / "inside" / "mine.yaml"
    path.write_text(TASK)
    assert load_task(str(path), None, train=tmp_path / "inside" / ".." / "mine.tsv").labels == ["0", "1"]


@pytest.mark.parametrize("name", ["../../elsewhere", "/tmp/x", "..", ".", '""', '"a\\0b"', '"a\\nb"', "a/b"])
def test_the_name_of_a_task_is_no_path(tmp_path: Path, name: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(TASK + f"name: {name}\n")
    assert "mine.yaml: name: " in refusal(lambda: read_config(str(path)))


# ---------------------------------------------------------------------------------- checkpoints


class Runs:
    """Runs a function where it is unpickled."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.called = function, arguments

    def __reduce__(self) -> tuple:
        return self.called


def payload(kind: str, trace: Path) -> object:
    code = f"open({str(trace)!r}, 'w')"
    return {
        "system": Runs(os.system, f"touch {trace}"),
        "exec": Runs(exec, code),
        "eval": Runs(eval, code),
        "touch": Runs(Path.touch, trace),
        "partial": functools.partial(os.system, f"touch {trace}"),
        "array of objects": np.array([Runs(Path.touch, trace)], dtype=object),
        "module": torch.nn.Linear(2, 2),
    }[kind]


KINDS = ["system", "exec", "eval", "touch", "partial", "array of objects", "module"]
CHECKPOINT = {"state_dict": {"a": torch.zeros(2)}, "ledger": {"steps": 1}, "lmzoo": {"config": {}}}


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_runs_nothing(tmp_path: Path, kind: str) -> None:
    trace, path = tmp_path / "trace", tmp_path / "last.ckpt"
    for carried in (
        CHECKPOINT | {"evil": payload(kind, trace)},
        CHECKPOINT | {"ledger": [payload(kind, trace)]},
    ):
        torch.save(carried, path)
        assert "carries code" in refusal(lambda: read_checkpoint(path))
        torch.save(carried, path, _use_new_zipfile_serialization=False)
        assert "is damaged" in refusal(lambda: read_checkpoint(path))  # it ends otherwise than a checkpoint
        assert not trace.exists()
    torch.load(path, weights_only=False)
    assert trace.exists() or kind in ("partial", "module")  # it would have


def test_a_run_is_not_resumed_from_a_checkpoint_with_code(tmp_path: Path) -> None:
    trace, folder = tmp_path / "trace", tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    torch.save(CHECKPOINT | {"evil": payload("system", trace)}, folder / "checkpoints" / "last.ckpt")
    config = compose([f"cache_dir={tmp_path / 'cache'}", "logger=none"])
    assert "carries code" in refusal(lambda: train(config, folder, resuming=True))
    assert not trace.exists()


@pytest.mark.parametrize("kind", KINDS)
def test_shards_and_single_files_of_weights_run_nothing(tmp_path: Path, kind: str) -> None:
    trace = tmp_path / "trace"
    torch.save({"a": payload(kind, trace)}, tmp_path / "pytorch_model-1.bin")
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "pytorch_model-1.bin"}}))
    assert "carries code" in refusal(lambda: read_weights(tmp_path))
    (tmp_path / "pytorch_model-1.bin").rename(tmp_path / "pytorch_model.bin")
    assert "carries code" in refusal(lambda: read_weights(tmp_path))
    assert not trace.exists()


def test_code_that_lies_in_a_model_folder_is_not_run(tmp_path: Path, tokenizer) -> None:
    folder = made_folder(tmp_path, tokenizer, "bert", auto_map={"AutoModel": "modeling_evil.Evil"})
    for name in (
        "modeling_evil.py",
        "tokenization_evil.py",
        "__init__.py",
        "conftest.py",
        "sitecustomize.py",
    ):
        (folder / name).write_text(f"open({str(tmp_path / 'trace')!r}, 'w')\n")
    (folder / "tokenizer_config.json").write_text(
        '{"auto_map": {"AutoTokenizer": ["tokenization_evil.Evil", null]}}'
    )
    assert load_exported(folder).description.model.name == "bert_2018"
    assert not (tmp_path / "trace").exists()


def test_a_compressed_archive_of_tensors_is_a_bomb(tmp_path: Path) -> None:
    plain, path = tmp_path / "plain.bin", tmp_path / "pytorch_model.bin"
    torch.save({"a": torch.zeros(2_000_000)}, plain)
    with zipfile.ZipFile(plain) as given, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as taken:
        for name in given.namelist():
            taken.writestr(name, given.read(name))
    assert path.stat().st_size < plain.stat().st_size / 100
    assert "its parts are compressed" in refusal(lambda: read_weights(tmp_path))
    shutil.copy(plain, path)
    assert read_weights(tmp_path)["a"].shape == (2_000_000,)


def test_nothing_in_the_sources_runs_what_it_reads() -> None:
    forbidden_names = {"eval", "exec", "__import__", "compile"}
    forbidden = {
        *("pickle.load", "pickle.loads", "pickle.Unpickler", "marshal.load", "marshal.loads", "shelve.open"),
        *(
            "yaml.unsafe_load",
            "yaml.full_load",
            "yaml.load_all",
            "os.system",
            "os.popen",
            "shutil.unpack_archive",
        ),
        *("tarfile.open", "joblib.load", "hydra.utils.instantiate", "torch.hub.load"),
    }
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            keywords = {entry.arg: ast.unparse(entry.value) for entry in node.keywords}
            wrong = (
                (isinstance(node.func, ast.Name) and called in forbidden_names)
                or called in forbidden
                or called.endswith((".extractall", ".extract"))
                or (called == "torch.load" and keywords.get("weights_only") != "True")
                or (called == "yaml.load" and path.name != "plain_yaml.py")
                or keywords.get("allow_pickle") == "True"
                or keywords.get("shell") == "True"
                or keywords.get("trust_remote_code") == "True"
            )
            if wrong:
                found.append(f"{path.relative_to(SOURCE)}:{node.lineno} {called}")
    assert found == []


# ---------------------------------------------------------------------------------- the published ELMo's files


def elmo_options(**lstm: object) -> dict:
    return {
        "lstm": {"use_skip_connections": True, "projection_dim": 6, "cell_clip": 3, "proj_clip": 3, "dim": 9,
                 "n_layers": 1} | lstm,
        "char_cnn": {"activation": "relu", "filters": [[1, 3]], "n_highway": 0, "embedding": {"dim": 4},
                     "n_characters": 262, "max_characters_per_token": 50},
    }  # fmt: skip


def elmo_folder(folder: Path, options: object, *, kind: str = "f4", filled: bool = True) -> Path:
    """The files of such a model, its data sets of the shapes that the options ask for."""
    h5py = pytest.importorskip("h5py")
    assert isinstance(options, dict)
    width, cells = options["lstm"]["projection_dim"], options["lstm"]["dim"]
    shapes = {"char_embed": (261, 4), "CNN/W_cnn_0": (1, 1, 4, 3), "CNN/b_cnn_0": (3,),
              "CNN_proj/W_proj": (3, width), "CNN_proj/b_proj": (width,)}  # fmt: skip
    for direction in (0, 1):
        at = f"RNN_{direction}/RNN/MultiRNNCell/Cell0/LSTMCell"
        shapes |= {
            f"{at}/W_0": (2 * width, 4 * cells),
            f"{at}/B": (4 * cells,),
            f"{at}/W_P_0": (cells, width),
        }
    folder.mkdir(exist_ok=True)
    (folder / "options.json").write_text(json.dumps(options))
    with h5py.File(folder / "weights.hdf5", "w") as file:
        for name, shape in shapes.items():
            if kind == "object" and name == "char_embed":
                file.create_dataset(name, shape, dtype=h5py.string_dtype())
            else:
                data = np.zeros(shape, np.float32) if filled else None
                file.create_dataset(name, shape, dtype="f4", data=data)
    return folder


def test_numbers_that_are_not_there_take_no_memory(tmp_path: Path) -> None:
    assert load_exported(elmo_folder(tmp_path / "fine", elmo_options())).description.model.name == "elmo_2018"
    folder = elmo_folder(tmp_path / "bomb", elmo_options(dim=2**20, projection_dim=2**18), filled=False)
    assert (folder / "weights.hdf5").stat().st_size < 100_000  # and its numbers would take 13 TB
    assert "its numbers would take more than 100 times its size" in refusal(lambda: load_exported(folder))


def test_objects_in_the_weights_of_elmo_are_refused(tmp_path: Path) -> None:
    folder = elmo_folder(tmp_path / "elmo", elmo_options(), kind="object")
    assert "of no real numbers: char_embed" in refusal(lambda: load_exported(folder))


@pytest.mark.parametrize("key", ["n_layers", "dim", "projection_dim"])
@pytest.mark.parametrize("value", [10**9, 10**30, -1, True, "2", None, [2]])
def test_sizes_that_no_model_has_are_refused_at_once(tmp_path: Path, key: str, value: object) -> None:
    folder = elmo_folder(tmp_path / "elmo", elmo_options())
    (folder / "options.json").write_text(json.dumps(elmo_options(**{key: value})))
    refusal(lambda: load_exported(folder))


@given(data=st.data())
@settings(max_examples=60)
def test_changed_options_are_loaded_or_refused_in_one_line(tmp_path: Path, data: st.DataObject) -> None:
    folder = elmo_folder(tmp_path / "elmo", elmo_options())
    (folder / "options.json").write_text(json.dumps(data.draw(changes(elmo_options()))))
    tolerated(lambda: load_exported(folder))


# ---------------------------------------------------------------------------------- evaluation


ROWS = {
    "tsv": lambda text, number: "text\tlabel\n" * (number == 0) + f"{text}\t{number % 2}\n",
    "jsonl": lambda text, number: json.dumps({"text": text, "label": number % 2}) + "\n",
    "conll": lambda text, number: f"{text}\tO\nword\tB-X\n\n",
    "conllu": lambda text, number: f"# text = {text}\n1\t{text}" + "\t_" * 8 + "\n\n",
}
SHAPES = {
    "tsv": "shape: sentence\ntexts: [text]\nlabel: label\n",
    "jsonl": "shape: sentence\ntexts: [text]\nlabel: label\nformat: jsonl\n",
    "conll": "shape: tagging\nformat: conll\n",
    "conllu": "shape: tagging\nformat: conllu\n",
}


@pytest.mark.parametrize("kind", ROWS)
@given(texts=st.lists(TEXTS, min_size=1, max_size=6))
@settings(max_examples=40)
def test_a_task_of_any_rows_is_read_or_refused_in_one_line(
    tmp_path: Path, kind: str, texts: list[str]
) -> None:
    rows = [*texts, *(f"ordinary {n}" for n in range(30))]
    written = "".join(ROWS[kind](text, number) for number, text in enumerate(rows))
    (tmp_path / f"train.{kind}").write_text(written, newline="")
    path = tmp_path / "mine.yaml"
    path.write_text(SHAPES[kind] + f"train: train.{kind}\nsplit: hash\nsplit_fraction: 0.3\n")
    tolerated(lambda: load_task(str(path), None))


def test_a_zero_byte_and_half_a_pair_are_named_with_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    fine = "".join(ROWS["jsonl"](f"ordinary {n}", n) for n in range(30))
    path.write_text(SHAPES["jsonl"] + "train: train.jsonl\nsplit: hash\nsplit_fraction: 0.3\n")
    (tmp_path / "train.jsonl").write_text(fine + '{"text": "a\0b", "label": 1}\n')
    assert "train.jsonl:31 holds a zero byte" in refusal(lambda: load_task(str(path), None))
    (tmp_path / "train.jsonl").write_text(fine + '{"text": "a", "label": "\\udc00"}\n')
    assert "train.jsonl:31 holds half a surrogate pair" in refusal(lambda: load_task(str(path), None))
    (tmp_path / "train.jsonl").write_text(
        fine + '{"text": "a\\u0000b", "label": 1}\n'
    )  # an escape is a character
    data = load_task(str(path), None)
    assert len(data.train) + len(data.stop) + len(data.scored) == 31


def test_a_row_of_ten_megabytes_is_read(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    long = "word " * 2_000_000
    (tmp_path / "train.tsv").write_text(
        "".join(ROWS["tsv"](text, n) for n, text in enumerate([long, *(f"ordinary {n}" for n in range(30))]))
    )
    path.write_text(SHAPES["tsv"] + "train: train.tsv\nsplit: hash\nsplit_fraction: 0.3\n")
    data = load_task(str(path), None)
    assert max(len(item.texts[0]) for item in [*data.train, *data.stop, *data.scored]) == len(long)  # type: ignore[union-attr]


def test_the_id_of_a_question_is_text(tmp_path: Path) -> None:
    path = tmp_path / "q.squad"
    question = {"id": "\ud800", "question": "Who?", "answers": [{"text": "a", "answer_start": 0}]}
    path.write_text(json.dumps({"data": [{"paragraphs": [{"context": "a", "qas": [question]}]}]}))
    config = TaskConfig(shape="spans", format="squad")
    assert "qas[0].id holds half a surrogate pair" in refusal(lambda: list(read_values(path, config)))


def pair(**changed: object) -> str:
    given = {"UID": "a", "linguistics_term": "b", "sentence_good": "c", "sentence_bad": "d"} | changed
    return json.dumps(given) + "\n"


@given(texts=st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=4))
@settings(max_examples=30)
def test_pairs_of_any_text_are_scored_or_refused_in_one_line(tmp_path: Path, tokenizer, texts) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(pair(sentence_good=good, sentence_bad=bad) for good, bad in texts))
    model = language_model("gpt", "clm", tokenizer)

    def measure() -> None:
        found = minimal_pairs(model, Asked(pairs=path))
        assert all(np.isfinite([item["good"], item["bad"]]).all() for item in found.items)

    tolerated(measure)


def test_half_a_pair_in_a_text_for_a_model_is_refused(tokenizer) -> None:
    reader = language_model("bert", "mlm", tokenizer).engine.reader
    for text in ("a\ud800b", "\udcff"):  # the second is what an argument that is not UTF-8 becomes
        assert "half a surrogate pair" in refusal(lambda text=text: reader.read(["fine", text]))
    assert reader.read(["\0\u202e\U0010ffff"]).ids


def test_a_table_of_published_scores_without_an_end_is_refused(tmp_path: Path, tokenizer) -> None:
    (tmp_path / "pairs.jsonl").write_text(pair())
    (tmp_path / "blimp_reference.tsv").write_text("UID\tGPT\n" + "a" * 200_000 + "\t0.5\n")
    asked = Asked(pairs=tmp_path / "pairs.jsonl")
    assert "blimp_reference.tsv:2 has no UID" in refusal(
        lambda: minimal_pairs(language_model("gpt", "clm", tokenizer), asked)
    )


def test_hostile_pairs_are_named_with_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    for line, said in (
        (
            pair(sentence_bad="d" * 10_000_000),
            ":2: sentence_bad has 10,000,000 characters, and a sentence may have",
        ),
        (pair(sentence_good=HALVES[0]), ":2 holds half a surrogate pair"),
        ('{"a": "\0"}\n', ":2 holds a zero byte"),
        ('{"a":' * 5000 + "\n", ":2 is not JSON"),
        ('{"pairID": ' + "9" * 5000 + "}\n", ":2 is not JSON"),
    ):
        path.write_text(pair() + line)
        assert f"{path}{said}" in refusal(lambda: list(read_pairs(path)))


def test_tables_of_yardsticks_refuse_what_is_no_row(tmp_path: Path) -> None:
    path = tmp_path / "table.tsv"
    path.write_text("word\tindex\n" + "a" * 200_000 + "\t0\n")
    assert "table.tsv:2 cannot be read (field larger than field limit" in refusal(
        lambda: list(read_table(path, ["word"]))
    )
    for index in ("9" * 5000, "-1", "²", ""):
        assert "the sentence has 2 words" in refusal(
            lambda index=index: word_span("two words", index, "t.tsv:2")
        )


def test_weights_with_a_hostile_header_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    write_weights(path, {"a": torch.zeros(4)})
    body = path.read_bytes()
    for header in (
        {"a": {"dtype": "F32", "shape": [2**62], "data_offsets": [0, 16]}},
        {"a": {"dtype": "F32", "shape": [-4], "data_offsets": [0, 16]}},
        {"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 2**60]}},
        {"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}, "b": {"dtype": "F32", "shape": [4],
         "data_offsets": [0, 16]}},
        {"a": {"dtype": "../x", "shape": [4], "data_offsets": [0, 16]}},
        [],
    ):  # fmt: skip
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        path.write_bytes(len(text).to_bytes(8, "little") + text + body[-16:])
        assert "is damaged" in refusal(lambda: read_weights(tmp_path))
    path.write_bytes((2**63).to_bytes(8, "little") + body[8:])
    assert "is damaged" in refusal(lambda: read_weights(tmp_path))
