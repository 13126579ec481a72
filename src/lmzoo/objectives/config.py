"""What can be said about an objective on the command line, and what each asks of a model and a view."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from lmzoo.errors import LmzooError, MismatchError
from lmzoo.nn.config import MODELS, LstmConfig, ModelConfig, TransformerConfig
from lmzoo.types import Context, SpecialTokens


@dataclass
class ObjectiveConfig:
    """What every objective says of itself."""

    contexts: ClassVar[tuple[Context, ...]] = ()
    """Contexts it accepts, the preferred one first."""
    views: ClassVar[tuple[str, ...]] = (
        *("stream", "sentences", "pairs", "ordered_pairs"),
        *("sentence_pairs", "full_sentences", "doc_sentences"),
    )
    """Views it accepts, the preferred one first."""

    name: str = ""


@dataclass
class TokenLossConfig(ObjectiveConfig):
    """What the objectives that predict tokens say of their loss in training. Validation is always the
    cross-entropy over the whole vocabulary; a loss of another kind is logged under its own name."""

    loss: str = "full"
    """`full` (over the whole vocabulary), or for very many words `sampled` (over a sample of it) or `adaptive` (a
    softmax in clusters, with narrower vectors for rarer words: another head, which validation reads too)."""
    num_samples: int = 8192
    """`loss=sampled`: how many ids a step samples, on average; ELMo's 8,192."""
    cutoffs: list[int] | None = None
    """`loss=adaptive`: the first id of each cluster of rarer words, as [2000,10000]; derived from the vocabulary."""
    tail_divisor: float | None = None
    """`loss=adaptive`: by what the vectors of each cluster are narrower than those of the one before; without it, 4."""
    label_smoothing: float = 0.0
    """Share of each target's weight that is spread evenly over the vocabulary."""


@dataclass
class BilmConfig(TokenLossConfig):
    """ELMo's bidirectional language model (Peters et al. 2018, section 3.1)."""

    contexts: ClassVar[tuple[Context, ...]] = (Context.APART,)

    name: str = "bilm"


@dataclass
class ClmConfig(TokenLossConfig):
    """The causal language model (Radford et al. 2018, section 3.1)."""

    contexts: ClassVar[tuple[Context, ...]] = (Context.PAST,)

    name: str = "clm"


@dataclass
class MlmConfig(TokenLossConfig):
    """The masked language model (Devlin et al. 2019, section 3.1)."""

    contexts: ClassVar[tuple[Context, ...]] = (Context.FULL, Context.APART)

    name: str = "mlm"
    mask_rate: float = 0.15
    """Share of the positions to predict, in training; validation always takes 15 %."""
    final_mask_rate: float | None = None
    """The share at the end of the budget, to which it goes in a straight line; without it, it stays."""
    mask_share: float = 0.8
    """Of those, the share replaced by `[MASK]`."""
    random_share: float = 0.1
    """The share replaced by a random token."""
    keep_share: float = 0.1
    """The share left as it is; the three shares sum to 1."""
    unit: str = "token"
    """What is chosen as one, in training: `token`, `word` (all pieces of a word), `span` (words in a row, of
    geometric length, replaced or kept together: SpanBERT's) or `ngram` (one to three words: ALBERT's)."""
    words: str | None = None
    """For texts that do not part their words (Chinese), a file of words, one a line, or of sentences whose words are
    parted by spaces: tokens that spell such a word are one, the longest first, parted as in these sentences; with
    every unit but `token`. Sure of words in characters (tokenizer=wordpiece)."""
    span_boundary: bool = False
    """`unit=span`: predict each token of a span also from the two states just outside of it, and add that loss
    (SpanBERT's span-boundary objective)."""


@dataclass
class MlmNspConfig(MlmConfig):
    """Masked LM and next sentence prediction (Devlin et al. 2019, section 3.1, task 2)."""

    views: ClassVar[tuple[str, ...]] = ("pairs", "sentence_pairs")

    name: str = "mlm_nsp"


@dataclass
class MlmSopConfig(MlmConfig):
    """Masked LM and sentence order prediction (Lan et al. 2020, section 3.1)."""

    views: ClassVar[tuple[str, ...]] = ("ordered_pairs",)

    name: str = "mlm_sop"


DETECTS = ("electra", "electra_15")
"""Variants of `rtd` whose discriminator says which tokens were replaced; in the others it restores them."""


@dataclass
class RtdConfig(MlmConfig):
    """Replaced-token detection (ELECTRA: Clark et al. 2020, section 2): a generator fills the masked places."""

    name: str = "rtd"
    mask_share: float = 1.0
    random_share: float = 0.0
    keep_share: float = 0.0
    generator_size: float = 0.25
    """Width, heads and feed-forward width of the generator, as a share of the model's; it has as many layers."""
    discriminator_weight: float | None = None
    """What the discriminator's loss counts beside the generator's; derived: 50, or 1 where it restores tokens."""
    variant: str = "electra"
    """What the discriminator answers (section 3.4): `electra`, replaced or not at every position; `electra_15`, at
    the masked ones alone; `replace_mlm`, which token stood at the masked ones; `all_tokens_mlm`, at every one."""


@dataclass
class SgnsConfig(ObjectiveConfig):
    """Skip-gram with negative sampling (Mikolov et al. 2013): a token's neighbours against drawn tokens."""

    contexts: ClassVar[tuple[Context, ...]] = (Context.NONE,)
    views: ClassVar[tuple[str, ...]] = ("stream", "sentences", "full_sentences", "doc_sentences")

    name: str = "sgns"
    window: int = 5
    """Tokens at most on each side; how many, is drawn for each token. Validation always takes 5."""
    negatives: int = 5
    """Drawn tokens a pair. Validation always takes 5."""
    subsample: float = 1e-3
    """What is more frequent than this share of the text is thinned out; 0 keeps all. Validation: 1e-3."""


@dataclass
class HybridConfig(MlmConfig):
    """Causal and masked rows over one Transformer (Charpentier and Samuel 2024, section 2)."""

    contexts: ClassVar[tuple[Context, ...]] = (Context.MIXED,)

    name: str = "hybrid"
    causal_share: float = 0.0625
    """Share of the rows that are read as by a causal LM, and exactly so many of any rows in a row; the others
    are masked."""
    shifted: bool = True
    """Whether a masked token is predicted from the place before its own, as the next token is."""


@dataclass
class PrefixConfig(TokenLossConfig):
    """The prefix LM: a document's beginning is read in both directions, the rest predicted from what is before
    it (Dong et al. 2019, section 2.3; Raffel et al. 2020, section 3.2.1)."""

    contexts: ClassVar[tuple[Context, ...]] = (Context.MIXED,)

    name: str = "prefix"


PHASES = ("clm", "mlm", "hybrid", "prefix")
"""Objectives that `phases` strings together: all of them predict tokens alone, by one head."""


@dataclass
class PhasesConfig(MlmConfig):
    """One objective after another over one Transformer, by shares of the budget; rates and shares are those of
    masked rows in any of them."""

    contexts: ClassVar[tuple[Context, ...]] = (Context.MIXED,)

    name: str = "phases"
    phases: list[str] = field(default_factory=lambda: ["clm:0.25", "mlm:0.75"])
    """OBJECTIVE:SHARE in the order of the run, of `clm`, `mlm`, `hybrid` (a sixteenth of it causal) and
    `prefix`; the shares sum to 1."""
    shifted: bool = False
    """Whether a masked token is predicted from the place before its own, as the next token is."""


OBJECTIVES: dict[str, type[ObjectiveConfig]] = {
    "bilm": BilmConfig,
    "clm": ClmConfig,
    "hybrid": HybridConfig,
    "mlm": MlmConfig,
    "mlm_nsp": MlmNspConfig,
    "mlm_sop": MlmSopConfig,
    "phases": PhasesConfig,
    "prefix": PrefixConfig,
    "rtd": RtdConfig,
    "sgns": SgnsConfig,
}


def complete_objective(objective: ObjectiveConfig) -> ObjectiveConfig:
    """The same objective with nothing left open."""
    if isinstance(objective, RtdConfig) and objective.discriminator_weight is None:
        return replace(objective, discriminator_weight=50.0 if objective.variant in DETECTS else 1.0)
    return objective


def generator_config(model: ModelConfig, share: float) -> ModelConfig:
    """The config of a generator: the model's, with a share of its width, heads and feed-forward width.

    As many layers, and at least one head; the width is a whole and even number of times the heads.

    Args:
        model: complete.
        share: 0 to 1, 0 excluded.
    """
    if share == 1:
        return model
    assert model.hidden_size
    changes: dict[str, Any] = {"vectors": None, "freeze_vectors": False}
    heads = 1
    if isinstance(model, TransformerConfig):
        assert model.num_heads and model.ffn_size
        heads = max(1, round(model.num_heads * share))
        changes |= {"num_heads": heads, "ffn_size": max(1, round(model.ffn_size * share))}
    if isinstance(model, LstmConfig):
        assert model.cell_size
        changes["cell_size"] = max(1, round(model.cell_size * share))
    width = 2 * heads * max(1, round(model.hidden_size * share / (2 * heads)))
    # behind a projection, the first layer has no norm before it but its own
    changes["embedding_norm"] = model.embedding_norm and width == model.hidden_size
    return replace(model, hidden_size=width, **changes)


def phases_of(config: PhasesConfig) -> list[tuple[str, float]]:
    """Name and share of the budget of each phase.

    Raises:
        LmzooError: it is not said as OBJECTIVE:SHARE, or the shares do not sum to 1.
    """
    found = []
    for text in config.phases:
        name, _, share = text.partition(":")
        try:
            found.append((name, float(share)))
        except ValueError:
            found.append((name, math.nan))
        if name not in PHASES or not 0 < found[-1][1] <= 1:
            raise LmzooError(
                f"objective.phases={text} is not possible: give OBJECTIVE:SHARE, as clm:0.25, with one of "
                f"{', '.join(PHASES)} and a share above 0, at most 1"
            )
    total = sum(share for _, share in found)
    if not math.isclose(total, 1.0, abs_tol=1e-6):
        raise LmzooError(
            f"objective.phases=[{','.join(config.phases)}] sum to {total:g}; give shares that sum to 1"
        )
    return found


READINGS = ("full", "past")
"""What a row of mixed context may see, where a trained model is used."""


def readings_of(config: ObjectiveConfig) -> dict[str, str]:
    """As what a model of mixed context can be used: what its rows see → the objective it then stands for.

    `past` → `clm`, `full` → `mlm`, or of a prefix LM `prefix`, which predicts nothing that all may see. The one
    that is taken where none is asked for stands first.
    """
    match config:
        case HybridConfig():
            return {"full": "mlm", "past": "clm"}
        case PrefixConfig():
            names = {"prefix"}
        case PhasesConfig():
            names = {name for name, _ in phases_of(config)}
        case _:
            return {}
    full = {"full": "mlm"} if names & {"mlm", "hybrid"} else {}
    past = {"past": "clm"} if names != {"mlm"} else {}
    return full | past | ({"full": "prefix"} if "prefix" in names and not full else {})


def choose_context(model: ModelConfig, objective: ObjectiveConfig, given: str | None = None) -> Context:
    """The context of a run: ``given``, or the first of the encoder's that the objective takes.

    Raises:
        MismatchError: where the pair is impossible, naming both sides and the choices that would work.
    """
    shared = [context for context in model.contexts if context in objective.contexts]
    if not shared:
        needs = " or ".join(context.value for context in objective.contexts)
        gives = ", ".join(context.value for context in model.contexts) or "none"
        objectives = [name for name, other in OBJECTIVES.items() if set(other.contexts) & set(model.contexts)]
        models = [name for name, other in MODELS.items() if set(other.contexts) & set(objective.contexts)]
        raise MismatchError(
            f"objective={objective.name} needs the context {needs}, and model={model.name} gives {gives}; "
            f"with this model choose objective={'|'.join(objectives)}, "
            f"with this objective model={'|'.join(models)}"
        )
    if given is None:
        return shared[0]
    if Context(given) not in shared:
        raise MismatchError(
            f"context={given} does not go with model={model.name} objective={objective.name}; "
            f"choose one of: {', '.join(context.value for context in shared)}"
        )
    return Context(given)


def by_words(objective: ObjectiveConfig) -> bool:
    """Whether it must be told which tokens make a word."""
    return isinstance(objective, MlmConfig) and objective.unit != "token"


def is_adaptive(objective: ObjectiveConfig) -> bool:
    """Whether its head is an adaptive softmax."""
    return isinstance(objective, TokenLossConfig) and objective.loss == "adaptive"


def with_cutoffs(objective: ObjectiveConfig, vocab_size: int) -> ObjectiveConfig:
    """The same objective, an adaptive softmax with its cutoffs and divisor filled (4, as PyTorch has it).

    They are shares of the vocabulary near those that Baevski and Auli 2019, "Adaptive input representations for
    neural language modeling", section 4, took: 20,000 and 60,000 of 267,735 words, 60,000 and 160,000 of 793,471.

    Raises:
        LmzooError: those that are given do not ascend within the vocabulary.
    """
    if not (isinstance(objective, TokenLossConfig) and objective.loss == "adaptive"):
        return objective
    if objective.tail_divisor is None:
        objective = replace(objective, tail_divisor=4.0)
    if objective.cutoffs is not None:
        check_cutoffs(objective.cutoffs, vocab_size)
        return objective
    first = max(1, vocab_size * 3 // 40)
    return replace(objective, cutoffs=[first, max(first + 1, vocab_size * 9 // 40)])


def check_cutoffs(cutoffs: list[int], vocab_size: int | None) -> None:
    """Raises LmzooError where they do not ascend from above 0 to below the vocabulary's size, if that is known."""
    end = [] if vocab_size is None else [vocab_size]
    if not cutoffs or sorted({0, *cutoffs, *end}) != [0, *cutoffs, *end]:
        size = (
            "the size of the vocabulary" if vocab_size is None else f"the {vocab_size} ids of the vocabulary"
        )
        raise LmzooError(
            f"objective.cutoffs=[{','.join(map(str, cutoffs))}] do not ascend between 0 and {size}; give the first "
            "id of each cluster of rarer words, or leave them out"
        )


def by_counts(objective: ObjectiveConfig) -> bool:
    """Whether it must be told how often each token stands in the training text."""
    return isinstance(objective, SgnsConfig) or is_adaptive(objective)


def check_vocabulary(objective: ObjectiveConfig, special: SpecialTokens) -> None:
    """Raises LmzooError where the objective needs a `[MASK]` that the vocabulary has not."""
    if isinstance(objective, MlmConfig) and special.mask is None:
        others = [name for name, kind in OBJECTIVES.items() if not issubclass(kind, MlmConfig)]
        raise LmzooError(
            f"objective={objective.name} needs a mask token, and this tokenizer has none; "
            f"choose objective={'|'.join(others)}, or another tokenizer"
        )
