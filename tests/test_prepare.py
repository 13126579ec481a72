"""From text files to a store: nothing lost, nothing doubled, nothing half-written."""

from __future__ import annotations

import gzip
import io
import json
import lzma
import os
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from corpora import made_documents, read_real, write_text
from lmzoo.data import encoding
from lmzoo.data import prepare as room
from lmzoo.data.config import DataConfig
from lmzoo.data.corpus import Sample
from lmzoo.data.prepare import prepare
from lmzoo.data.store import Store
from lmzoo.errors import LmzooError
from lmzoo.text.config import TokenizerConfig
from preparing import SMALL, same


def texts_of(store: Store, part: str) -> list[str]:
    arrays = store.parts[part]
    bounds = zip(arrays.documents[:-1], arrays.documents[1:], strict=True)
    return [store.tokenizer.decode(arrays.tokens[start:end].tolist()) for start, end in bounds]


def own_text(path: Path, **more: object) -> DataConfig:
    return DataConfig(source="text", train=str(path), **{"valid_fraction": 0.2, **more})  # type: ignore[arg-type]


def test_chinese_and_english_come_back(tmp_path: Path, shared_data: Path) -> None:
    documents = read_real(shared_data / "zh" / "wikipedia_zh.train.txt.gz", 40)
    documents += read_real(shared_data / "pretrain" / "wikipedia.train.txt.gz", 10)
    documents += [
        "他说：“今天下雨。”她问：“真的吗？”真的！[MASK] 不是标记 [CLS]。\n"
        "　全角空格，emoji 👩‍🔬 ok.  Two  spaces."
    ]
    assert any("。" in document for document in documents)
    text = write_text(tmp_path / "a.txt", documents)
    store = prepare(own_text(text), TokenizerConfig(vocab_size=2000), tmp_path / "cache")
    train, valid = texts_of(store, "train"), texts_of(store, "valid")
    assert train
    assert valid
    assert sorted(train + valid) == sorted(documents)
    assert store.text_bytes == {
        "train": sum(len(text.encode()) for text in train),
        "valid": sum(len(text.encode()) for text in valid),
    }
    special = store.tokenizer.special
    for part in store.parts.values():
        assert (part.tokens[part.documents[:-1]] == special.cls).all()
        assert (part.tokens[part.documents[1:] - 1] == special.sep).all()
        assert part.unigrams[[special.pad, special.unk, special.mask]].sum() == 0
        assert part.unigrams[special.cls] == part.unigrams[special.sep] == part.num_documents
        assert part.unigrams.sum() == part.num_tokens
        assert np.array_equal(part.unigrams, np.bincount(part.tokens, minlength=2000))


def test_chinese_sentences_start_where_they_should(tmp_path: Path) -> None:
    text = write_text(tmp_path / "a.txt", ["你好。今天下雨！真的吗？是的；走吧。", *made_documents(30)])
    store = prepare(own_text(text), SMALL, tmp_path / "cache")
    found = []
    for part in store.parts.values():
        for i in range(part.num_documents):
            starts, ends = part.sentence_bounds(i)
            found.append(
                [store.tokenizer.decode(part.tokens[s:e].tolist()) for s, e in zip(starts, ends, strict=True)]
            )
    assert ["你好。", "今天下雨！", "真的吗？", "是的；", "走吧。"] in found


def test_every_kind_of_file_gives_the_same_store(tmp_path: Path) -> None:
    documents = made_documents(40)
    plain = "\n\n".join(documents) + "\n"
    lines = "".join(json.dumps({"text": text, "id": i}) + "\n" for i, text in enumerate(documents))
    written = {
        "a.txt": plain.encode(),
        "b.txt.gz": gzip.compress(plain.encode()),
        "c.txt.xz": lzma.compress(plain.encode()),
        "d.jsonl": lines.encode(),
        "e.jsonl.gz": gzip.compress(lines.encode()),
        "f.txt": b"\xef\xbb\xbf" + plain.replace("\n", "\r\n").encode(),
        "g.txt.zst": packed(plain.encode()),
        "h.jsonl.zst": packed(lines.encode()),
        "i.parquet": as_parquet(documents),
        "j.parquet": as_parquet(documents, row_group_size=3, compression="zstd", use_dictionary=False),
    }
    stores = []
    for name, content in written.items():
        (tmp_path / name).write_bytes(content)
        stores.append(prepare(own_text(tmp_path / name), SMALL, tmp_path / "cache"))
    assert len({store.hash for store in stores}) == len(written)
    assert all(same(stores[0], store) for store in stores[1:])


def packed(content: bytes) -> bytes:
    return pytest.importorskip("zstandard").ZstdCompressor().compress(content)


def as_parquet(documents: list[str], **settings: object) -> bytes:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    buffer = io.BytesIO()
    pq.write_table(pa.table({"id": list(range(len(documents))), "text": documents}), buffer, **settings)
    return buffer.getvalue()


def test_texts_of_another_column(tmp_path: Path) -> None:
    documents = made_documents(40)
    rows = [{"text": "not this", "body": text} for text in documents]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    store = prepare(own_text(tmp_path / "a.jsonl", column="body"), SMALL, tmp_path / "cache")
    (tmp_path / "b.txt").write_text("\n\n".join(documents))
    assert same(store, prepare(own_text(tmp_path / "b.txt"), SMALL, tmp_path / "cache"))


def test_what_made_a_store_is_described_as_ever(tmp_path: Path) -> None:
    """A new setting must not give another name to stores that it does not change."""
    text = write_text(tmp_path / "a.txt", made_documents(40))
    store = prepare(own_text(text), SMALL, tmp_path / "cache")
    stat = text.stat()
    assert json.loads((store.folder / "store.json").read_text())["made_from"] == {
        "format": 2,
        "text_version": 2,
        "corpus": {
            "name": "text",
            "sentences": "split",
            "train": [[str(text), stat.st_size, stat.st_mtime_ns]],
            "valid_fraction": 0.2,
            "split_seed": 0,
        },
        "tokenizer": {
            "name": "bpe",
            "vocab_size": 300,
            "lowercase": False,
            "file": None,
            "sample_megabytes": 32,
        },
    }


def test_the_split_hangs_on_each_text_alone(tmp_path: Path) -> None:
    documents = made_documents(60)
    forward = prepare(own_text(write_text(tmp_path / "a.txt", documents)), SMALL, tmp_path / "cache")
    backward = prepare(own_text(write_text(tmp_path / "b.txt", documents[::-1])), SMALL, tmp_path / "cache")
    assert texts_of(forward, "valid") == texts_of(backward, "valid")[::-1]
    # the sample for the tokenizer does not hang on the order either
    assert forward.tokenizer.fingerprint() == backward.tokenizer.fingerprint()
    fewer = prepare(own_text(write_text(tmp_path / "c.txt", documents[:50])), SMALL, tmp_path / "cache")
    assert set(texts_of(fewer, "valid")) <= set(texts_of(forward, "valid"))
    other = prepare(own_text(tmp_path / "a.txt", split_seed=1), SMALL, tmp_path / "cache")
    assert set(texts_of(other, "valid")) != set(texts_of(forward, "valid"))
    twice = prepare(
        own_text(write_text(tmp_path / "d.txt", documents + documents)), SMALL, tmp_path / "cache"
    )
    assert not set(texts_of(twice, "valid")) & set(texts_of(twice, "train"))


def test_given_validation_and_test_text_hold_nothing_out(tmp_path: Path) -> None:
    documents = made_documents(40)
    for name, some in {"train": documents[:30], "valid": documents[30:34], "test": documents[34:]}.items():
        write_text(tmp_path / f"{name}.txt", some)
    data = own_text(tmp_path / "tra*.txt", valid=[tmp_path / "valid.txt"], test=str(tmp_path / "test.txt"))
    store = prepare(data, SMALL, tmp_path / "cache")
    assert list(store.parts) == ["train", "valid", "test"]
    assert texts_of(store, "train") == documents[:30]
    assert texts_of(store, "valid") == documents[30:34]
    assert texts_of(store, "test") == documents[34:]


def test_sentences_by_lines(tmp_path: Path) -> None:
    documents = ["One. Two! Three?\nFour", *made_documents(20)]
    text = write_text(tmp_path / "a.txt", documents)
    counts = {}
    for how in ("lines", "split"):
        parts = prepare(own_text(text, sentences=how), SMALL, tmp_path / "cache").parts.values()
        counts[how] = sum(len(part.sentences) for part in parts)
    assert counts == {"lines": 2 + 20 * 6, "split": 4 + 20 * 6}


def test_batches_leave_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = own_text(write_text(tmp_path / "a.txt", made_documents(40)))
    whole = prepare(data, SMALL, tmp_path / "one")
    monkeypatch.setattr(encoding, "BATCH_CHARACTERS", 100)
    assert same(whole, prepare(data, SMALL, tmp_path / "two"))


def test_a_second_run_finds_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = write_text(tmp_path / "a.txt", made_documents(40))
    first = prepare(own_text(text), SMALL, tmp_path / "cache")
    monkeypatch.setattr(room._Wanted, "build", None)
    second = prepare(own_text(text, view="pairs", short_pairs=0.5), SMALL, tmp_path / "cache")
    assert second.hash == first.hash


@pytest.mark.parametrize(
    "change",
    [
        {"valid_fraction": 0.3},
        {"split_seed": 1},
        {"sentences": "lines"},
        {"valid": "a.txt"},
        {"vocab_size": 310},
        {"touch": True},
    ],
    ids=lambda change: next(iter(change)),
)
def test_whatever_changes_the_store_changes_its_hash(tmp_path: Path, change: dict, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = write_text(tmp_path / "a.txt", made_documents(40))
    first = prepare(own_text(text), SMALL, tmp_path / "cache")
    pieces = TokenizerConfig(vocab_size=change.pop("vocab_size", 300))
    if change.pop("touch", False):
        os.utime(text, (1, 1))
    assert prepare(own_text(text, **change), pieces, tmp_path / "cache").hash != first.hash


def test_a_tokenizer_from_a_file(tmp_path: Path) -> None:
    data = own_text(write_text(tmp_path / "a.txt", made_documents(40)))
    trained = prepare(data, SMALL, tmp_path / "cache")
    loaded = prepare(data, TokenizerConfig(file=str(trained.folder / "tokenizer.json")), tmp_path / "cache")
    assert loaded.hash != trained.hash
    assert same(loaded, trained)


def test_the_embedded_corpus(tmp_path: Path) -> None:
    store = prepare(DataConfig(), TokenizerConfig(vocab_size=4096), tmp_path)
    assert store.parts["train"].num_documents > 200
    assert 0.01 < store.text_bytes["valid"] / sum(store.text_bytes.values()) < 0.15
    assert 4 < store.unigram_entropy() < np.log(4096)


class TestSample:
    def ranked(self, texts: list[str], max_bytes: int, seed: int) -> list[str]:
        sample = Sample(max_bytes)
        for i in np.random.default_rng(seed).permutation(len(texts)):
            sample.add(texts[i])
        return list(sample.texts())

    def test_no_order_biases_it(self) -> None:
        texts = [f"{i} " + "x" * (i % 50) ** 2 for i in range(300)]
        ranked = self.ranked(texts, 20_000, seed=0)
        assert all(self.ranked(texts, 20_000, seed) == ranked for seed in range(1, 20))
        assert 15_000 < sum(map(len, ranked)) <= 20_000
        everything = self.ranked(texts, 10**9, seed=0)
        assert sorted(everything) == sorted(texts)
        assert everything[: len(ranked)] == ranked

    def test_of_a_long_document_the_beginning_counts(self) -> None:
        sample = Sample(10)
        sample.add("汉" * 100)
        assert list(sample.texts()) == ["汉" * 3]


@pytest.mark.parametrize(
    "where",
    [
        *("lmzoo.data.sampling.train_tokenizer", "lmzoo.data.building.encode"),
        *("lmzoo.data.building.write_manifest", "lmzoo.data.index.write_manifest", "lmzoo.data.index.sync"),
    ],
)
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_nothing_half_written_stays_behind(tmp_path: Path, monkeypatch, where: str, error) -> None:
    def fail(*args: object) -> None:
        raise error

    text = write_text(tmp_path / "a.txt", made_documents(40))
    with monkeypatch.context() as patched:
        patched.setattr(where, fail)
        with pytest.raises((KeyboardInterrupt, LmzooError)) as caught:
            prepare(own_text(text), SMALL, tmp_path / "cache")
    if isinstance(error, OSError):
        assert "No space left on device" in str(caught.value)
    stores = tmp_path / "cache" / "stores"
    assert all(path.suffix in (".locks", ".building") for path in stores.iterdir())
    assert not list(stores.glob("*.building/shards/*.*"))
    prepare(own_text(text), SMALL, tmp_path / "cache")
    assert sorted(path.suffix for path in stores.iterdir()) == ["", ".locks"]


@pytest.mark.parametrize("where", ["lmzoo.data.sampling.train_tokenizer", "lmzoo.data.building.encode"])
def test_text_that_changes_while_it_is_read(tmp_path: Path, monkeypatch, where: str) -> None:
    text = write_text(tmp_path / "a.txt", made_documents(40))
    module_name, _, name = where.rpartition(".")
    plain = getattr(import_module(module_name), name)

    def change(*args):
        text.write_text(text.read_text() + "\nOne more line.\n")
        return plain(*args)

    monkeypatch.setattr(where, change)
    with pytest.raises(LmzooError, match="changed while it was read"):
        prepare(own_text(text), SMALL, tmp_path / "cache")
    assert [path.suffix for path in (tmp_path / "cache" / "stores").iterdir()] == [".locks"]


BAD = {
    "nothing given": ({"train": None}, SMALL, r"data=text needs data\.train"),
    "missing file": ({"train": "nowhere.txt"}, SMALL, r"data\.train=nowhere\.txt"),
    "missing valid": ({"valid": "nowhere.txt"}, SMALL, r"data\.valid=nowhere\.txt"),
    "missing test": ({"test": "nowhere.txt"}, SMALL, r"data\.test=nowhere\.txt"),
    "no match": ({"train": "*.jsonl"}, SMALL, r"data\.train=\*\.jsonl"),
    "empty file": ({"train": "empty.txt"}, SMALL, r"empty\.txt"),
    "blank file": ({"train": "blank.txt"}, SMALL, r"blank\.txt"),
    "not UTF-8": ({"train": "latin.txt"}, SMALL, r"latin\.txt:3"),
    "bad JSON": ({"train": "bad.jsonl.gz"}, SMALL, r"bad\.jsonl\.gz:2"),
    "damaged gz": ({"train": "cut.txt.gz"}, SMALL, r"cut\.txt\.gz"),
    "cut zst": ({"train": "cut.txt.zst"}, SMALL, r"cut\.txt\.zst is damaged"),
    "not a parquet": ({"train": "no.parquet"}, SMALL, r"no\.parquet is no Parquet file"),
    "zero byte": ({"train": "zero.txt"}, SMALL, r"zero\.txt:2 holds a zero byte"),
    "name for files": ({"name": "owner/texts"}, SMALL, r"data\.name=owner/texts goes with data=hub"),
    "subset for files": ({"subset": "a"}, SMALL, r"data\.subset=a goes with data=hub"),
    "column for stdlib": (
        {"source": "stdlib", "train": None, "column": "a"},
        SMALL,
        r"data\.column=a goes with data=text",
    ),
    "unknown corpus": ({"source": "wiki"}, SMALL, r"data\.source=wiki"),
    "unknown sentences": ({"sentences": "words"}, SMALL, r"data\.sentences=words"),
    "stdlib with files": (
        {"source": "stdlib"},
        SMALL,
        r"data\.train=a\.txt does not go with data=stdlib.*goes with data=text",
    ),
    "fraction 0": ({"valid_fraction": 0.0}, SMALL, r"data\.valid_fraction=0\.0"),
    "fraction 1": ({"valid_fraction": 1.0}, SMALL, r"data\.valid_fraction=1\.0"),
    "nothing held out": (
        {"valid_fraction": 1e-9},
        SMALL,
        r"no document is left for validation.*0 of 40.*raise",
    ),
    "all held out": (
        {"valid_fraction": 1 - 1e-9},
        SMALL,
        r"no document is left for training.*40 of 40.*lower",
    ),
    "large vocabulary": ({}, TokenizerConfig(vocab_size=50_000), r"tokenizer\.vocab_size"),
    "unknown tokenizer": ({}, TokenizerConfig(name="words"), r"tokenizer"),
    "no tokenizer file": ({}, TokenizerConfig(file="no.json"), r"no\.json"),
    "not a tokenizer": ({}, TokenizerConfig(file="a.txt"), r"a\.txt"),
    "no sample": ({}, TokenizerConfig(sample_megabytes=0), r"tokenizer\.sample_megabytes=0"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_clear_line_and_leaves_nothing(tmp_path: Path, monkeypatch, case: str) -> None:
    monkeypatch.chdir(tmp_path)
    write_text(tmp_path / "a.txt", made_documents(40))
    (tmp_path / "empty.txt").write_bytes(b"")
    (tmp_path / "blank.txt").write_bytes(b"\n \n\n")
    (tmp_path / "latin.txt").write_bytes(b"one\ntwo\ncaf\xe9\n")
    with gzip.open(tmp_path / "bad.jsonl.gz", "wt") as file:
        file.write('{"text": "good"}\n{"text": \n')
    (tmp_path / "cut.txt.gz").write_bytes(gzip.compress(os.urandom(1000).hex().encode())[:-300])
    (tmp_path / "cut.txt.zst").write_bytes(packed(os.urandom(1000).hex().encode())[:-300])
    (tmp_path / "no.parquet").write_bytes(b"PAR1 and then nothing")
    (tmp_path / "zero.txt").write_bytes(b"one\ntw\0o\n")
    given, pieces, words = BAD[case]
    data = DataConfig(**{"source": "text", "train": "a.txt", "valid_fraction": 0.2, **given})
    with pytest.raises(LmzooError, match=words) as caught:
        prepare(data, pieces, tmp_path / "cache")
    assert "\n" not in str(caught.value)
    stores = tmp_path / "cache" / "stores"
    assert not stores.exists() or all(path.suffix == ".locks" for path in stores.iterdir())


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    text = write_text(tmp_path / "a.txt", made_documents(40))
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(LmzooError, match="cannot be prepared in"):
        prepare(own_text(text), SMALL, tmp_path / "cache")


def test_the_default_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LMZOO_CACHE", str(tmp_path))
    assert room.default_cache_dir() == tmp_path
    monkeypatch.delenv("LMZOO_CACHE")
    assert room.default_cache_dir().name == "lmzoo"
