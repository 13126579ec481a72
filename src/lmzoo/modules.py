"""The families of models: LightningModules over one base, which any legal objective may train.

Any of their encoders can stand in another's seat.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from lmzoo.backbone import build_backbone
from lmzoo.data.config import PAIR_VIEWS
from lmzoo.errors import LmzooError
from lmzoo.language_model import VALIDATION_KEY, LanguageModelModule
from lmzoo.nn.config import LstmConfig, ModelConfig, PastLstmConfig, StaticConfig, TransformerConfig
from lmzoo.nn.sizes import complete
from lmzoo.objectives.build import build_objective
from lmzoo.objectives.config import (
    OBJECTIVES,
    ObjectiveConfig,
    check_vocabulary,
    choose_context,
    complete_objective,
)
from lmzoo.types import SpecialTokens

__all__ = [
    "FAMILIES",
    "MODULES",
    "VALIDATION_KEY",
    "BertModule",
    "ElmoModule",
    "GptModule",
    "LanguageModelModule",
    "LstmModule",
    "Word2VecModule",
]


class _FamilyModule(LanguageModelModule):
    """A family: its own model config and objective by default, any legal one on demand."""

    family: ClassVar[str]
    model_type: ClassVar[type[ModelConfig]]
    own_objective: ClassVar[str]

    def __init__(
        self,
        objective: str | ObjectiveConfig | None = None,
        *,
        size: str | None = None,
        model: ModelConfig | None = None,
        special: SpecialTokens | None = None,
        token_bytes: Tensor | None = None,
        joints: Tensor | None = None,
        unigrams: Tensor | None = None,
        characters: Tensor | None = None,
        pairs: bool | None = None,
        seq_len: int = 128,
        context: str | None = None,
        seed: int = 1,
        **training: Any,
    ) -> None:
        """
        Args:
            objective: its name or config; the family's own by default.
            size: fills what ``model`` leaves open; the smallest by default.
            model: the model's config; the controlled line's by default.
            special: special tokens and vocabulary size; 8,192 pieces by default.
            token_bytes: (V,) bytes each id stands for, for bits per byte.
            joints: (V,) uint8 which ids make one word, for `objective.unit`; see ``lmzoo.text.joints``.
            unigrams: (V,) int64 how often each id stands in the training text, for `objective=sgns`, which
                without them draws all alike, and for the accounts of an adaptive softmax.
            characters: (V, C) characters of every token, where ``model.is_spelt``;
                see ``lmzoo.nn.char_cnn.characters_of``.
            pairs: whether rows have two segments; by default, if the objective needs them.
            seq_len: longest row, for learned positions.
            context: where the objective and the encoder share several; the objective's first by default.
            seed: of the initial weights and of all that is drawn in training.
            training: see ``LanguageModelModule``.

        Raises:
            LmzooError: the objective, the size, the pair of model and objective, or of objective and
                vocabulary is not possible.
        """
        config = complete_objective(_objective_config(objective or self.own_objective))
        model = model or self.model_type(name=self.family)
        paired = config.views[0] in PAIR_VIEWS if pairs is None else pairs
        model = complete(model, size=size, pairs=paired, seq_len=seq_len)
        chosen = choose_context(model, config, context)
        special = special or SpecialTokens(8192)
        check_vocabulary(config, special)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            backbone = build_backbone(model, chosen, special.vocab_size, characters)
            built = build_objective(
                config, model, backbone.embedding, special, chosen, token_bytes, joints, unigrams
            )
        super().__init__(backbone, built, seed=seed, **training)


def _objective_config(objective: str | ObjectiveConfig) -> ObjectiveConfig:
    if isinstance(objective, ObjectiveConfig):
        return objective
    if objective not in OBJECTIVES:
        raise LmzooError(f"objective={objective} is not known; choose one of: {', '.join(OBJECTIVES)}")
    return OBJECTIVES[objective]()


class ElmoModule(_FamilyModule):
    """ELMo: a projected biLSTM; by default with its biLM. ``ElmoModule(size="mini")``."""

    family, model_type, own_objective = "elmo", LstmConfig, "bilm"


class LstmModule(_FamilyModule):
    """An LSTM of the past alone, of ELMo's layers; with the causal LM. ``LstmModule(size="mini")``."""

    family, model_type, own_objective = "lstm", PastLstmConfig, "clm"


class GptModule(_FamilyModule):
    """GPT: the Transformer; by default with the causal LM. ``GptModule(size="mini")``."""

    family, model_type, own_objective = "gpt", TransformerConfig, "clm"


class BertModule(_FamilyModule):
    """BERT: the same Transformer; by default with the masked LM. ``BertModule("mlm_nsp")``."""

    family, model_type, own_objective = "bert", TransformerConfig, "mlm"


class Word2VecModule(_FamilyModule):
    """word2vec: a table alone; with skip-gram and negative sampling. ``Word2VecModule(size="mini")``."""

    family, model_type, own_objective = "word2vec", StaticConfig, "sgns"


FAMILIES: dict[str, type[_FamilyModule]] = {
    "elmo": ElmoModule,
    "lstm": LstmModule,
    "gpt": GptModule,
    "bert": BertModule,
    "word2vec": Word2VecModule,
}
MODULES: dict[str, type[_FamilyModule]] = FAMILIES | {
    "elmo_2018": ElmoModule,
    "gpt_2018": GptModule,
    "gpt2": GptModule,
    "bert_2018": BertModule,
}
"""The module of every model's name; a published one differs from its family in its config alone."""
