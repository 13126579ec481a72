"""`data=hub`: Hugging Face data sets streamed into the same store as files, and what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from corpora import made_documents, write_text
from fake_hub import NAME, Hub, serving
from lmzoo.config import compose, from_dict, to_dict
from lmzoo.data.config import DataConfig
from lmzoo.data.corpus import Corpus
from lmzoo.data.prepare import prepare
from lmzoo.data.store import Store
from lmzoo.errors import LmzooError
from lmzoo.text import hub as room
from lmzoo.text.config import TokenizerConfig

datasets = pytest.importorskip("datasets")

SMALL = TokenizerConfig(vocab_size=300)
DOCUMENTS = [*made_documents(38), "你好。今天下雨！\n\n真的吗？", "naïve café 🙂"]
ARRAYS = ("tokens", "documents", "sentences", "document_sentences", "unigrams")


@pytest.fixture(autouse=True)
def _apart_and_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def as_rows(documents: list[str], column: str = "text") -> list[dict[str, Any]]:
    return [{"id": number, column: text} for number, text in enumerate(documents)]


def jsonl_folder(folder: Path, **splits: list[str]) -> Path:
    for split, documents in splits.items():
        write_rows(folder / f"{split}.jsonl", as_rows(documents))
    return folder


def parquet_folder(folder: Path, column: str = "text", files: int = 2, **splits: list[str]) -> Path:
    """As the hub has it, several files a split."""
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    (folder / "data").mkdir(parents=True)
    for split, documents in splits.items():
        for number, some in enumerate(np.array_split(np.array(documents, dtype=object), files)):
            table = pa.table({"label": list(range(len(some))), column: some.tolist()})
            pq.write_table(table, folder / "data" / f"{split}-{number:05d}-of-{files:05d}.parquet")
    return folder


def hub_data(folder: Path | str, **more: Any) -> DataConfig:
    return DataConfig(source="hub", name=str(folder), **{"valid_fraction": 0.2, **more})


def same(one: Store, other: Store) -> bool:
    if one.parts.keys() != other.parts.keys() or one.text_bytes != other.text_bytes:
        return False
    return all(
        np.array_equal(getattr(one.parts[part], array), getattr(other.parts[part], array))
        for part in one.parts
        for array in ARRAYS
    )


def from_files(tmp_path: Path, **parts: list[str]) -> Store:
    """The store that the same texts give as files."""
    given = {}
    for part, documents in parts.items():
        given[part] = str(tmp_path / f"{part}_again.jsonl")
        write_rows(Path(given[part]), as_rows(documents))
    return prepare(DataConfig(source="text", valid_fraction=0.2, **given), SMALL, tmp_path / "cache")


@pytest.mark.parametrize("make", [jsonl_folder, parquet_folder])
def test_the_store_is_that_of_the_same_files(tmp_path: Path, make) -> None:
    folder = make(tmp_path / "set", train=DOCUMENTS)
    store = prepare(hub_data(folder), SMALL, tmp_path / "cache")
    assert same(store, from_files(tmp_path, train=DOCUMENTS))
    assert store.parts["valid"].num_documents > 0


@pytest.mark.parametrize("make", [jsonl_folder, parquet_folder])
@pytest.mark.parametrize("split", ["validation", "valid", "dev"])
def test_its_own_validation_split_is_taken(tmp_path: Path, make, split: str) -> None:
    train, valid, test = DOCUMENTS[:20], DOCUMENTS[20:30], DOCUMENTS[30:]
    folder = make(tmp_path / "set", **{"train": train, split: valid, "test": test})
    store = prepare(hub_data(folder), SMALL, tmp_path / "cache")
    assert same(store, from_files(tmp_path, train=train, valid=valid))
    tested = prepare(hub_data(folder, test="test"), SMALL, tmp_path / "cache")
    assert same(tested, from_files(tmp_path, train=train, valid=valid, test=test))


def test_splits_by_name(tmp_path: Path) -> None:
    a, b, c = DOCUMENTS[:15], DOCUMENTS[15:30], DOCUMENTS[30:]
    folder = parquet_folder(tmp_path / "set", train=a, extra=b, validation=c)
    store = prepare(hub_data(folder, train=["train", "extra"]), SMALL, tmp_path / "cache")
    assert same(store, from_files(tmp_path, train=a + b, valid=c))
    # where validation is trained on, it is not taken for validation
    store = prepare(hub_data(folder, train=["train", "validation"]), SMALL, tmp_path / "cache")
    assert same(store, from_files(tmp_path, train=a + c))
    store = prepare(hub_data(folder, train="extra", valid="train"), SMALL, tmp_path / "cache")
    assert same(store, from_files(tmp_path, train=b, valid=a))


def test_another_column_and_another_subset(tmp_path: Path) -> None:
    folder = parquet_folder(tmp_path / "set", column="body", train=DOCUMENTS)
    store = prepare(hub_data(folder, column="body"), SMALL, tmp_path / "cache")
    assert same(store, from_files(tmp_path, train=DOCUMENTS))
    folder = tmp_path / "several"
    write_rows(folder / "one.jsonl", as_rows(made_documents(5)))
    write_rows(folder / "two.jsonl", as_rows(DOCUMENTS))
    configs = "".join(f"- config_name: {name}\n  data_files: {name}.jsonl\n" for name in ("one", "two"))
    (folder / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    store = prepare(hub_data(folder, subset="two"), SMALL, tmp_path / "cache")
    assert same(store, from_files(tmp_path, train=DOCUMENTS))
    with pytest.raises(LmzooError, match=r"Config name is missing.*'one', 'two'"):
        prepare(hub_data(folder), SMALL, tmp_path / "cache")
    with pytest.raises(LmzooError, match=r"'three' not found. Available: .*'one', 'two'"):
        prepare(hub_data(folder, subset="three"), SMALL, tmp_path / "cache")


def test_plain_text_has_a_document_a_line(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    lines = [document.replace("\n", " ") for document in DOCUMENTS]
    (tmp_path / "set" / "train.txt").write_text("\n".join(lines), encoding="utf-8")
    store = prepare(hub_data(tmp_path / "set"), SMALL, tmp_path / "cache")
    assert same(store, from_files(tmp_path, train=[line for line in lines if line]))


def test_a_second_run_finds_the_store_and_a_changed_data_set_does_not(tmp_path: Path) -> None:
    folder = jsonl_folder(tmp_path / "set", train=DOCUMENTS, test=DOCUMENTS[:3])
    first = prepare(hub_data(folder), SMALL, tmp_path / "cache")
    assert prepare(hub_data(folder), SMALL, tmp_path / "cache").hash == first.hash
    write_rows(folder / "test.jsonl", as_rows(DOCUMENTS[:4]))  # not read, so it does not matter
    assert prepare(hub_data(folder), SMALL, tmp_path / "cache").hash == first.hash
    os.utime(folder / "train.jsonl", (1, 1))
    touched = prepare(hub_data(folder), SMALL, tmp_path / "cache")
    assert touched.hash != first.hash
    assert same(touched, first)
    write_rows(folder / "train.jsonl", as_rows(DOCUMENTS[::-1]))
    assert not same(prepare(hub_data(folder), SMALL, tmp_path / "cache"), first)
    # a split in a second file counts too
    write_rows(folder / "train-2.jsonl", as_rows(made_documents(3, seed=9)))
    more = prepare(hub_data(folder), SMALL, tmp_path / "cache")
    assert more.parts["train"].num_documents + more.parts["valid"].num_documents == len(DOCUMENTS) + 3


def test_what_the_store_was_made_from(tmp_path: Path) -> None:
    folder = jsonl_folder(tmp_path / "set", train=DOCUMENTS, validation=DOCUMENTS[:3])
    store = prepare(hub_data(folder), SMALL, tmp_path / "cache")
    described = json.loads((store.folder / "store.json").read_text())["made_from"]["corpus"]
    files = {}
    for part, name in {"train": "train", "valid": "validation"}.items():
        stat = (folder / f"{name}.jsonl").stat()
        files[part] = [[str(folder / f"{name}.jsonl"), stat.st_size, stat.st_mtime_ns]]
    assert described == {
        "name": "hub",
        "dataset": str(folder),
        "subset": None,
        "revision": None,
        "column": "text",
        "splits": {"train": ["train"], "valid": ["validation"]},
        "files": files,
        "sentences": "split",
    }


def test_a_data_set_that_changes_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lmzoo.data import building

    folder = jsonl_folder(tmp_path / "set", train=DOCUMENTS)
    plain = building.encode

    def change(*args):
        write_rows(folder / "train.jsonl", as_rows(DOCUMENTS[1:]))
        return plain(*args)

    monkeypatch.setattr(building, "encode", change)
    with pytest.raises(LmzooError, match="changed while it was read"):
        prepare(hub_data(folder), SMALL, tmp_path / "cache")


def test_a_relative_folder_becomes_absolute_and_a_name_stays(tmp_path: Path, monkeypatch) -> None:
    jsonl_folder(tmp_path / "set", train=DOCUMENTS)
    monkeypatch.chdir(tmp_path)
    given = ["data=hub", "data.train=train", "data.valid_fraction=0.2"]
    config = compose([*given, "data.name=set"])
    assert (config.data.name, config.data.train) == (str(tmp_path / "set"), "train")
    assert from_dict(to_dict(config)) == config
    assert compose([*given, "data.name=owner/texts"]).data.name == "owner/texts"
    monkeypatch.chdir("/")
    store = prepare(config.data, SMALL, tmp_path / "cache")
    assert same(store, from_files(tmp_path, train=DOCUMENTS))


def test_progress_is_told_in_rows(tmp_path: Path) -> None:
    documents = made_documents(250, sentences=1)
    folder = jsonl_folder(tmp_path / "set", train=documents)
    told: list[int] = []
    corpus = Corpus(hub_data(folder))
    assert sum(1 for _ in corpus.read(told.append)) == 250
    assert told == [100, 100, 50]
    assert corpus.total is None  # a folder does not say how many rows it has
    info = "dataset_info:\n  features:\n  - name: id\n    dtype: int64\n  - name: text\n    dtype: string\n"
    (folder / "README.md").write_text(f"---\n{info}  splits:\n  - name: train\n    num_examples: 250\n---\n")
    assert Corpus(hub_data(folder)).total == 250


def _rows(*rows: Any) -> Any:
    def make(folder: Path) -> dict[str, Any]:
        write_rows(folder / "train.jsonl", [*as_rows(DOCUMENTS), *rows])
        return {}

    return make


def _named(path: str) -> Any:
    def make(folder: Path) -> dict[str, Any]:
        write_rows(folder.parent / "secret.jsonl", as_rows(["a secret"]))
        where = path.format(parent=folder.parent)
        readme = f"---\nconfigs:\n- config_name: default\n  data_files: {where}\n---\n"
        (folder / "README.md").write_text(readme)
        return {}

    return make


def _script(folder: Path) -> dict[str, Any]:
    (folder / "train.jsonl").unlink()
    (folder / f"{folder.name}.py").write_text(f"open({str(folder / 'ran')!r}, 'w')")
    return {}


def _pictures(folder: Path) -> dict[str, Any]:
    (folder / "train.jsonl").unlink()
    (folder / "a.png").write_bytes(b"")
    return {}


def _cut(folder: Path) -> dict[str, Any]:
    content = (folder / "train.jsonl").read_bytes()
    (folder / "train.jsonl").write_bytes(content[:-20])
    return {}


def _blank(folder: Path) -> dict[str, Any]:
    write_rows(folder / "train.jsonl", as_rows([" ", "\n"]))
    return {}


BAD = {
    "no such data set": (
        lambda folder: {"name": "owner/nowhere"},
        "data.name=owner/nowhere cannot be",
    ),
    "no such split": (lambda folder: {"train": "trian"}, r"data.train=trian is no split .*one of: train$"),
    "no such test": (
        lambda folder: {"test": "test"},
        r"data.test=test is no split of .*set; choose one of:",
    ),
    "part of a split": (lambda folder: {"train": "train[:10%]"}, r"data.train=train\[:10%\] is no split"),
    "no split at all": (lambda folder: {"train": []}, "data=hub takes the name of a split, or a list"),
    "split of another type": (lambda folder: {"valid": 3}, "data=hub takes the name of a split, or a list"),
    "no such column": (lambda folder: {"column": "body"}, r"\(train\) has no column 'body'; .*are id, text:"),
    "no text": (_rows({"id": 1, "text": None}), r"\(train\): row 41 has nothing instead of text in .*'text'"),
    "a column left out": (_rows({"id": 1}), r"\(train\): row 41 has nothing instead of text"),
    "a list": (lambda folder: {"column": "id"}, r"\(train\): row 1 has a value of type int instead of text"),
    "blank": (_blank, r"\(train\) holds no text"),
    "cut off": (_cut, r"\(train\) cannot be read|cannot be opened"),
    "revision of a folder": (
        lambda folder: {"revision": "v1"},
        "data.revision=v1 goes with a name on",
    ),
    "file beside it": (_named("../secret.jsonl"), "names a file outside itself: .*secret.jsonl"),
    "file anywhere": (_named("{parent}/secret.jsonl"), "names a file outside itself: .*secret.jsonl"),
    "code": (_script, "cannot be opened .*scripts are no longer supported"),
    "pictures": (_pictures, "is a data set of kind imagefolder; one of text"),
    "no name": (lambda folder: {"name": None}, "data=hub needs data.name="),
    "another source": (
        lambda folder: {"source": "text", "train": "a.txt"},
        "data.name=.* goes with data=hub",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_refused_is_one_line(tmp_path: Path, case: str) -> None:
    folder = jsonl_folder(tmp_path / "set", train=DOCUMENTS)
    make, words = BAD[case]
    data = hub_data(folder)
    for key, value in make(folder).items():
        setattr(data, key, value)
    with pytest.raises(LmzooError, match=words) as caught:
        prepare(data, SMALL, tmp_path)
    assert "\n" not in str(caught.value)
    assert not (folder / "ran").exists()
    assert not list(tmp_path.glob("stores/*.building"))


def test_without_the_extra_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(LmzooError, match=r"data=hub needs the extra hub: pip install 'lmzoo\[hub\]'"):
        prepare(hub_data(tmp_path), SMALL, tmp_path / "cache")


def test_a_version_that_runs_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "__version__", "3.6.0")
    with pytest.raises(LmzooError, match=r"data=hub needs datasets 4 or newer, and 3.6.0 is installed"):
        prepare(hub_data(tmp_path), SMALL, tmp_path / "cache")


def test_the_files_of_a_data_set_on_the_hub_must_be_its_own() -> None:
    class Builder:
        base_path = "https://hub/datasets/owner/texts/resolve/abc"
        repo_id = "owner/texts"

        def __init__(self, *addresses: str) -> None:
            self.config = type("Config", (), {"data_files": {"train": list(addresses)}})

    Builder.__module__ = "datasets.packaged_modules.json.json"
    text = room.HubText.__new__(room.HubText)
    text.name = "texts"
    own = "hf://datasets/owner/texts@abc/train.jsonl"
    text._builder = Builder(own)
    text._refuse_others()
    assert text.files(["train"]) == [[own]]
    for other in (
        "hf://datasets/owner/others@abc/a.jsonl",
        "https://elsewhere/a.jsonl",
        "/etc/passwd",
        "hf://datasets/owner/texts@abc/../../others@abc/a.jsonl",
    ):
        text._builder = Builder(own, other)
        with pytest.raises(LmzooError, match="names a file outside itself"):
            text._refuse_others()
    Builder.__module__ = "datasets.packaged_modules.webdataset.webdataset"
    with pytest.raises(LmzooError, match="is a data set of kind webdataset"):
        text._refuse_others()


def test_it_is_streamed_as_text_is(tmp_path: Path) -> None:
    """A .txt file and a data set of the same documents are one store, sentence by sentence."""
    documents = made_documents(40)
    text = write_text(tmp_path / "a.txt", documents)
    plain = prepare(DataConfig(source="text", train=str(text), valid_fraction=0.2), SMALL, tmp_path / "cache")
    folder = parquet_folder(tmp_path / "set", train=documents)
    assert same(prepare(hub_data(folder), SMALL, tmp_path / "cache"), plain)


PREPARE = """
import json, sys
from pathlib import Path
from lmzoo.data.config import DataConfig
from lmzoo.data.prepare import prepare
from lmzoo.errors import LmzooError
from lmzoo.text.config import TokenizerConfig
name, revision, cache = sys.argv[1:]
data = DataConfig(source="hub", name=name, revision=revision or None, valid_fraction=0.2)
try:
    store = prepare(data, TokenizerConfig(vocab_size=300), Path(cache))
    print(json.dumps([str(store.folder), store.text_bytes]))
except LmzooError as error:
    sys.exit(str(error))
"""


def test_a_data_set_on_the_hub_is_kept_to_its_commit(tmp_path: Path) -> None:
    """Against a server on this machine, in processes of their own, which know no other hub."""

    def content(documents: list[str]) -> bytes:
        return "".join(json.dumps(row) + "\n" for row in as_rows(documents)).encode()

    def prepared(name: str, revision: str = "") -> tuple[Path, int]:
        done = subprocess.run(
            [sys.executable, "-c", PREPARE, name, revision, str(tmp_path / "cache")],
            env=os.environ | {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "0"},
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise LmzooError(done.stderr.splitlines()[-1])
        folder, text_bytes = json.loads(done.stdout)
        return Path(folder), sum(text_bytes.values())

    hub = Hub()
    first = hub.commit({"README.md": b"# texts\n", "train.jsonl": content(DOCUMENTS)})
    with serving(hub) as address:
        old, size = prepared(NAME)
        assert size == sum(len(document.encode()) for document in DOCUMENTS)
        described = json.loads((old / "store.json").read_text())["made_from"]["corpus"]
        assert described["files"] == {"train": [[f"hf://datasets/{NAME}@{first}/train.jsonl"]]}
        assert any(f"resolve/{first}/train.jsonl" in path for path in hub.asked)
        second = hub.commit({"README.md": b"# texts\n", "train.jsonl": content(DOCUMENTS[:30])})
        new, size = prepared(NAME)
        assert size == sum(len(document.encode()) for document in DOCUMENTS[:30])
        assert new != old
        assert second in (new / "store.json").read_text()
        _, size = prepared(NAME, first)
        assert size == sum(len(document.encode()) for document in DOCUMENTS)
        with pytest.raises(LmzooError, match=r"data.name=owner/nowhere cannot be opened .*doesn't exist on"):
            prepared("owner/nowhere")
