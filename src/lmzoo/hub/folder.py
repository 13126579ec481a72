"""A trained model as a folder: config, weights, tokenizer and card; out, and in again.

What transformers has a class for is written in its names, everything else with our own code beside it.
Nothing half-written is ever seen: a folder is built beside its place and moved there.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lmzoo.errors import LmzooError, one_of
from lmzoo.hub.card import Carried, model_card
from lmzoo.hub.code import own_weights, write_code_folder
from lmzoo.hub.describe import ALLENNLP, OWN, describe, find_model
from lmzoo.hub.elmo import load_published
from lmzoo.hub.files import write_weights
from lmzoo.hub.forms import Form, described, native_form, write_config, write_generator_config
from lmzoo.hub.headers import CONFIG, GENERATOR_FOLDER, WEIGHTS
from lmzoo.hub.native import BACKBONE, GENERATOR, HEAD, TRAINING_ALONE, refuse_misfits, to_native
from lmzoo.hub.reading import SPELLING, AbsentHead, Loaded, build_empty, fill, module_state, read_folder
from lmzoo.modules import LanguageModelModule
from lmzoo.nn.config import ModelConfig, TransformerConfig
from lmzoo.objectives.config import RtdConfig, is_adaptive
from lmzoo.text.tokenizer import TextTokenizer
from lmzoo.types import SpecialTokens

__all__ = ["Exported", "Loaded", "export_model", "find_model", "initialize_from", "load_exported"]

EXPORT_FORMS = ("auto", "transformers", "lmzoo")
TOKENIZER, CARD = "tokenizer.json", "README.md"
_WRITTEN = {
    CONFIG,
    WEIGHTS,
    TOKENIZER,
    CARD,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
    GENERATOR_FOLDER,
}
"""Files of an export, beside code; a folder of nothing else may be written over."""


@dataclass(frozen=True)
class Exported:
    """What an export became."""

    form: str
    """`lmzoo`, or transformers' model_type."""
    note: str
    """Why it is our own form, where another was possible to wish for."""


# ---------------------------------------------------------------------------------- out


def export_model(
    folder: Path,
    module: LanguageModelModule,
    model: ModelConfig,
    seq_len: int,
    tokenizer: TextTokenizer,
    *,
    record: Mapping[str, Any] | None = None,
    run_config: Mapping[str, Any] | None = None,
    form: str = "auto",
) -> Exported:
    """Write a module as a Hugging Face folder.

    Args:
        folder: made if need be; an export that lies there is replaced.
        module: whose weights.
        model: the completed config it was built from.
        seq_len: the length it was trained at.
        tokenizer: the tokenizer of its ids.
        record: what the run's metrics.json holds, for the card.
        run_config: the run's config as plain containers, for the card.
        form: ``transformers`` for one of its classes, ``lmzoo`` for our own form with its code, ``auto``
            for the first where there is one.

    Returns:
        the form chosen, with the reason where it is our own by need.

    Raises:
        LmzooError: no class of transformers computes the same and one was wished for; the folder holds
            something else; the disk does not take it.
    """
    one_of("form", form, EXPORT_FORMS)
    _refuse_other_content(folder)
    if isinstance(module.objective.head, AbsentHead):
        source = module.objective.head.folder
        raise LmzooError(f"{source} has no head that predicts tokens, and is not exported; copy the folder")
    objective = module.objective.config
    context = module.backbone.context
    special = module.objective.special
    native, reason = native_form(model, objective, context)
    if native is None and form == "transformers":
        raise LmzooError(f"form=transformers: {reason}; take form=lmzoo")
    chosen = None if form == "lmzoo" else native
    said = described(model, objective, context, seq_len, special)
    made = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        made.mkdir(parents=True)
        if chosen is None:
            classes = write_code_folder(made, module, model, objective, context, seq_len, tokenizer, said)
        else:
            classes = _write_native(made, module, model, chosen, seq_len, special, said)
        causal = context.value == "past"
        for place in (made, made / GENERATOR_FOLDER):
            if place.is_dir():
                _write_tokenizer(place, tokenizer, seq_len, segments=bool(model.num_segments), causal=causal)
        if causal:
            ids = {"bos_token_id": special.cls, "eos_token_id": special.sep, "pad_token_id": special.pad}
            _write_json(made / "generation_config.json", ids)
        carried = Carried(
            model=model,
            objective=objective,
            context=context,
            seq_len=seq_len,
            vocab_size=tokenizer.vocab_size,
            mask=tokenizer.special_names.get("mask"),
            word_classes=len(tokenizer.unknown_ids) > 1,
            form=chosen,
            classes=classes,
            reason=reason,
        )
        card = model_card(carried, record=record, run_config=run_config)
        (made / CARD).write_text(card, encoding="utf-8")
        _move(made, folder)
    except OSError as error:
        raise LmzooError(f"{folder} cannot be written ({error.strerror}: {error.filename})") from error
    finally:
        shutil.rmtree(made, ignore_errors=True)
    if chosen is None:
        return Exported(OWN, reason)
    return Exported(chosen.model_type, "")


def _refuse_other_content(folder: Path) -> None:
    if not folder.exists():
        return
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else {"it is a file"}
    others = sorted(name for name in names - _WRITTEN if not name.endswith(".py") and name != "__pycache__")
    if others or (names and CONFIG not in names):
        raise LmzooError(
            f"{folder} holds something else than an export ({(others or sorted(names))[0]}); "
            "give another folder"
        )


def _move(made: Path, folder: Path) -> None:
    """Put a finished folder in its place; the one that was there goes only once the new one stands."""
    if not folder.exists():
        made.rename(folder)
        return
    old = made.with_name(f"{made.name}.old")
    folder.rename(old)
    try:
        made.rename(folder)
    except OSError:
        old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _write_native(
    folder: Path,
    module: LanguageModelModule,
    model: ModelConfig,
    form: Form,
    seq_len: int,
    special: SpecialTokens,
    said: Mapping[str, Any],
) -> dict[str, str]:
    """Config and weights; gives the classes that open them, by Auto class."""
    assert isinstance(model, TransformerConfig)
    asked = module.objective.config
    objective = asked.name
    config = write_config(form, model, objective, seq_len, special)
    _write_json(folder / CONFIG, config | {"lmzoo": dict(said)})
    ours = {name: tensor.detach() for name, tensor in module.state_dict().items()}
    theirs = to_native(form.model_type, model, objective, ours)
    whole = {name: tensor for name, tensor in theirs.items() if not name.startswith(GENERATOR)}
    write_weights(folder / WEIGHTS, whole)
    if isinstance(asked, RtdConfig):
        beside = folder / GENERATOR_FOLDER
        beside.mkdir()
        _write_json(beside / CONFIG, write_generator_config(config, model, asked))
        shared = {name: tensor for name, tensor in whole.items() if name.startswith("electra.embeddings.")}
        own = {name.removeprefix(GENERATOR): theirs[name] for name in theirs if name not in whole}
        write_weights(beside / WEIGHTS, shared | own)
    autos = {
        "mlm_nsp": "AutoModelForPreTraining",
        "mlm": "AutoModelForMaskedLM",
        "clm": "AutoModelForCausalLM",
        "rtd": "AutoModelForPreTraining",
    }
    return {autos[objective]: form.classes[objective]}


def _write_tokenizer(
    folder: Path, tokenizer: TextTokenizer, seq_len: int, *, segments: bool, causal: bool
) -> None:
    (folder / TOKENIZER).write_text(tokenizer.json(ending=not causal), encoding="utf-8")
    names = {f"{part}_token": token for part, token in tokenizer.special_names.items()}
    if causal:
        names |= {"bos_token": names["cls_token"], "eos_token": names["sep_token"]}
    _write_json(folder / "special_tokens_map.json", names)
    inputs = ["input_ids", *(["token_type_ids"] if segments else []), "attention_mask"]
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": seq_len,
        "model_input_names": inputs,
        "clean_up_tokenization_spaces": False,
    }
    _write_json(folder / "tokenizer_config.json", settings | names)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


# ---------------------------------------------------------------------------------- in


def load_exported(path: str | Path) -> Loaded:
    """The model and the tokenizer of a run folder, a model folder or a hub name, on the CPU.

    A head of which the folder has nothing is replaced by one that refuses to be used.

    Raises:
        LmzooError: there is no model; its files are damaged, carry code or do not fit its config.json.
    """
    description = describe(path)
    if description.form == ALLENNLP:
        return load_published(description)
    description, tokenizer, tensors = read_folder(description)
    module = build_empty(description, tensors)
    state, absent, surplus = module_state(description, module, tensors)
    fill(module, description, state, absent)
    notes = list(description.notes)
    if surplus:
        notes.append(
            f"left out, for objective={description.objective} has no use for it: {', '.join(surplus)}"
        )
    if absent:
        notes.append(f"the folder has no weights of the {' and the '.join(sorted(absent))}")
    return Loaded(module.eval(), tokenizer, description, "; ".join(notes))


def initialize_from(module: LanguageModelModule, path: str | Path, tokenizer: TextTokenizer) -> str:
    """Start from the weights of another model: whole where the objective is the same, else its backbone.

    Args:
        module: what is to be trained.
        path: a run folder, a model folder or a hub name.
        tokenizer: this run's.

    Returns:
        what of the heads is drawn anew or not taken over, tensor by tensor; empty where nothing is.

    Raises:
        LmzooError: another vocabulary, or tensors of the backbone, or of the same objective's heads, that
            are missing, unexpected or of another shape.
    """
    description = describe(path)
    if description.form == ALLENNLP:  # it has no vocabulary, and spells this run's words
        state, absent = own_weights(load_published(description).module), {HEAD}
    else:
        description, theirs, tensors = read_folder(description)
        if theirs.fingerprint() != tokenizer.fingerprint():
            raise LmzooError(
                f"init_from={path} has another vocabulary than this run; "
                f"take its own with tokenizer.file={description.tokenizer_path}"
            )
        state, absent, _ = module_state(description, build_empty(description, tensors), tensors)
    own = own_weights(module)
    # a folder without heads, and another objective, leave the heads to be drawn
    same = description.objective == module.objective.config.name and not absent
    theirs_is, ours_is = (
        "adaptive" if is_adaptive(config) else "full"
        for config in (description.objective_config, module.objective.config)
    )
    if same and theirs_is != ours_is:
        raise LmzooError(
            f"init_from={path} has the head of objective.loss={theirs_is} and this run that of {ours_is}: give "
            f"objective.loss={theirs_is}, or another objective, which takes the backbone alone"
        )
    strict = "" if same else f"{BACKBONE}."
    here = {name for name in own if name.startswith(strict) and name != SPELLING}
    here = {name for name in here if not name.startswith(TRAINING_ALONE)}
    there = {name for name in state if name.startswith(strict) and name != SPELLING}
    refuse_misfits(
        f"init_from={path} has another architecture than this run: "
        f"give the model the shape that {description.folder} has",
        {
            "missing": sorted(here - there),
            "unexpected": sorted(there - here),
            "of another shape": [
                f"{name} {tuple(state[name].shape)} for {tuple(own[name].shape)}"
                for name in sorted(here & there)
                if state[name].shape != own[name].shape
            ],
        },
    )
    fitting = {name: t for name, t in state.items() if name in own and t.shape == own[name].shape}
    fitting.pop(SPELLING, None)
    with torch.no_grad():
        module.load_state_dict(fitting, strict=False)
    drawn, left = sorted(set(own) - set(fitting) - {SPELLING}), sorted(set(state) - set(fitting) - {SPELLING})
    told = [
        f"{what}: {', '.join(names)}" for what, names in (("drawn anew", drawn), ("left out", left)) if names
    ]
    return "; ".join(told)
