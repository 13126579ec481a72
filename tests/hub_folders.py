"""Exports of small models, changed as if other programs had written them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from builders import SMALL
from lmzoo.hub.folder import export_model
from lmzoo.modules import MODULES, LanguageModelModule
from lmzoo.nn.sizes import complete

FORMS = {"bert": ("bert_2018", "mlm_nsp"), "gpt2": ("gpt2", "clm"), "openai-gpt": ("gpt_2018", "clm"),
         "modernbert": ("bert", "mlm"), "modernbert-decoder": ("gpt", "clm")}  # fmt: skip


def made_folder(parent: Path, tokenizer, form: str = "bert", *, foreign: bool = True, **keys: Any) -> Path:
    """An export of a small model, some keys of its config changed; ``foreign`` takes ours out."""
    made = parent / form
    module, config = module_of(form, tokenizer)
    export_model(made, module, config, 24, tokenizer)
    edit(made, **({"lmzoo": None} if foreign else {}) | keys)
    return made


def module_of(form: str, tokenizer) -> tuple[LanguageModelModule, Any]:
    model, objective = FORMS[form]
    given = SMALL[model]
    if form == "openai-gpt":
        given = replace(given, ffn_size=64)
    config = complete(given, size=None, pairs=False, seq_len=24)
    return MODULES[model](objective, model=config, special=tokenizer.special), config


def edit(folder: Path, **keys: Any) -> None:
    """Change keys of config.json; None takes one out, ... leaves it, ``a__b`` is b within a."""
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    for key, value in keys.items():
        *outer, last = key.split("__")
        place = config
        for name in outer:
            place = place[name]
        if value is None:
            place.pop(last, None)
        elif value is not ...:
            place[last] = value
    path.write_text(json.dumps(config), encoding="utf-8")
