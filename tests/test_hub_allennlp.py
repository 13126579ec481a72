"""The published ELMo's files, against a forward pass written out in their own conventions."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lmzoo.backbone import build_backbone
from lmzoo.config import compose
from lmzoo.errors import LmzooError
from lmzoo.hub.allennlp import describe_options, load_weights, published_file, tokenizer_for
from lmzoo.hub.describe import ALLENNLP, Description
from lmzoo.hub.elmo import load_published
from lmzoo.nn.char_cnn import spell
from lmzoo.objectives.config import BilmConfig
from lmzoo.types import NO_DOCUMENT, Batch, Context, Trace

h5py = pytest.importorskip("h5py")

PUBLISHED = {
    "lstm": {
        "use_skip_connections": True,
        "projection_dim": 512,
        "cell_clip": 3,
        "proj_clip": 3,
        "dim": 4096,
        "n_layers": 2,
    },
    "char_cnn": {
        "activation": "relu",
        "filters": [[1, 32], [2, 32], [3, 64], [4, 128], [5, 256], [6, 512], [7, 1024]],
        "n_highway": 2,
        "embedding": {"dim": 16},
        "n_characters": 262,
        "max_characters_per_token": 50,
    },
}
"""What stands in the options of the model of 93.6 million parameters."""
SMALL = {
    "lstm": PUBLISHED["lstm"]
    | {"projection_dim": 6, "dim": 9, "n_layers": 3, "cell_clip": 0.6, "proj_clip": 0.4},
    "char_cnn": PUBLISHED["char_cnn"] | {"filters": [[1, 3], [2, 4], [3, 5]], "embedding": {"dim": 4}},
}
Weights = dict[str, np.ndarray]


def shapes_of(options: dict) -> dict[str, tuple[int, ...]]:
    """The data sets of such a model, as bilm-tf names them."""
    lstm, cnn = options["lstm"], options["char_cnn"]
    total, width, cells = sum(n for _, n in cnn["filters"]), lstm["projection_dim"], lstm["dim"]
    shapes: dict[str, tuple[int, ...]] = {"char_embed": (261, cnn["embedding"]["dim"])}
    for i, (size, count) in enumerate(cnn["filters"]):
        shapes |= {f"CNN/W_cnn_{i}": (1, size, cnn["embedding"]["dim"], count), f"CNN/b_cnn_{i}": (count,)}
    for k in range(cnn["n_highway"]):
        for part in ("transform", "carry"):
            shapes |= {f"CNN_high_{k}/W_{part}": (total, total), f"CNN_high_{k}/b_{part}": (total,)}
    shapes |= {"CNN_proj/W_proj": (total, width), "CNN_proj/b_proj": (width,)}
    for direction in (0, 1):
        for layer in range(lstm["n_layers"]):
            at = f"RNN_{direction}/RNN/MultiRNNCell/Cell{layer}/LSTMCell"
            shapes |= {
                f"{at}/W_0": (2 * width, 4 * cells),
                f"{at}/B": (4 * cells,),
                f"{at}/W_P_0": (cells, width),
            }
    return shapes


def write(folder: Path, weights: Weights, options: dict = SMALL, prefix: str = "") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / f"{prefix}options.json").write_text(json.dumps(options))
    with h5py.File(folder / f"{prefix}weights.hdf5", "w") as file:
        for name, value in weights.items():
            file.create_dataset(name, data=value)
    return folder


def description_of(folder: Path) -> Description:
    objective = BilmConfig()
    return Description(
        folder, ALLENNLP, describe_options(folder), objective.name, Context.APART.value, None, None, objective
    )


def random_weights(options: dict = SMALL) -> Weights:
    generator = np.random.default_rng(0)
    return {
        name: (generator.standard_normal(shape) * 0.7).astype(np.float32)
        for name, shape in shapes_of(options).items()
    }


# ---------------------------------------------------------------------------- their forward pass


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def their_characters(word: str | int, length: int = 50) -> list[int]:
    """A word's character numbers; an int is the one character of a sentence's border."""
    inner = [word] if isinstance(word, int) else list(word.encode())[: length - 2]
    numbers = [258, *inner, 259]
    return numbers + [260] * (length - len(numbers))


def their_word(characters: list[int], weights: Weights) -> np.ndarray:
    x = weights["char_embed"][characters]
    answers = []
    for i, (width, _) in enumerate(SMALL["char_cnn"]["filters"]):
        kernel, bias = weights[f"CNN/W_cnn_{i}"][0], weights[f"CNN/b_cnn_{i}"]
        windows = [(x[t : t + width, :, None] * kernel).sum((0, 1)) + bias for t in range(len(x) - width + 1)]
        answers.append(np.maximum(np.max(windows, axis=0), 0))
    y = np.concatenate(answers)
    for k in range(SMALL["char_cnn"]["n_highway"]):
        layer = {
            part: weights[f"CNN_high_{k}/{part}"]
            for part in ("W_carry", "b_carry", "W_transform", "b_transform")
        }
        share = sigmoid(y @ layer["W_carry"] + layer["b_carry"])
        changed = np.maximum(y @ layer["W_transform"] + layer["b_transform"], 0)
        y = share * changed + (1 - share) * y
    return y @ weights["CNN_proj/W_proj"] + weights["CNN_proj/b_proj"]


def their_direction(
    x: np.ndarray, direction: int, weights: Weights, clipped: dict[str, int]
) -> list[np.ndarray]:
    """Every layer's (T, D) of one direction, over one sentence in reading order."""
    cell_clip, state_clip = SMALL["lstm"]["cell_clip"], SMALL["lstm"]["proj_clip"]
    x = x[::-1] if direction else x
    layers = []
    for layer in range(SMALL["lstm"]["n_layers"]):
        at = f"RNN_{direction}/RNN/MultiRNNCell/Cell{layer}/LSTMCell"
        state, cell, out = np.zeros(SMALL["lstm"]["projection_dim"]), np.zeros(SMALL["lstm"]["dim"]), []
        for step in x:
            gates = np.concatenate([step, state]) @ weights[f"{at}/W_0"] + weights[f"{at}/B"]
            i, j, f, o = np.split(gates, 4)
            cell = sigmoid(f + 1.0) * cell + sigmoid(i) * np.tanh(j)
            clipped["cell"] += int((np.abs(cell) > cell_clip).sum())
            cell = np.clip(cell, -cell_clip, cell_clip)
            state = (sigmoid(o) * np.tanh(cell)) @ weights[f"{at}/W_P_0"]
            clipped["state"] += int((np.abs(state) > state_clip).sum())
            state = np.clip(state, -state_clip, state_clip)
            out.append(state)
        x = np.stack(out) + (x if layer else 0)
        layers.append(x[::-1] if direction else x)
    return layers


SENTENCES = [
    ["The", "naïve", "model", "spells", "中文", "x" * 70],
    ["One", "word"],
    [],
    ["a", "b", "a", "c"],
]


def test_every_layer_is_that_of_their_own_forward_pass(tmp_path):
    weights = random_weights()
    module = load_published(description_of(write(tmp_path / "elmo", weights))).module
    words = sorted({word for sentence in SENTENCES for word in sentence})
    longest = max(map(len, SENTENCES)) + 2
    tokens = torch.zeros(len(SENTENCES), longest, dtype=torch.long)
    documents = torch.full_like(tokens, NO_DOCUMENT)
    special = module.objective.special
    for row, sentence in enumerate(SENTENCES):
        ids = [special.cls, *(special.vocab_size + words.index(word) for word in sentence), special.sep]
        tokens[row, : len(ids)] = torch.tensor(ids)
        documents[row, : len(ids)] = 0
    unseen = spell([word.encode() for word in words], {}, 50)
    batch = Batch(tokens, documents, torch.zeros_like(tokens), torch.zeros(len(tokens)), unseen=unseen)
    trace = Trace()
    with torch.no_grad():
        module.backbone(batch, trace)
    assert len(trace.layers) == 4

    exact = {name: value.astype(np.float64) for name, value in weights.items()}
    clipped = {"cell": 0, "state": 0}
    for row, sentence in enumerate(SENTENCES):
        spelt = [their_characters(word) for word in [256, *sentence, 257]]
        x = np.stack([their_word(characters, exact) for characters in spelt])
        expected = [(x, x), *zip(*(their_direction(x, d, exact, clipped) for d in (0, 1)), strict=True)]
        for ours, theirs in zip(trace.layers, expected, strict=True):
            for stream, values in zip(ours, theirs, strict=True):
                np.testing.assert_allclose(stream[row, : len(x)].numpy(), values, atol=1e-5, rtol=1e-5)
    assert min(clipped.values()) > 10, "a clip that never bites proves nothing"


def test_the_published_model_is_of_the_size_that_is_called_base(tmp_path):
    (tmp_path / "options.json").write_text(json.dumps(PUBLISHED))
    config = describe_options(tmp_path)
    ours = compose(["model=elmo_2018", "size=base"]).model
    assert config == replace(ours, dropout=config.dropout)
    with torch.device("meta"):
        backbone = build_backbone(config, Context.APART, 5, torch.zeros(5, 50, dtype=torch.int32))
    ours = sum(parameter.numel() for parameter in backbone.parameters())
    theirs = sum(math.prod(shape) for shape in shapes_of(PUBLISHED).values())
    assert ours - config.character_size == theirs == 93_600_848  # ours has a row for [MASK]


def test_a_name_may_stand_before_the_files_own(tmp_path):
    folder = write(tmp_path / "elmo", random_weights(), prefix="elmo_small_")
    assert published_file(folder, "options.json").name == "elmo_small_options.json"
    assert load_weights(folder, describe_options(folder))["backbone.encoder.past.0.bias"].shape == (36,)
    (folder / "other_options.json").write_text("{}")
    with pytest.raises(LmzooError, match=r"several: elmo_small_options.json, other_options.json"):
        describe_options(folder)
    with pytest.raises(LmzooError, match=r"must hold one file \*options.json, and there is none"):
        describe_options(tmp_path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("lstm.use_skip_connections", False),
        ("lstm.n_layers", 0),
        ("lstm.dim", "4096"),
        ("lstm.projection_dim", True),
        ("lstm.cell_clip", None),
        ("lstm.proj_clip", -1),
        ("char_cnn.activation", "tanh"),
        ("char_cnn.n_characters", 300),
        ("char_cnn.n_highway", -1),
        ("char_cnn.filters", [[1, 3], [3, 4]]),
        ("char_cnn.filters", []),
        ("char_cnn.filters", [[1, 0]]),
        ("char_cnn.filters", [3, 4]),
        ("char_cnn.max_characters_per_token", 2),
        ("char_cnn.embedding.dim", 0),
    ],
)
def test_options_of_another_model_are_refused_by_name(tmp_path, key, value):
    options = json.loads(json.dumps(PUBLISHED))
    *path, last = key.split(".")
    at = options
    for part in path:
        at = at[part]
    at[last] = value
    (tmp_path / "options.json").write_text(json.dumps(options))
    with pytest.raises(LmzooError, match=f"options.json: {re.escape(key)}={re.escape(repr(value))} cannot"):
        describe_options(tmp_path)
    del at[last]
    (tmp_path / "options.json").write_text(json.dumps(options))
    with pytest.raises(LmzooError, match=f"options.json has no {re.escape(key)}"):
        describe_options(tmp_path)


def test_every_data_set_that_does_not_fit_is_named(tmp_path):
    weights = random_weights()
    del weights["CNN/b_cnn_1"], weights["RNN_1/RNN/MultiRNNCell/Cell2/LSTMCell/W_P_0"]
    weights["CNN_proj/W_proj"] = weights["CNN_proj/W_proj"].T.copy()
    weights["softmax/W"] = np.zeros(3, np.float32)
    weights["CNN/W_cnn_7"] = np.zeros(3, np.float32)
    weights["char_embed"] = weights["char_embed"].astype(np.int64)
    folder = write(tmp_path / "elmo", weights)
    with pytest.raises(LmzooError) as refused:
        load_weights(folder, describe_options(folder))
    line = str(refused.value)
    assert "\n" not in line
    assert "missing: CNN/b_cnn_1, RNN_1/RNN/MultiRNNCell/Cell2/LSTMCell/W_P_0;" in line
    assert "unexpected: CNN/W_cnn_7, softmax;" in line
    assert "of another shape: CNN_proj/W_proj (6, 12) for (12, 6);" in line
    assert line.endswith("of no real numbers: char_embed")


@pytest.mark.parametrize("kind", ["external", "soft", "virtual", "raw", "circle"])
def test_nothing_outside_the_file_is_read(tmp_path, kind):
    weights = random_weights()
    outside = str(write(tmp_path / "outside", weights) / "weights.hdf5")
    folder = write(tmp_path / "elmo", {n: w for n, w in weights.items() if n != "char_embed"})
    shape = weights["char_embed"].shape
    with h5py.File(folder / "weights.hdf5", "a") as file:
        if kind == "external":
            file["char_embed"] = h5py.ExternalLink(outside, "/char_embed")
        elif kind == "soft":
            file["char_embed"] = h5py.SoftLink("/CNN_proj/W_proj")
        elif kind == "virtual":
            layout = h5py.VirtualLayout(shape=shape, dtype="f4")
            layout[:] = h5py.VirtualSource(outside, "char_embed", shape=shape)
            file.create_virtual_dataset("char_embed", layout)
        elif kind == "raw":
            where = [(str(tmp_path / "raw.bin"), 0, h5py.h5f.UNLIMITED)]
            file.create_dataset("char_embed", shape=shape, dtype="f4", external=where)
        else:
            file["char_embed"] = weights["char_embed"]
            file["CNN/again"] = file["/"]
    name = "CNN/again" if kind == "circle" else "char_embed"
    with pytest.raises(LmzooError, match=f"unexpected: {name}"):
        load_weights(folder, describe_options(folder))


def test_a_cut_off_file_is_refused(tmp_path):
    folder = write(tmp_path / "elmo", random_weights())
    content = (folder / "weights.hdf5").read_bytes()
    for kept in (0, 100, len(content) // 2, len(content) - 10):
        (folder / "weights.hdf5").write_bytes(content[:kept])
        with pytest.raises(LmzooError, match=r"weights.hdf5 is damaged \(.*; fetch it again"):
            load_weights(folder, describe_options(folder))


def test_without_h5py_the_extra_is_named(tmp_path, monkeypatch):
    folder = write(tmp_path / "elmo", random_weights())
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(LmzooError, match=r"pip install 'lmzoo\[hub\]'"):
        load_weights(folder, describe_options(folder))


def test_options_are_read_without_torch(tmp_path):
    (tmp_path / "options.json").write_text(json.dumps(PUBLISHED))
    code = (
        "import sys, pathlib; from lmzoo.hub.allennlp import describe_options; "
        "describe_options(pathlib.Path(sys.argv[1])); print('torch' in sys.modules, 'h5py' in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_its_words_are_all_unknown_and_are_cut_at_punctuation(tmp_path):
    tokenizer = tokenizer_for(tmp_path)
    text = "It isn't 中文, is it?"
    ids, offsets = tokenizer.encode_with_offsets([text])[0]
    assert set(ids) == {tokenizer.special.unk} <= tokenizer.unknown_ids
    assert [text[start:end] for start, end in offsets] == [
        "It",
        "isn",
        "'",
        "t",
        "中",
        "文",
        ",",
        "is",
        "it",
        "?",
    ]


def test_it_gives_no_scores_and_says_why(tmp_path):
    loaded = load_published(description_of(write(tmp_path / "elmo", random_weights())))
    tokens = torch.tensor([[2, 1, 1, 3]])
    batch = Batch(tokens, torch.zeros_like(tokens), torch.zeros_like(tokens), torch.zeros(1))
    task = loaded.module.objective.prepare(batch, 1, training=False)
    hidden = loaded.module.backbone(task.batch)
    for ask in (loaded.module.objective.loss, loaded.module.objective.scores):
        with pytest.raises(LmzooError, match="softmax was not published"):
            ask(hidden, task)
