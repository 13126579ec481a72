"""The models of lmzoo behind the Auto classes of transformers (5 or later).

An export in our own form copies this file as ``modeling_lmzoo.py``, with every file it imports, so that
``AutoModel.from_pretrained(FOLDER, trust_remote_code=True)`` needs torch and transformers alone. Nothing
in lmzoo imports it. The weights keep lmzoo's names.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput, MaskedLMOutput
from transformers.utils.generic import ModelOutput

from lmzoo.backbone import Backbone, build_backbone
from lmzoo.hub.rows import cross_entropy, next_token_loss, numbered, pooled, positions_in
from lmzoo.nn.adaptive import build_head
from lmzoo.nn.config import MODELS, ModelConfig
from lmzoo.nn.heads import PairHead
from lmzoo.types import Batch, Context, Trace


class LmzooConfig(PreTrainedConfig):
    """What ``lmzoo`` says of the model, and the keys that transformers looks for.

    ``hidden_size`` is the width of ``last_hidden_state``: for ``APART`` twice that of a stream.
    """

    model_type = "lmzoo"

    lmzoo: dict[str, Any] | None = None
    """``model``, ``objective``, ``context``, ``seq_len``, ``special_tokens`` and ``version``."""
    reading: str = "full"
    """What a model of mixed context sees without a head: ``full`` or ``past``."""
    vocab_size: int = 0
    hidden_size: int = 0
    num_hidden_layers: int = 0
    num_attention_heads: int | None = None
    max_position_embeddings: int | None = None
    type_vocab_size: int = 0
    is_decoder: bool = False
    tie_word_embeddings: bool = False
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | None = None

    @property
    def described(self) -> dict[str, Any]:
        """The key ``lmzoo``.

        Raises:
            ValueError: it is not there.
        """
        if not self.lmzoo:
            raise ValueError("the config has no key `lmzoo`; take the config.json that lmzoo exported")
        return self.lmzoo

    @property
    def architecture(self) -> ModelConfig:
        """The model's config, as lmzoo builds from it."""
        model = self.described["model"]
        return MODELS[model["name"]](**model)

    @property
    def context(self) -> Context:
        return Context(self.described["context"])

    @property
    def objective(self) -> str:
        return self.described["objective"]["name"]


@dataclass
class LmzooOutput(ModelOutput):
    """States. Of a model of two streams (``APART``) past and future stand side by side everywhere."""

    last_hidden_state: Tensor | None = None
    """(B, T, D), or (B, T, 2·D): past, then future."""
    past_state: Tensor | None = None
    """(B, T, D) of two streams, the one that has seen each position and those before it."""
    future_state: Tensor | None = None
    """(B, T, D) of two streams, the one that has seen each position and those after it."""
    hidden_states: tuple[Tensor, ...] | None = None
    """The embedding, then every layer, as wide as ``last_hidden_state``, which is the last of them."""
    attentions: tuple[Tensor, ...] | None = None
    """(B, H, T, T) a layer; of two streams (B, 2·H, T, T)."""

    @property
    def streams(self) -> tuple[Tensor, ...]:
        """One (B, T, D), or past and future."""
        apart = tuple(s for s in (self.past_state, self.future_state) if s is not None)
        if apart or self.last_hidden_state is None:
            return apart
        return (self.last_hidden_state,)


@dataclass
class LmzooForPreTrainingOutput(ModelOutput):
    """What the objective asks for is filled, the rest is None."""

    loss: Tensor | None = None
    prediction_logits: Tensor | None = None
    """(B, T, V) of masked or next tokens."""
    seq_relationship_logits: Tensor | None = None
    """(B, 2): segment B follows A, or was drawn at random (`mlm_sop`: or A follows B)."""
    forward_logits: Tensor | None = None
    """(B, T, V) of the token after each position, from the past."""
    backward_logits: Tensor | None = None
    """(B, T, V) of the token before each position, from the future."""
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class LmzooPreTrainedModel(PreTrainedModel):
    """What all of them share."""

    config_class = LmzooConfig
    config: LmzooConfig
    base_model_prefix = "backbone"
    _supports_sdpa = True

    def post_init(self) -> None:
        for module in self.modules():  # drawn as they were built; on the meta device they wait for a file
            if not any(p.is_meta for p in module.parameters(recurse=False)):
                module._is_hf_initialized = True  # type: ignore[assignment]
        super().post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Called for what a file did not have.

        Raises:
            ValueError: always, naming it: half a model would answer at random.
        """
        here = {id(parameter) for parameter in module.parameters(recurse=False)}
        missing = [
            name
            for name, parameter in self.named_parameters()
            if id(parameter) in here and not getattr(parameter, "_is_hf_initialized", False)
        ]
        if missing:
            raise ValueError(f"the folder has no weights {', '.join(missing)}; export the run again")


class LmzooModel(LmzooPreTrainedModel):
    """Embedding and encoder, without a head."""

    _keys_to_ignore_on_load_unexpected = [r"^objective\."]  # noqa: RUF012

    def __init__(self, config: LmzooConfig, reading: str | None = None) -> None:
        super().__init__(config)
        mixed = config.context is Context.MIXED
        context = Context(reading or config.reading) if mixed else config.context
        model = config.architecture
        characters = None
        if model.is_spelt:  # the file of the weights has the spelling
            characters = torch.zeros(config.vocab_size, model.characters_per_token, dtype=torch.int32)
        built = build_backbone(model, context, config.vocab_size, characters)
        self.embedding = built.embedding
        self.encoder = built.encoder
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.embedding.tokens

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        documents: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> LmzooOutput | tuple[Tensor, ...]:
        """Encode rows.

        Args:
            input_ids: (B, T) token ids.
            attention_mask: (B, T) 0 where a row is padded, before or after its text.
            token_type_ids: (B, T) 0 for segment A, 1 for B; a model without segments looks away.
            position_ids: (B, T) positions within each document; counted where they are not given.
            documents: (B, T) number of the document within its row, where several are packed into one:
                none sees another. A row is one document where they are not given.
            output_hidden_states: whether to keep every layer's states.
            output_attentions: whether to keep the attention; a recurrent model has none.
            return_dict: False for a tuple.
        """
        numbers = numbered(input_ids, attention_mask, documents)
        batch = Batch(
            input_ids,
            numbers,
            positions_in(numbers) if position_ids is None else position_ids.expand_as(input_ids),
            torch.arange(len(input_ids), device=input_ids.device),
            segments=token_type_ids,
        )
        keep_states = _asked(output_hidden_states, self.config.output_hidden_states)
        keep_attention = _asked(output_attentions, self.config.output_attentions)
        trace = Trace(want_attention=keep_attention) if keep_states or keep_attention else None
        backbone = Backbone(self.embedding, self.encoder)
        hidden = backbone(batch) if trace is None else backbone(batch, trace)
        output = LmzooOutput(
            torch.cat(hidden.streams, dim=-1),
            past_state=hidden.past,
            future_state=hidden.future,
            hidden_states=_beside(trace.layers, dim=-1) if trace and keep_states else None,
            attentions=_beside(trace.attentions, dim=1) if trace and keep_attention else None,
        )
        return output if _asked(return_dict, True) else output.to_tuple()


class Heads(nn.Module):
    """The heads of the objective, under its name in the file of the weights."""

    def __init__(self, config: LmzooConfig, backbone: LmzooModel, *, pairs: bool) -> None:
        super().__init__()
        apart = config.context is Context.APART
        merged = apart and config.objective != "bilm"
        said = config.described["objective"]
        adaptive = said if said.get("loss") == "adaptive" else {}
        self.head = build_head(
            config.architecture,
            backbone.embedding,
            streams=2 if merged else 1,
            cutoffs=adaptive.get("cutoffs"),
            divisor=adaptive.get("tail_divisor") or 1.0,
        )
        self.pair_head = PairHead(config.architecture, streams=2 if apart else 1) if pairs else None


class LmzooWithHeads(LmzooPreTrainedModel):
    """A backbone and the heads of its objective."""

    _keys_to_ignore_on_load_unexpected = [r"^objective\.pair_head\."]  # noqa: RUF012
    objectives: tuple[str, ...] = ()
    """Those whose heads it has."""
    reads: str | None = None
    """What it sees with a model of mixed context."""

    def __init__(self, config: LmzooConfig) -> None:
        super().__init__(config)
        if config.objective not in self.objectives:
            raise ValueError(
                f"a model of objective={config.objective} is no {type(self).__name__}; "
                "take AutoModel, or the class that `auto_map` in its config.json names"
            )
        self.backbone = LmzooModel(config, self.reads)
        pairs = config.objective in ("mlm_nsp", "mlm_sop") and isinstance(self, LmzooForPreTraining)
        self.objective = Heads(config, self.backbone, pairs=pairs)
        if config.tie_word_embeddings:
            self._tied_weights_keys = {r"objective\.head\.decoder$": r"backbone\.embedding\.tokens\.weight$"}
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.backbone.get_input_embeddings()


class LmzooForMaskedLM(LmzooWithHeads):
    """Tokens where the text is masked; a hybrid predicts them from the place before, shifted here."""

    objectives = ("mlm", "mlm_nsp", "mlm_sop", "hybrid", "phases")
    reads = "full"

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        documents: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> MaskedLMOutput | tuple[Tensor, ...]:
        """As ``LmzooModel``; ``labels`` (B, T) are token ids, -100 where nothing is asked."""
        states = self.backbone(
            input_ids, attention_mask, token_type_ids, position_ids, documents,
            output_hidden_states, output_attentions,
        )  # fmt: skip
        seen = states.last_hidden_state
        if self.config.described["objective"].get("shifted"):
            seen = torch.cat([seen[:, :1], seen[:, :-1]], dim=1)
        logits = self.objective.head.logits(seen)
        loss = None if labels is None else cross_entropy(logits, labels)
        output = MaskedLMOutput(loss, logits, states.hidden_states, states.attentions)  # type: ignore[arg-type]
        return output if _asked(return_dict, True) else output.to_tuple()


class LmzooForCausalLM(LmzooWithHeads, GenerationMixin):
    """The next token. ``generate`` reads the whole text anew for every token."""

    objectives = ("clm", "hybrid", "phases", "prefix")
    reads = "past"

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        documents: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> CausalLMOutput | tuple[Tensor, ...]:
        """As ``LmzooModel``; ``labels`` (B, T) are the ids themselves, shifted here, -100 to leave out.

        No loss counts a target in another document than its place, nor a padded one.
        """
        states = self.backbone(
            input_ids, attention_mask, token_type_ids, position_ids, documents,
            output_hidden_states, output_attentions,
        )  # fmt: skip
        logits = self.objective.head.logits(states.last_hidden_state)
        loss = None
        if labels is not None:
            loss = next_token_loss(logits, labels, numbered(input_ids, attention_mask, documents))
        output = CausalLMOutput(loss, logits, states.hidden_states, states.attentions)  # type: ignore[arg-type]
        return output if _asked(return_dict, True) else output.to_tuple()

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **_: Any
    ) -> dict[str, Tensor | None]:
        return {"input_ids": input_ids, "attention_mask": attention_mask}


class LmzooForPreTraining(LmzooWithHeads):
    """All that the objective trained: of a masked LM with NSP both heads, of a biLM both directions."""

    objectives = ("mlm", "mlm_nsp", "mlm_sop", "clm", "bilm")

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        documents: Tensor | None = None,
        labels: Tensor | None = None,
        next_sentence_label: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> LmzooForPreTrainingOutput | tuple[Tensor, ...]:
        """As ``LmzooModel``.

        Args:
            labels: (B, T) of a masked LM the masked ids, of the others the ids themselves, shifted here;
                -100 to leave out. The loss of a biLM is the mean of its directions' losses.
            next_sentence_label: (B,) 0 where B follows A, 1 where it was drawn at random (`mlm_sop`: where A
                follows B); its loss is added to the other.
        """
        states = self.backbone(
            input_ids, attention_mask, token_type_ids, position_ids, documents,
            output_hidden_states, output_attentions,
        )  # fmt: skip
        numbers = numbered(input_ids, attention_mask, documents)
        found: dict[str, Tensor] = {}
        losses: list[Tensor] = []
        head, pair_head = self.objective.head, self.objective.pair_head
        if self.config.objective == "bilm":
            forward = found["forward_logits"] = head.logits(states.past_state)
            backward = found["backward_logits"] = head.logits(states.future_state)
            if labels is not None:
                # mirrored, the token before becomes the next one
                mirrored = backward.flip(1), labels.flip(1), numbers.flip(1)
                both = next_token_loss(forward, labels, numbers) + next_token_loss(*mirrored)
                losses.append(both / 2)
        else:
            logits = found["prediction_logits"] = head.logits(states.last_hidden_state)
            if labels is not None and self.config.objective == "clm":
                losses.append(next_token_loss(logits, labels, numbers))
            elif labels is not None:
                losses.append(cross_entropy(logits, labels))
        if pair_head is not None:
            follows = found["seq_relationship_logits"] = pair_head(pooled(states.streams, numbers))
            if next_sentence_label is not None:
                losses.append(cross_entropy(follows, next_sentence_label))
        output = LmzooForPreTrainingOutput(
            loss=torch.stack(losses).sum() if losses else None,
            **found,
            hidden_states=states.hidden_states,
            attentions=states.attentions,
        )
        return output if _asked(return_dict, True) else output.to_tuple()


def _beside(entries: list[tuple[Tensor, ...]], dim: int) -> tuple[Tensor, ...]:
    return tuple(torch.cat(streams, dim=dim) for streams in entries)


def _asked(given: bool | None, default: bool | None) -> bool:
    return bool(default if given is None else given)
