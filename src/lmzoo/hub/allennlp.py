"""ELMo as it was published: ``options.json`` and ``weights.hdf5`` (Peters et al. 2018; bilm-tf, AllenNLP).

What was published embeds words by their characters. There is no vocabulary and no softmax with it, so that
the model reads any word and gives no probability. Importing this file costs no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lmzoo.errors import LmzooError
from lmzoo.hub.headers import first_line, read_json
from lmzoo.nn.config import LstmConfig
from lmzoo.text.packed import MOST_TIMES

if TYPE_CHECKING:
    from torch import Tensor

    from lmzoo.text.tokenizer import TextTokenizer

OPTIONS, WEIGHTS = "options.json", "weights.hdf5"
"""Names of the two files, or the ends of their names (``elmo_2x4096_…_options.json``)."""
_CHARACTERS = 261
"""Rows of the published table: bytes, borders, padding."""
_MOST_LAYERS = 1000
"""What may be counted up before the weights have been seen."""
_WANTED = "; lmzoo reads the models that were published: relu, widths 1, 2, 3, …, clips and skip connections"


def is_published(folder: Path) -> bool:
    """Whether a folder has both files."""
    return all(any(folder.glob(f"*{name}")) for name in (OPTIONS, WEIGHTS))


def published_file(folder: Path, name: str) -> Path:
    """The file called ``name``, or the one whose name ends so.

    Raises:
        LmzooError: there is none, or several.
    """
    found = sorted(folder.glob(f"*{name}"))
    if folder / name in found:
        return folder / name
    if len(found) != 1:
        which = f"several: {', '.join(path.name for path in found)}" if found else "none"
        raise LmzooError(f"{folder} must hold one file *{name}, and there is {which}")
    return found[0]


# ---------------------------------------------------------------------------------- options


class _Options:
    """The keys of ``options.json``, each read in its type; every method raises LmzooError, naming the key."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.given = read_json(path)

    def value(self, key: str) -> Any:
        found: Any = self.given
        for part in key.split("."):
            if not isinstance(found, dict) or part not in found:
                raise LmzooError(f"{self.path} has no {key}{_WANTED}")
            found = found[part]
        return found

    def size(self, key: str, least: int = 1, most: int = 2**31) -> int:
        found = self.value(key)
        if type(found) is not int or not least <= found <= most:
            raise self.refused(key)
        return found

    def clip(self, key: str) -> float:
        found = self.value(key)
        if type(found) not in (int, float) or not 0 < found < 1e300:
            raise self.refused(key)
        return float(found)

    def only(self, key: str, *allowed: object) -> None:
        if self.value(key) not in allowed:
            raise self.refused(key)

    def refused(self, key: str) -> LmzooError:
        return LmzooError(f"{self.path}: {key}={self.value(key)!r} cannot be loaded{_WANTED}")


def describe_options(folder: Path) -> LstmConfig:
    """The model that a folder's options describe, complete.

    Raises:
        LmzooError: no such file, or a model that lmzoo does not have: the key is named.
    """
    options = _Options(published_file(folder, OPTIONS))
    options.only("lstm.use_skip_connections", True)
    options.only("char_cnn.activation", "relu")
    options.only("char_cnn.n_characters", _CHARACTERS, _CHARACTERS + 1)  # with or without the empty word's
    filters = options.value("char_cnn.filters")
    pairs = isinstance(filters, list) and all(
        isinstance(each, list) and len(each) == 2 and all(type(n) is int and n > 0 for n in each)
        for each in filters
    )
    if not pairs or not filters or [width for width, _ in filters] != list(range(1, len(filters) + 1)):
        raise options.refused("char_cnn.filters")
    length = options.size("char_cnn.max_characters_per_token", least=3)
    if length < len(filters):
        raise options.refused("char_cnn.max_characters_per_token")
    return LstmConfig(
        name="elmo_2018",
        num_layers=options.size("lstm.n_layers", most=_MOST_LAYERS),
        hidden_size=options.size("lstm.projection_dim"),
        cell_size=options.size("lstm.dim"),
        cell_clip=options.clip("lstm.cell_clip"),
        projection_clip=options.clip("lstm.proj_clip"),
        embedding="characters",
        character_size=options.size("char_cnn.embedding.dim"),
        characters_per_token=length,
        filters=[count for _, count in filters],
        num_highway=options.size("char_cnn.n_highway", least=0, most=_MOST_LAYERS),
        positions="none",
        embedding_norm=False,
        tied=False,
        head="plain",
        decoder_bias=True,
        initializer="glorot",
        num_segments=0,
        max_positions=0,
    )


# ---------------------------------------------------------------------------------- weights


@dataclass(frozen=True)
class _Entry:
    """One tensor of ours, and the data set that it is made from."""

    ours: str
    theirs: str
    shape: tuple[int, ...]
    convert: Callable[[np.ndarray], np.ndarray]


def _entries(config: LstmConfig) -> Iterator[_Entry]:
    """Every tensor of the backbone but the spelling of the vocabulary; the LSTMs' inputs come twice."""
    assert config.filters and config.hidden_size and config.cell_size and config.num_layers
    assert config.num_highway is not None
    width, cells, total = config.hidden_size, config.cell_size, sum(config.filters)
    here = "backbone.embedding.tokens"
    yield _Entry(
        f"{here}.characters.weight", "char_embed", (_CHARACTERS, config.character_size), _with_mask_row
    )
    for i, count in enumerate(config.filters):
        shape = (1, i + 1, config.character_size, count)
        yield _Entry(f"{here}.convolutions.{i}.weight", f"CNN/W_cnn_{i}", shape, lambda w: w[0].T)
        yield _Entry(f"{here}.convolutions.{i}.bias", f"CNN/b_cnn_{i}", (count,), _same)
    for i in range(config.num_highway):
        ours, theirs = f"{here}.highways.{i}", f"CNN_high_{i}"
        yield _Entry(f"{ours}.transform.weight", f"{theirs}/W_transform", (total, total), np.transpose)
        yield _Entry(f"{ours}.transform.bias", f"{theirs}/b_transform", (total,), _same)
        # their gate is the share of the transformed path, ours of the input, and 1 - sigmoid(x) = sigmoid(-x)
        yield _Entry(f"{ours}.carry.weight", f"{theirs}/W_carry", (total, total), lambda w: -w.T)
        yield _Entry(f"{ours}.carry.bias", f"{theirs}/b_carry", (total,), np.negative)
    yield _Entry(f"{here}.projection.weight", "CNN_proj/W_proj", (total, width), np.transpose)
    yield _Entry(f"{here}.projection.bias", "CNN_proj/b_proj", (width,), _same)
    for direction, stack in enumerate(("past", "future")):
        for layer in range(config.num_layers):
            ours = f"backbone.encoder.{stack}.{layer}"
            theirs = f"RNN_{direction}/RNN/MultiRNNCell/Cell{layer}/LSTMCell"
            both = (2 * width, 4 * cells)
            yield _Entry(f"{ours}.input_weight", f"{theirs}/W_0", both, lambda w: _our_gates(w[:width]).T)
            yield _Entry(f"{ours}.hidden_weight", f"{theirs}/W_0", both, lambda w: _our_gates(w[width:]).T)
            yield _Entry(f"{ours}.bias", f"{theirs}/B", (4 * cells,), _open_forget_gates)
            yield _Entry(f"{ours}.projection", f"{theirs}/W_P_0", (cells, width), np.transpose)


def _same(values: np.ndarray) -> np.ndarray:
    return values


def _with_mask_row(table: np.ndarray) -> np.ndarray:
    """Adds a row of zeros for ``[MASK]``, which the published model never saw."""
    return np.concatenate([table, np.zeros_like(table[:1])])


def _our_gates(values: np.ndarray) -> np.ndarray:
    """Input, candidate, forget, output on the last axis (TensorFlow) to input, forget, output, candidate."""
    into, candidate, forget, out = np.split(values, 4, axis=-1)
    return np.concatenate([into, forget, out, candidate], axis=-1)


def _open_forget_gates(bias: np.ndarray) -> np.ndarray:
    """Adds the 1 that TensorFlow's cell adds to its forget gates whenever it runs."""
    ours = _our_gates(bias)
    cells = len(ours) // 4
    ours[cells : 2 * cells] += 1
    return ours


def load_weights(folder: Path, config: LstmConfig) -> dict[str, Tensor]:
    """The backbone's tensors in 32 bits, by our names; the vocabulary's spelling is not among them.

    Only plain data sets of the names that such a model has are read: a link to another file, or to
    another place in this one, counts as something unexpected.

    Args:
        folder: with ``weights.hdf5``.
        config: as ``describe_options`` gives it.

    Raises:
        LmzooError: h5py is not installed, the file is damaged, or a data set is missing, unexpected or of
            another shape or type: each is named.
    """
    import torch

    from lmzoo.hub.native import refuse_misfits

    try:
        import h5py
    except ImportError as error:
        raise LmzooError(
            f"{folder}: to read {WEIGHTS} takes h5py; install it with pip install 'lmzoo[hub]'"
        ) from error
    path = published_file(folder, WEIGHTS)
    entries = list(_entries(config))
    shapes = {entry.theirs: entry.shape for entry in entries}
    try:
        with h5py.File(path, "r") as file:
            found, unexpected = _plain_data_sets(file, set(shapes))
            misfits = {
                "missing": sorted(set(shapes) - set(found)),
                "unexpected": unexpected,
                "of another shape": [
                    f"{name} {found[name].shape} for {shape}"
                    for name, shape in shapes.items()
                    if name in found and found[name].shape != shape
                ],
                "of no real numbers": [name for name in sorted(found) if found[name].dtype.kind != "f"],
            }
            refuse_misfits(f"{path} does not fit {OPTIONS}", misfits)
            if sum(entry.nbytes for entry in found.values()) > MOST_TIMES * path.stat().st_size:
                raise ValueError(f"its numbers would take more than {MOST_TIMES} times its size: a bomb?")
            return {
                entry.ours: torch.from_numpy(
                    np.ascontiguousarray(entry.convert(found[entry.theirs][()].astype(np.float32)))
                )
                for entry in entries
            }
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise LmzooError(f"{path} is damaged ({first_line(error)}); fetch it again") from error


def _plain_data_sets(file: Any, wanted: set[str]) -> tuple[dict[str, Any], list[str]]:
    """The data sets of the wanted names that lie in this very file, and the names of all else.

    Only groups on the way to a wanted name are entered, so that links in a circle lead nowhere.
    """
    import h5py

    inner = {name[:i] for name in wanted for i, letter in enumerate(name) if letter == "/"}
    found: dict[str, Any] = {}
    unexpected: list[str] = []
    waiting = [("", file)]
    while waiting:
        prefix, group = waiting.pop()
        for key in group:
            name = f"{prefix}{key}"
            if not isinstance(group.get(key, getlink=True), h5py.HardLink):
                unexpected.append(f"{name} (a link)")
                continue
            entry = group[key]
            if name in inner and isinstance(entry, h5py.Group):
                waiting.append((f"{name}/", entry))
            elif name not in wanted or not isinstance(entry, h5py.Dataset):
                unexpected.append(name)
            elif entry.external or entry.is_virtual:
                unexpected.append(f"{name} (its numbers lie in another file)")
            else:
                found[name] = entry
    return found, sorted(unexpected)


# ---------------------------------------------------------------------------------- words


def tokenizer_for(folder: Path) -> TextTokenizer:
    """Words for a model without a vocabulary: every one is unknown, and so read by its characters.

    A vocabulary beside the weights would change nothing: the model spells the words in it too.

    Args:
        folder: for messages.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    from lmzoo.text.tokenizer import TextTokenizer
    from lmzoo.text.vocabularies import SPECIAL

    vocabulary = {name: number for number, name in enumerate(SPECIAL)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return TextTokenizer(tokenizer, str(folder))
