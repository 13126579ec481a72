"""Which of our models are models of transformers too, and the config.json they have there. Without torch.

Fields decide, not names: a model named `gpt` with GPT-2's fields is a GPT-2. What a form cannot say is
named, so that nothing is written that would compute something else there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from lmzoo import __version__
from lmzoo.nn.config import ModelConfig, TransformerConfig
from lmzoo.objectives.config import (
    DETECTS,
    MlmConfig,
    ObjectiveConfig,
    RtdConfig,
    generator_config,
    is_adaptive,
)
from lmzoo.types import Context, SpecialTokens


@dataclass(frozen=True)
class Form:
    """A model of transformers, and what a model of ours must be to be one."""

    model_type: str
    title: str
    model: str
    """The name here of a model that is read from it."""
    classes: Mapping[str, str]
    """Objective here → class there."""
    wants: Mapping[str, tuple[Any, ...]]
    """Field of the model's config → the values that have an equivalent there."""

    def differences(self, model: TransformerConfig, objective: ObjectiveConfig) -> list[str]:
        """What of a model is not to be had there, as ``key=value`` with what there is instead."""
        found = [
            f"model.{name}={_spelt(getattr(model, name))} ({self.title} has {_choices(allowed)})"
            for name, allowed in self.wants.items()
            if getattr(model, name) not in allowed
        ]
        segments = model.num_segments or 0
        if self.model_type in _SEGMENTED and not segments:
            found.append(f"model.num_segments=0 ({self.title} has at least one)")
        if self.model_type not in _SEGMENTED and segments:
            found.append(f"model.num_segments={segments} ({self.title} has no segments)")
        if self.model_type == "openai-gpt" and model.ffn_size != 4 * (model.hidden_size or 0):
            found.append(f"model.ffn_size={model.ffn_size} (OpenAI GPT has 4 times the hidden size)")
        if objective.name not in self.classes:
            found.append(f"objective={objective.name} ({self.title} has {_choices(tuple(self.classes))})")
        elif isinstance(objective, RtdConfig) and objective.variant not in DETECTS:
            found.append(f"objective.variant={objective.variant} ({self.title} has {_choices(DETECTS)})")
        return found


_SEGMENTED = ("bert", "electra")
_COMMON = {"embedding": ("table",), "norm": ("layer",), "query_key_norm": (False,)}
_GLOBAL = _COMMON | {"local_window": (None,)}
_BERT = _GLOBAL | {
    "positions": ("learned",),
    "norm_placement": ("post",),
    "embedding_norm": (True,),
    "activation": ("gelu",),  # of the head too
    "bias": (True,),
    "head": ("dense",),
    "decoder_bias": (True,),
}
_GPT = _GLOBAL | {
    "positions": ("learned",),
    "embedding_norm": (False,),
    "bias": (True,),
    "head": ("plain",),
    "decoder_bias": (False,),
}
_MODERN = _COMMON | {
    "positions": ("rotary",),
    "norm_placement": ("pre",),
    "embedding_norm": (True,),
    "activation": ("geglu",),
    "head": ("dense",),
}
FORMS: dict[str, Form] = {
    form.model_type: form
    for form in (
        Form(
            "bert",
            "BERT",
            "bert_2018",
            {"mlm_nsp": "BertForPreTraining", "mlm": "BertForMaskedLM", "clm": "BertLMHeadModel"},
            _BERT,
        ),
        Form("electra", "ELECTRA", "bert_2018", {"rtd": "ElectraForPreTraining"}, _BERT),
        Form(
            "gpt2",
            "GPT-2",
            "gpt2",
            {"clm": "GPT2LMHeadModel"},
            _GPT | {"norm_placement": ("pre",), "activation": ("gelu_tanh", "gelu", "relu")},
        ),
        Form(
            "openai-gpt",
            "OpenAI GPT",
            "gpt_2018",
            {"clm": "OpenAIGPTLMHeadModel"},
            _GPT | {"norm_placement": ("post",), "activation": ("gelu_tanh", "relu")},
        ),
        Form("modernbert", "ModernBERT", "bert", {"mlm": "ModernBertForMaskedLM"}, _MODERN),
        Form(
            "modernbert-decoder",
            "ModernBERT's decoder",
            "gpt",
            {"clm": "ModernBertDecoderForCausalLM"},
            _MODERN,
        ),
    )
}
"""By ``model_type``."""
DECODERS_OWN = 2
"""By what ModernBERT's decoder has to have a larger window than its encoder, to see as far into the past."""


def _spelt(value: object) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _choices(values: tuple[Any, ...]) -> str:
    return " or ".join(map(_spelt, values))


def native_form(model: ModelConfig, objective: ObjectiveConfig, context: Context) -> tuple[Form | None, str]:
    """The form of transformers that computes the same as a model of ours.

    Args:
        model: complete.
        objective: what its heads are made for.
        context: what its states have seen.

    Returns:
        the form and an empty reason, or None and what keeps the model from the form nearest to it.
    """
    if not isinstance(model, TransformerConfig):
        return None, f"model={model.name} has no equivalent there, which has no such encoder"
    if context is Context.APART:
        return None, "context=apart has no equivalent there, which has no model of two streams"
    if context is Context.MIXED:
        return None, "context=mixed has no equivalent there, where a model reads all its rows in one way"
    if is_adaptive(objective):
        return None, "objective.loss=adaptive has no equivalent there, which has no adaptive softmax"
    compared = [(form.differences(model, objective), form) for form in FORMS.values()]
    # of two as near, the one that has its objective, then the one that has its name
    differences, nearest = min(
        compared,
        key=lambda pair: (len(pair[0]), objective.name not in pair[1].classes, pair[1].model != model.name),
    )
    if differences:
        return None, f"it has no equivalent there: {', '.join(differences)}"
    return nearest, ""


def described(
    model: ModelConfig, objective: ObjectiveConfig, context: Context, seq_len: int, special: SpecialTokens
) -> dict[str, Any]:
    """What a config.json says of our own under the key ``lmzoo``: enough to build the module again."""
    if isinstance(objective, MlmConfig):  # what pretraining alone has: see TRAINING_ALONE
        objective = replace(objective, words=None, span_boundary=False)
    # a published folder need not tell where its maker's files lay
    vectors = None if model.vectors is None else Path(model.vectors).name
    return {
        "version": __version__,
        "model": asdict(replace(model, vectors=vectors)),
        "objective": asdict(objective),
        "context": context.value,
        "seq_len": seq_len,
        "special_tokens": asdict(special),
    }


def write_config(
    form: Form, model: TransformerConfig, objective: str, seq_len: int, special: SpecialTokens
) -> dict[str, Any]:
    """The keys of transformers' config.json for a model of this form.

    Args:
        form: as ``native_form`` gave it.
        model: complete.
        objective: its name, for the class.
        seq_len: the longest row, where no table of positions says it.
        special: ids of the special tokens and rows of the table.
    """
    shared = {
        "architectures": [form.classes[objective]],
        "model_type": form.model_type,
        "vocab_size": special.vocab_size,
        "initializer_range": model.initializer_range or model.matrix_std,
        "tie_word_embeddings": model.tied,
        "pad_token_id": special.pad,
        "dtype": "float32",
    }
    if objective == "clm":
        shared |= {"bos_token_id": special.cls, "eos_token_id": special.sep, "use_cache": True}
    return shared | _WRITERS[form.model_type](model, objective, seq_len, special)


def _write_bert(model: TransformerConfig, objective: str, seq_len: int, special: SpecialTokens) -> dict:
    return {
        "hidden_size": model.hidden_size,
        "num_hidden_layers": model.num_layers,
        "num_attention_heads": model.num_heads,
        "intermediate_size": model.ffn_size,
        "hidden_act": "gelu",
        "hidden_dropout_prob": model.dropout,
        "attention_probs_dropout_prob": model.dropout,
        "max_position_embeddings": model.max_positions,
        "position_embedding_type": "absolute",
        "type_vocab_size": model.num_segments,
        "layer_norm_eps": model.norm_eps,
        "is_decoder": objective == "clm",
    }


def _write_electra(model: TransformerConfig, objective: str, seq_len: int, special: SpecialTokens) -> dict:
    return _write_bert(model, objective, seq_len, special) | {"embedding_size": model.hidden_size}


def write_generator_config(
    config: Mapping[str, Any], model: TransformerConfig, objective: RtdConfig
) -> dict[str, Any]:
    """That of the generator, from its discriminator's, whose embedding it has."""
    small = generator_config(model, objective.generator_size)
    assert isinstance(small, TransformerConfig)
    return dict(config) | {
        "architectures": ["ElectraForMaskedLM"],
        "hidden_size": small.hidden_size,
        "num_attention_heads": small.num_heads,
        "intermediate_size": small.ffn_size,
    }


def _write_gpt(model: TransformerConfig) -> dict[str, Any]:
    return {
        "n_embd": model.hidden_size,
        "n_layer": model.num_layers,
        "n_head": model.num_heads,
        "n_positions": model.max_positions,
        "layer_norm_epsilon": model.norm_eps,
        "embd_pdrop": model.dropout,
        "attn_pdrop": model.dropout,
        "resid_pdrop": model.dropout,
    }


def _write_gpt2(model: TransformerConfig, objective: str, seq_len: int, special: SpecialTokens) -> dict:
    usual = model.ffn_size == 4 * (model.hidden_size or 0)
    names = {"gelu_tanh": "gelu_new"}
    return _write_gpt(model) | {
        "n_inner": None if usual else model.ffn_size,
        "activation_function": names.get(model.activation, model.activation),
    }


def _write_openai(model: TransformerConfig, objective: str, seq_len: int, special: SpecialTokens) -> dict:
    # `gelu` there is the approximation by tanh
    return _write_gpt(model) | {"afn": "gelu" if model.activation == "gelu_tanh" else model.activation}


def _write_modern(model: TransformerConfig, objective: str, seq_len: int, special: SpecialTokens) -> dict:
    base, local_base = model.rotary_base, model.local_rotary_base or model.rotary_base
    layers = range(model.num_layers or 0)
    biases = ("norm_bias", "attention_bias", "mlp_bias", "classifier_bias")
    dropouts = ("embedding_dropout", "attention_dropout", "mlp_dropout")
    return {
        "hidden_size": model.hidden_size,
        "num_hidden_layers": model.num_layers,
        "num_attention_heads": model.num_heads,
        "intermediate_size": model.ffn_size,
        "hidden_activation": "gelu",
        "classifier_activation": "gelu",
        "max_position_embeddings": seq_len,
        "norm_eps": model.norm_eps,
        "decoder_bias": model.decoder_bias,
        **dict.fromkeys(biases, model.bias),
        **dict.fromkeys(dropouts, model.dropout),
        **_write_window(model, objective),
        "layer_types": ["sliding_attention" if model.is_local(i) else "full_attention" for i in layers],
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": base},
            "sliding_attention": {"rope_type": "default", "rope_theta": local_base},
        },
        # the names of the same in releases before 5
        "global_attn_every_n_layers": model.global_every or 1,
        "global_rope_theta": base,
        "local_rope_theta": local_base,
        "bos_token_id": special.cls,
        "eos_token_id": special.sep,
        "cls_token_id": special.cls,
        "sep_token_id": special.sep,
    }


def _write_window(model: TransformerConfig, objective: str) -> dict[str, int]:
    """The key of the window, if there is one.

    The encoder sees half of it on either side. The decoder counts the query's own token to its half, and so
    sees one token less of the past with the same number.
    """
    if model.local_window is None:
        return {}
    return {"local_attention": model.local_window + (DECODERS_OWN if objective == "clm" else 0)}


_WRITERS: dict[str, Callable[[TransformerConfig, str, int, SpecialTokens], dict[str, Any]]] = {
    "bert": _write_bert,
    "electra": _write_electra,
    "gpt2": _write_gpt2,
    "openai-gpt": _write_openai,
    "modernbert": _write_modern,
    "modernbert-decoder": _write_modern,
}
