"""Files of weights: a checksum, shards, no code, no way out of the folder, and tensors that must fit."""

from __future__ import annotations

import json
import os
import pickle
import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from builders import SMALL
from lmzoo.errors import LmzooError
from lmzoo.hub import files
from lmzoo.hub.files import read_safetensors, read_weights, write_weights
from lmzoo.hub.folder import export_model, load_exported
from lmzoo.hub.headers import tensor_names
from lmzoo.modules import MODULES
from lmzoo.nn.sizes import complete

TENSORS = {
    "b.half": torch.randn(3, 2).bfloat16(),
    "a": torch.randn(4, 5),
    "whole": torch.arange(3),
    "truth": torch.tensor([True, False]),
    "scalar": torch.tensor(2.5),
    "slanted": torch.randn(3, 4).t(),
}


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(
        one[n].dtype == other[n].dtype and torch.equal(one[n], other[n]) for n in one
    )


# -- safetensors


def test_what_is_written_is_read_by_us_and_by_others(tmp_path):
    write_weights(tmp_path / "model.safetensors", TENSORS)
    assert same(read_weights(tmp_path), TENSORS)
    assert same(load_file(tmp_path / "model.safetensors"), TENSORS)
    assert set(tensor_names(tmp_path) or ()) == set(TENSORS)
    assert sorted(os.listdir(tmp_path)) == ["model.safetensors"]


def test_a_file_without_our_checksum_is_read_too(tmp_path):
    given = {name: tensor.contiguous() for name, tensor in TENSORS.items()}
    save_file(given, tmp_path / "model.safetensors")
    assert same(read_weights(tmp_path), TENSORS)


def test_a_flipped_bit_anywhere_is_refused_or_changes_nothing(tmp_path):
    path = tmp_path / "model.safetensors"
    write_weights(path, TENSORS)
    whole = path.read_bytes()
    draw = random.Random(0)
    refused = 0
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        try:
            # a name or a type may have changed; loading into a module looks at these
            read = read_safetensors(path)
        except LmzooError:
            refused += 1
            continue
        told = {name: (str(t.dtype), tuple(t.shape)) for name, t in read.items()}
        if told == {name: (str(t.dtype), tuple(t.shape)) for name, t in TENSORS.items()}:
            assert same(read, TENSORS)
    data = sum(t.numel() * t.element_size() for t in TENSORS.values())
    assert refused > data + 100


def test_a_file_that_was_cut_off_is_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    write_weights(path, TENSORS)
    whole = path.read_bytes()
    for length in (0, 4, 8, 50, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(LmzooError, match="damaged"):
            read_weights(tmp_path)


def test_a_disk_that_is_full_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    write_weights(path, TENSORS)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(LmzooError, match=r"cannot be written \(No space left"):
        write_weights(path, {"a": torch.zeros(2)})
    assert same(read_weights(tmp_path), TENSORS)
    assert os.listdir(tmp_path) == ["model.safetensors"]


# -- shards


def sharded(folder: Path, **names: str) -> None:
    """Two shards; ``names`` replaces their names in the index."""
    write_weights(folder / "model-00001-of-00002.safetensors", {"a": TENSORS["a"]})
    write_weights(folder / "model-00002-of-00002.safetensors", {"whole": TENSORS["whole"]})
    places = {"a": "model-00001-of-00002.safetensors", "whole": "model-00002-of-00002.safetensors"} | names
    index = json.dumps({"metadata": {"total_size": 1}, "weight_map": places})
    (folder / "model.safetensors.index.json").write_text(index, encoding="utf-8")


def test_shards_are_one_model(tmp_path):
    sharded(tmp_path)
    assert same(read_weights(tmp_path), {name: TENSORS[name] for name in ("a", "whole")})
    assert tensor_names(tmp_path) == ["a", "whole"]


@pytest.mark.parametrize("name", ["../other.safetensors", "/etc/other.safetensors", "sub/x.safetensors",
                                  "..", "", "..\\x.safetensors", "notes.txt"])  # fmt: skip
def test_a_shard_outside_the_folder_is_refused(tmp_path, name):
    folder = tmp_path / "model"
    folder.mkdir()
    write_weights(tmp_path / "other.safetensors", {"a": TENSORS["a"]})
    sharded(folder, a=name)
    with pytest.raises(LmzooError, match=r"no \.safetensors file of its own folder"):
        read_weights(folder)


def test_a_missing_shard_or_tensor_is_named(tmp_path):
    sharded(tmp_path, b="model-00002-of-00002.safetensors")
    with pytest.raises(LmzooError, match="places b in model-00002"):
        read_weights(tmp_path)
    (tmp_path / "model-00001-of-00002.safetensors").unlink()
    with pytest.raises(LmzooError, match=r"names model-00001-of-00002\.safetensors, which is not there"):
        read_weights(tmp_path)


# -- pickles


class Opens:
    """Creates a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("kind", ["in torch's archive", "as a bare pickle"])
def test_a_checkpoint_that_carries_code_is_refused_and_nothing_runs(tmp_path, kind):
    trace, path = tmp_path / "trace", tmp_path / "pytorch_model.bin"
    carried = {"a": TENSORS["a"], "b": Opens(trace)}
    if kind == "as a bare pickle":
        path.write_bytes(pickle.dumps(carried, protocol=2))
    else:
        torch.save(carried, path)
    with pytest.raises(LmzooError, match=r"carries code .* which was not run"):
        read_weights(tmp_path)
    assert not trace.exists()
    torch.load(path, weights_only=False) if kind != "as a bare pickle" else pickle.loads(path.read_bytes())
    assert trace.exists()  # it would have


def test_plain_tensors_in_a_pickle_are_read(tmp_path):
    path = tmp_path / "pytorch_model.bin"
    torch.save(TENSORS, path)
    assert same(read_weights(tmp_path), TENSORS)
    whole = bytearray(path.read_bytes())
    whole[whole.index(TENSORS["a"].numpy().tobytes())] ^= 1
    path.write_bytes(whole)
    with pytest.raises(LmzooError, match="has changed since it was written"):
        read_weights(tmp_path)
    path.write_bytes(whole[:200])
    with pytest.raises(LmzooError, match="damaged"):
        read_weights(tmp_path)
    torch.save({"a": {"b": torch.zeros(2)}}, path)
    with pytest.raises(LmzooError, match="something else than named tensors"):
        read_weights(tmp_path)


# -- tensors that do not fit


def exported(folder: Path, tokenizer, model: str = "bert_2018", objective: str = "mlm_nsp") -> Path:
    config = complete(SMALL[model], size=None, pairs=False, seq_len=24)
    module = MODULES[model](objective, model=config, special=tokenizer.special)
    export_model(folder, module, config, 24, tokenizer)
    return folder


QUERY = "bert.encoder.layer.0.attention.self.query.weight"


def test_each_missing_unexpected_and_misshaped_tensor_is_named(tmp_path, tokenizer):
    exported(tmp_path, tokenizer)
    tensors = read_weights(tmp_path)
    del tensors[QUERY], tensors["bert.pooler.dense.bias"]
    tensors["classifier.weight"] = torch.zeros(2, 16)
    tensors["cls.predictions.bias"] = torch.zeros(7)
    tensors["bert.embeddings.LayerNorm.bias"] = torch.zeros(16).long()
    write_weights(tmp_path / "model.safetensors", tensors)
    with pytest.raises(LmzooError) as refusal:
        load_exported(tmp_path)
    message = str(refusal.value)
    assert f"missing: {QUERY}, bert.pooler.dense.bias;" in message
    assert "unexpected: classifier.weight;" in message
    assert f"of another shape: cls.predictions.bias (7,) for ({tokenizer.vocab_size},)" in message
    assert "of whole numbers: bert.embeddings.LayerNorm.bias" in message
    assert "\n" not in message


def test_many_tensors_are_counted_after_the_first_five(tmp_path, tokenizer):
    exported(tmp_path, tokenizer, "bert", "mlm")
    norms = {name: t for name, t in read_weights(tmp_path).items() if "norm" in name}
    write_weights(tmp_path / "model.safetensors", norms)
    with pytest.raises(LmzooError, match=r"missing: (\S+, ){4}\S+ and \d+ more"):
        load_exported(tmp_path)


@pytest.mark.parametrize(("model", "objective"), [("elmo", "bilm"), ("bert", "mlm_nsp")])
def test_our_own_form_is_as_strict(tmp_path, tokenizer, model, objective):
    exported(tmp_path, tokenizer, model, objective)
    tensors = read_weights(tmp_path)
    del tensors["objective.head.dense.weight"]
    tensors["backbone.encoder.extra"] = torch.zeros(2)
    tensors["backbone.embedding.norm.weight"] = torch.zeros(4)
    write_weights(tmp_path / "model.safetensors", tensors)
    with pytest.raises(LmzooError) as refusal:
        load_exported(tmp_path)
    for part in ("missing: objective.head.dense.weight;", "unexpected: backbone.encoder.extra;",
                 "of another shape: backbone.embedding.norm.weight (4,) for (16,)"):  # fmt: skip
        assert part in str(refusal.value)
