"""A trained model as a folder: config.json, model.safetensors, tokenizer.json; out, and in again."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, load_model, save_model

from lmzoo import __version__
from lmzoo.errors import LmzooError
from lmzoo.modules import FAMILIES, LanguageModelModule
from lmzoo.nn.config import MODELS, ModelConfig
from lmzoo.objectives.config import OBJECTIVES
from lmzoo.text.tokenizer import TextTokenizer, load_tokenizer
from lmzoo.types import SpecialTokens

CONFIG, WEIGHTS, TOKENIZER = "config.json", "model.safetensors", "tokenizer.json"


def export_model(
    folder: Path, module: LanguageModelModule, model: ModelConfig, seq_len: int, tokenizer: TextTokenizer
) -> None:
    """Write the weights of a module, with what it takes to build it again.

    Args:
        folder: made if need be.
        module: whose weights.
        model: the completed config it was built from.
        seq_len: the length it was trained at.
        tokenizer: the tokenizer of its ids.
    """
    folder.mkdir(parents=True, exist_ok=True)
    described = {
        "lmzoo_version": __version__,
        "model": asdict(model),
        "objective": asdict(module.objective.config),
        "context": module.backbone.context.value,
        "seq_len": seq_len,
        "special_tokens": asdict(module.objective.special),
    }
    (folder / CONFIG).write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
    save_model(module, str(folder / WEIGHTS))
    tokenizer.save(folder / TOKENIZER)


def find_model(path: str | Path) -> Path:
    """The model folder of a run folder, or the folder itself if it is one.

    Raises:
        LmzooError: neither holds a model.
    """
    given = Path(path)
    for folder in (given / "model", given):
        if (folder / CONFIG).is_file() and (folder / WEIGHTS).is_file():
            return folder
    raise LmzooError(
        f"{path} holds no model ({CONFIG} and {WEIGHTS}, there or in model/); give a finished run"
    )


def load_exported(path: str | Path) -> tuple[LanguageModelModule, TextTokenizer]:
    """The module and the tokenizer of a run folder or model folder, on the CPU, ready to measure.

    Raises:
        LmzooError: there is no model, or its files are damaged or of another version.
    """
    folder = find_model(path)
    try:
        described = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        model = _dataclass(MODELS[described["model"]["name"]], described["model"])
        objective = _dataclass(OBJECTIVES[described["objective"]["name"]], described["objective"])
        special = _dataclass(SpecialTokens, described["special_tokens"])
        module = FAMILIES[model.name](objective, model=model, special=special, context=described["context"])
        load_model(module, str(folder / WEIGHTS))
    except (ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise LmzooError(
            f"{folder} is damaged or of another version ({reason}); export the run again"
        ) from error
    return module.eval(), load_tokenizer(folder / TOKENIZER)


def _dataclass(kind: type, values: dict[str, Any]) -> Any:
    unknown = set(values) - {field.name for field in fields(kind)}
    if unknown:
        raise ValueError(f"unknown key {sorted(unknown)[0]}")
    return kind(**values)


def initialize_from(module: LanguageModelModule, path: str | Path, tokenizer: TextTokenizer) -> None:
    """Start from the weights of another run: its backbone whole, and of the heads what fits.

    Raises:
        LmzooError: another vocabulary, or a backbone of another shape.
    """
    folder = find_model(path)
    given = load_tokenizer(folder / TOKENIZER)
    if given.fingerprint() != tokenizer.fingerprint():
        raise LmzooError(
            f"init_from={path} has another vocabulary than this run; "
            f"take its own with tokenizer.file={folder / TOKENIZER}"
        )
    try:
        weights = load_file(str(folder / WEIGHTS))
    except (SafetensorError, OSError) as error:
        raise LmzooError(f"{folder / WEIGHTS} is damaged ({error}); export the run again") from error
    own = module.state_dict()
    backbone = {name for name in own if name.startswith("backbone.")}
    wrong = sorted(n for n in backbone if n not in weights or weights[n].shape != own[n].shape)
    extra = sorted(n for n in weights if n.startswith("backbone.") and n not in own)
    if wrong or extra:
        raise LmzooError(
            f"init_from={path} has another architecture (first difference: {(wrong + extra)[0]}); "
            f"give the model the same shape as in {folder / CONFIG}"
        )
    fitting = {n: w for n, w in weights.items() if n in own and w.shape == own[n].shape}
    with torch.no_grad():
        module.load_state_dict(fitting, strict=False)
