"""What may be said together of the model and the objective; needs no file, no weight and no machine."""

from __future__ import annotations

import math

from lmzoo.errors import LmzooError, MismatchError, one_of
from lmzoo.nn.config import MODELS, ModelConfig, StaticConfig, TransformerConfig
from lmzoo.objectives.config import (
    OBJECTIVES,
    MlmConfig,
    ObjectiveConfig,
    PhasesConfig,
    RtdConfig,
    TokenLossConfig,
    check_cutoffs,
    phases_of,
)
from lmzoo.text.config import TokenizerConfig

NO_BOUNDARIES = ("hybrid", "phases")
"""Masked LMs that have no second prediction from around a span."""


def check_view(objective: ObjectiveConfig, view: str) -> None:
    """Raises MismatchError where the objective does not take this view of the corpus."""
    if view not in objective.views:
        takers = [name for name, other in OBJECTIVES.items() if view in other.views]
        raise MismatchError(
            f"objective={objective.name} does not take data.view={view}; "
            f"choose data.view={'|'.join(objective.views)}, or objective={'|'.join(takers)}"
        )


def check_model(model: ModelConfig, seq_len: int) -> None:
    """Check a model whose open values are filled. Raises LmzooError."""
    if not isinstance(model, MODELS[model.name]):
        raise LmzooError(f"model.name={model.name} belongs to another choice: give model={model.name}")
    for key, choices in (
        ("positions", model.position_choices),
        ("initializer", model.initializer_choices),
    ):
        try:
            one_of(f"model.{key}", getattr(model, key), choices)
        except LmzooError as error:  # another model may have it
            raise MismatchError(str(error)) from error
    _check_embedding(model)
    if model.positions == "learned" and (model.max_positions or 0) < seq_len:
        raise MismatchError(
            f"model.max_positions={model.max_positions} is less than seq_len={seq_len}; "
            "lower seq_len, or raise model.max_positions"
        )
    if model.positions == "sinusoidal" and (model.hidden_size or 0) % 2:
        raise MismatchError(
            f"model.positions=sinusoidal needs an even model.hidden_size, and it is {model.hidden_size}"
        )
    if isinstance(model, TransformerConfig):
        _check_heads(model)
        _check_local(model)
    if isinstance(model, StaticConfig) and model.num_layers is not None:
        raise MismatchError(
            f"model={model.name} has no layers; leave model.num_layers={model.num_layers} out"
        )


def _check_embedding(model: ModelConfig) -> None:
    if model.freeze_vectors and model.vectors is None:
        raise MismatchError("model.freeze_vectors=true needs model.vectors=: a text file of word vectors")
    if model.embedding != "ngrams":
        for key in ("ngrams", "buckets"):
            if getattr(model, key) is not None:
                raise MismatchError(f"model.{key} belongs to model.embedding=ngrams; give that, or drop it")
    if not model.is_spelt:
        return
    kind = f"model.embedding={model.embedding}"
    if model.tied:
        raise MismatchError(f"{kind} has no table that the output could share; give model.tied=false")
    if model.vectors is not None:
        raise MismatchError(f"model.vectors= fills a table, and {kind} has none; drop one")
    if model.embedding == "ngrams":
        sizes = model.ngrams or []
        if len(sizes) != 2 or not 1 <= sizes[0] <= sizes[1] <= model.characters_per_token:
            raise MismatchError(
                f"model.ngrams={sizes} is not possible: give the shortest and the longest, as in [3,6], from 1 "
                f"up to model.characters_per_token={model.characters_per_token}"
            )
        return
    filters = model.filters or []
    if not filters or min(filters) < 1 or len(filters) > model.characters_per_token:
        raise MismatchError(
            f"model.filters={filters} is not possible: give the number of filters of width 1, 2, 3, …, each "
            f"at least 1, up to width model.characters_per_token={model.characters_per_token}"
        )


def _check_heads(model: TransformerConfig) -> None:
    hidden_size, num_heads = model.hidden_size or 0, model.num_heads or 1
    if hidden_size % num_heads:
        fitting = [heads for heads in range(1, hidden_size + 1) if hidden_size % heads == 0]
        near = sorted(sorted(fitting, key=lambda heads: abs(heads - num_heads))[:3])
        raise MismatchError(
            f"model.hidden_size={hidden_size} cannot be divided among model.num_heads={num_heads}; "
            f"try model.num_heads={'|'.join(map(str, near))}"
        )
    if model.positions == "rotary" and (hidden_size // num_heads) % 2:
        raise MismatchError(
            f"model.positions=rotary needs heads of an even size, and model.hidden_size={hidden_size} over "
            f"model.num_heads={num_heads} gives {hidden_size // num_heads}; change one of the two"
        )


def _check_local(model: TransformerConfig) -> None:
    window = model.local_window
    for key in ("global_every", "local_rotary_base"):
        if window is None and getattr(model, key) is not None:
            raise MismatchError(
                f"model.{key}={getattr(model, key)} is for local layers, and model.local_window= is not given; "
                "give it, or drop the other"
            )
    if window is None:
        return
    if window % 2:
        raise LmzooError(
            f"model.local_window={window} cannot be halved; half of it lies on either side, so give an even one"
        )
    if model.num_layers == 1:
        raise MismatchError(
            f"model.local_window={window} with model.num_layers=1 makes no layer local, for the first one sees "
            "all; give model.num_layers=2 or more, or drop it"
        )
    if model.local_rotary_base is not None and model.positions != "rotary":
        raise MismatchError(
            f"model.local_rotary_base={model.local_rotary_base:g} is for model.positions=rotary, and it is "
            f"{model.positions}; drop one of the two"
        )


def check_objective(objective: ObjectiveConfig) -> None:
    """Raises LmzooError where the three shares of the masked positions do not sum to 1."""
    if type(objective) is not OBJECTIVES[objective.name]:
        raise LmzooError(
            f"objective.name={objective.name} belongs to another choice: give objective={objective.name}"
        )
    if isinstance(objective, PhasesConfig):
        phases_of(objective)
    if isinstance(objective, MlmConfig):
        total = objective.mask_share + objective.random_share + objective.keep_share
        if not math.isclose(total, 1.0, abs_tol=1e-6):
            raise LmzooError(
                f"objective.mask_share={objective.mask_share}, random_share={objective.random_share} and "
                f"keep_share={objective.keep_share} sum to {total:g}; give shares that sum to 1"
            )
        if objective.span_boundary and objective.name in NO_BOUNDARIES:
            raise MismatchError(
                f"objective.span_boundary=true does not go with objective={objective.name}; "
                "choose objective=mlm, mlm_nsp or mlm_sop"
            )
        if objective.span_boundary and objective.unit != "span":
            raise MismatchError(
                f"objective.span_boundary=true needs spans, and objective.unit is {objective.unit}; "
                "give objective.unit=span"
            )
        if objective.span_boundary and isinstance(objective, RtdConfig):
            raise MismatchError(
                "objective.span_boundary=true predicts from the model's own states, and objective=rtd masks for "
                "its generator; drop it, or take objective=mlm"
            )
        if objective.words is not None and objective.unit == "token":
            raise MismatchError(
                f"objective.words={objective.words} is not looked at with objective.unit=token; "
                "give objective.unit=word, span or ngram"
            )


def check_token_loss(objective: ObjectiveConfig, tokenizer: TokenizerConfig) -> None:
    """Raises LmzooError where a setting of the training loss would not be looked at, or has no ground."""
    if not isinstance(objective, TokenLossConfig):
        return
    if isinstance(objective, RtdConfig) and (objective.loss != "full" or objective.label_smoothing):
        raise MismatchError(
            f"objective=rtd knows the plain cross-entropy alone, and objective.loss={objective.loss}, "
            f"objective.label_smoothing={objective.label_smoothing:g} are given; leave them out"
        )
    for key, loss in (("num_samples", "sampled"), ("cutoffs", "adaptive"), ("tail_divisor", "adaptive")):
        value = getattr(objective, key)
        if objective.loss != loss and value != getattr(TokenLossConfig, key):
            raise MismatchError(
                f"objective.{key}={value} goes with objective.loss={loss}; add it, or leave {key} out"
            )
    if objective.loss == "full":
        return
    if objective.label_smoothing:
        raise MismatchError(
            f"objective.label_smoothing={objective.label_smoothing} does not go with "
            f"objective.loss={objective.loss}, which does not see the whole vocabulary; drop one of them"
        )
    if tokenizer.name not in ("word", "char"):
        raise MismatchError(
            f"objective.loss={objective.loss} needs ids in the order of their frequency, and "
            f"tokenizer={tokenizer.name} has others; choose tokenizer=word"
        )
    if objective.cutoffs is not None:
        check_cutoffs(objective.cutoffs, None if tokenizer.file else tokenizer.vocab_size)
