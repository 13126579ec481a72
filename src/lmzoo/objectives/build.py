"""From an objective's config to the objective."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from lmzoo.nn.adaptive import AdaptiveHead, build_head
from lmzoo.nn.config import ModelConfig
from lmzoo.nn.embedding import Embedding
from lmzoo.objectives.base import Objective
from lmzoo.objectives.bilm import Bilm
from lmzoo.objectives.clm import Clm
from lmzoo.objectives.config import (
    BilmConfig,
    ClmConfig,
    HybridConfig,
    MlmConfig,
    MlmNspConfig,
    MlmSopConfig,
    ObjectiveConfig,
    PhasesConfig,
    PrefixConfig,
    RtdConfig,
    SgnsConfig,
    TokenLossConfig,
    generator_config,
    with_cutoffs,
)
from lmzoo.objectives.mixed import Mixed
from lmzoo.objectives.mlm import Mlm
from lmzoo.objectives.mlm_nsp import MlmNsp
from lmzoo.objectives.mlm_sop import MlmSop
from lmzoo.objectives.rtd import Rtd
from lmzoo.objectives.sgns import Sgns
from lmzoo.types import Context, SpecialTokens


def build_objective(
    config: ObjectiveConfig,
    model: ModelConfig,
    embedding: Embedding,
    special: SpecialTokens,
    context: Context,
    token_bytes: Tensor | None = None,
    joints: Tensor | None = None,
    unigrams: Tensor | None = None,
) -> Objective:
    """The objective with its heads, which share the embedding's table where the model ties them."""
    match config:
        case HybridConfig() | PrefixConfig() | PhasesConfig():  # before the class they are made from
            objective, merges = Mixed, False
        case MlmNspConfig():  # before the class it is made from
            objective, merges = MlmNsp, True
        case MlmSopConfig():
            objective, merges = MlmSop, True
        case RtdConfig():
            objective, merges = partial(Rtd, embedding=embedding), True
        case MlmConfig():
            objective, merges = Mlm, True
        case BilmConfig():
            objective, merges = Bilm, False
        case ClmConfig():
            objective, merges = Clm, False
        case SgnsConfig():
            objective, merges = Sgns, False
        case _:
            raise TypeError(f"no objective is built from {type(config).__name__}")
    streams = 2 if merges and context is Context.APART else 1
    reads = generator_config(model, config.generator_size) if isinstance(config, RtdConfig) else model
    config = with_cutoffs(config, special.vocab_size)
    adaptive = (
        config if isinstance(config, TokenLossConfig) and config.loss == "adaptive" else TokenLossConfig()
    )
    head = build_head(
        model,
        embedding,
        streams=streams,
        states_size=reads.hidden_size,
        cutoffs=adaptive.cutoffs,
        divisor=adaptive.tail_divisor or 1.0,
    )
    if isinstance(head, AdaptiveHead) and unigrams is not None:
        head.tell_counts(unigrams)
    built = objective(config, model, head, special, context, token_bytes)  # type: ignore[arg-type]
    if isinstance(built, Mlm):
        built.tell_joints(joints)
    if isinstance(built, Sgns):
        built.tell_unigrams(unigrams)
    return built
