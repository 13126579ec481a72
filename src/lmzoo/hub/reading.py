"""From the tensors of a folder to a module that holds them, strictly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor, nn

from lmzoo.errors import LmzooError
from lmzoo.hub.describe import OWN, Description
from lmzoo.hub.files import read_weights
from lmzoo.hub.headers import ADVICE, CONFIG, GENERATOR_FOLDER
from lmzoo.hub.native import (
    ANSWER,
    GENERATOR,
    HEAD,
    PAIR_HEAD,
    TABLE,
    entries,
    from_native,
    own_entries,
    put_right,
)
from lmzoo.modules import MODULES, LanguageModelModule
from lmzoo.nn.config import TransformerConfig
from lmzoo.nn.heads import VocabularyHead
from lmzoo.text.tokenizer import TextTokenizer, load_tokenizer

SPELLING = "backbone.embedding.tokens.spelling"
"""The buffer of a char-CNN that belongs to the vocabulary, not to the weights."""


@dataclass(frozen=True)
class Loaded:
    """A model as it came out of a folder."""

    module: LanguageModelModule
    """On the CPU, ready to measure."""
    tokenizer: TextTokenizer
    description: Description
    note: str = ""
    """What of the folder did not come in, or was not in it."""


class AbsentHead(nn.Module):
    """Stands where a folder had no weights of the token head, and says so when it is asked."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def _refuse(self, *_: object) -> NoReturn:
        raise LmzooError(
            f"{self.folder} has no weights of a head that predicts tokens, so its model can embed and do "
            "nothing else; take a folder with heads, or train them with init_from="
        )

    forward = transform = logits = loss = scores = flops_per_prediction = _refuse


class AbsentPairHead(AbsentHead):
    """The same for the head of sentence pairs."""

    def _refuse(self, *_: object) -> NoReturn:
        raise LmzooError(f"{self.folder} has no weights of the head for sentence pairs; give another folder")

    forward = flops_per_row = _refuse


def read_folder(
    description: Description,
) -> tuple[Description, TextTokenizer, dict[str, Tensor]]:
    """The tokenizer and the tensors of a described folder, and the description with its special tokens.

    Raises:
        LmzooError: a file is damaged, carries code, or is not that of the model.
    """
    assert description.tokenizer_path is not None
    tokenizer = load_tokenizer(description.tokenizer_path)
    described = _with_special(description, tokenizer)
    tensors = read_weights(description.folder)
    if description.form == "electra" and description.special is not None:  # written here, so with its size
        tensors |= _read_generator(description.folder / GENERATOR_FOLDER, tensors)
    return described, tokenizer, tensors


def _read_generator(folder: Path, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of ELECTRA's other half, which shares its embedding; none where it is not there."""
    if not folder.is_dir():
        return {}
    found = read_weights(folder)
    shared = {name for name in found if name.startswith("electra.embeddings.")}
    for name in sorted(shared):
        if name not in tensors or not torch.equal(found[name], tensors[name]):
            raise LmzooError(
                f"{folder}: {name} is not that of the model above it, and a generator here shares it; "
                "take that folder away to load the model alone"
            )
    return {f"{GENERATOR}{name}": tensor for name, tensor in found.items() if name not in shared}


def _with_special(description: Description, tokenizer: TextTokenizer) -> Description:
    """Special tokens as the tokenizer names them, where the config does not."""
    rows = description.vocab_size or tokenizer.vocab_size
    if rows < tokenizer.vocab_size:
        raise LmzooError(
            f"{description.folder}: the tokenizer has {tokenizer.vocab_size} pieces and the model "
            f"{rows} (vocab_size); put the tokenizer there that the model was trained with"
        )
    special = description.special or replace(tokenizer.special, vocab_size=rows)
    if tuple(vars(special).values())[1:] != tuple(vars(tokenizer.special).values())[1:]:
        raise LmzooError(
            f"{description.folder}: the special tokens of its tokenizer are not those of {CONFIG}; "
            "put the tokenizer there that the model was trained with"
        )
    return replace(description, special=special, vocab_size=rows)


def build_empty(description: Description, tensors: Mapping[str, Tensor]) -> LanguageModelModule:
    """The module of a description, without memory for its weights.

    Raises:
        LmzooError: the config makes no model.
    """
    model = description.model
    characters = tensors.get(SPELLING)
    if model.is_spelt and characters is None:
        raise LmzooError(
            f"{description.folder} has no {SPELLING}, the spelling of its words; export it again"
        )
    if (model.num_layers or 0) + (model.num_highway or 0) + len(model.filters or []) > len(tensors):
        raise LmzooError(
            f"{description.folder / CONFIG} says {model.num_layers} layers, and the folder has "
            f"{len(tensors)} tensors; {ADVICE}"
        )
    try:
        with torch.device("meta"):
            return MODULES[model.name](
                description.objective_config,
                model=model,
                special=description.special,
                characters=characters,
                context=description.context,
            )
    except (ValueError, RuntimeError, TypeError, AssertionError, KeyError, ArithmeticError) as error:
        raise LmzooError(
            f"{description.folder / CONFIG} makes no model ({str(error) or type(error).__name__})"
        ) from error


def module_state(
    description: Description, module: LanguageModelModule, tensors: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], set[str], list[str]]:
    """A folder's tensors under a module's names, strictly.

    Returns:
        the tensors, the heads of which there is nothing, and the names of surplus tensors left out.

    Raises:
        LmzooError: naming each tensor that is missing, unexpected or of another shape.
    """
    model, folder = description.model, description.folder
    where = f"the weights in {folder} do not fit its {CONFIG}"
    shapes = {name: tensor.shape for name, tensor in module.state_dict().items()}
    if description.form == OWN:
        tied = tied_decoders(module) if model.tied else {}
        names = [name for name in shapes if name not in tied and name != SPELLING]
        given = {name: tensor for name, tensor in tensors.items() if name != SPELLING}
        state, absent = from_native(own_entries(names), given, shapes, where)
        if SPELLING in shapes:
            state[SPELLING] = tensors[SPELLING]
        return state, absent, []
    assert isinstance(model, TransformerConfig)
    put, surplus = put_right(description.form, model, description.objective, tensors, where)
    table = entries(description.form, model, description.objective, shapes)
    state, absent = from_native(table, put, shapes, where)
    return state, absent, surplus


def tied_decoders(module: LanguageModelModule) -> dict[str, VocabularyHead]:
    """Every head over the vocabulary, by the name of its decoder, which in a tied model is the table."""
    heads = module.objective.named_modules(prefix="objective")
    return {f"{name}.decoder": head for name, head in heads if isinstance(head, VocabularyHead)}


def fill(
    module: LanguageModelModule, description: Description, state: Mapping[str, Tensor], absent: set[str]
) -> None:
    """Give a module built without memory its weights, and put refusals where it has no head."""
    model, folder, given = description.model, description.folder, dict(state)
    tied = tied_decoders(module) if model.tied else {}
    given |= dict.fromkeys(tied, given[TABLE]) if tied else {}
    module.load_state_dict(given, strict=False, assign=True)
    for head in tied.values():
        head.decoder = module.backbone.embedding.tokens.weight  # type: ignore[assignment]
    if HEAD in absent:
        module.objective.head = AbsentHead(folder)  # type: ignore[assignment]
        if hasattr(module.objective, "generator"):
            module.objective.generator = AbsentHead(folder)
    if ANSWER in absent:
        module.objective.discriminator = AbsentHead(folder)
    if PAIR_HEAD in absent:
        module.objective.pair_head = AbsentPairHead(folder)
    empty = [name for name, tensor in module.state_dict().items() if tensor.is_meta]
    assert not empty, empty
