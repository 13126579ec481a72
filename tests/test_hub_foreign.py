"""Folders of other programs and releases: names, copies, missing heads, tables, and starting from them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from hub_folders import edit, made_folder, module_of
from lmzoo.errors import LmzooError
from lmzoo.hub.files import read_weights, write_weights
from lmzoo.hub.folder import export_model, initialize_from, load_exported
from lmzoo.modules import LanguageModelModule
from lmzoo.text.config import TokenizerConfig
from lmzoo.text.tokenizer import train_tokenizer


@pytest.fixture
def folder(tmp_path, tokenizer) -> Callable[..., Path]:
    """See ``made_folder``."""
    return partial(made_folder, tmp_path, tokenizer)


def rename(folder: Path, change: Callable[[str], str | None]) -> None:
    tensors = {change(name): tensor for name, tensor in read_weights(folder).items()}
    write_weights(folder / "model.safetensors", {name: t for name, t in tensors.items() if name})


def states(module: LanguageModelModule) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in module.state_dict().items() if name.startswith("backbone.")}


def test_old_names_of_bert_are_read(folder, tokenizer):
    made = folder()
    rename(
        made,
        lambda n: n.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ),
    )
    loaded = load_exported(made)
    module, _ = module_of("bert", tokenizer)
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, loaded.module.state_dict()[name]), name


@pytest.mark.parametrize("form", ["gpt2", "openai-gpt"])
def test_a_gpt_without_prefix_and_with_its_buffers_is_whole(form, folder, tokenizer):
    made = folder(form)
    rename(made, lambda name: name.removeprefix("transformer."))
    tensors = read_weights(made)
    tensors["h.0.attn.bias"] = torch.ones(1, 1, 24, 24)
    if form == "gpt2":
        tensors["h.0.attn.masked_bias"] = torch.tensor(-1e4)
    write_weights(made / "model.safetensors", tensors)
    loaded = load_exported(made)
    assert loaded.note == ""
    module, _ = module_of(form, tokenizer)
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, loaded.module.state_dict()[name]), name


@pytest.mark.parametrize(
    ("form", "prefix", "head"), [("bert", "bert.", "cls."), ("modernbert", "model.", "head.")]
)
def test_a_bare_encoder_comes_in_without_heads_and_scores_nothing(form, prefix, head, folder, tokenizer):
    made = folder(form, architectures=["BertModel"] if form == "bert" else ["ModernBertModel"])
    rename(made, lambda name: None if name.startswith(head) else name.removeprefix(prefix))
    loaded = load_exported(made)
    assert "no weights of the token head" in loaded.note
    module, _ = module_of(form, tokenizer)
    for name, tensor in states(module).items():
        assert torch.equal(tensor, states(loaded.module)[name]), name
    with pytest.raises(LmzooError, match="has no weights of a head that predicts tokens"):
        loaded.module.objective.head.logits(torch.zeros(1, 16))
    with pytest.raises(LmzooError, match="is not exported; copy the folder"):
        export_model(made.parent / "again", loaded.module, loaded.description.model, 24, tokenizer)

    fresh, _ = module_of(form, tokenizer)
    with torch.no_grad():
        for parameter in fresh.parameters():
            parameter.add_(1.0)
    before = fresh.objective.head.dense.weight.clone()
    initialize_from(fresh, made, tokenizer)
    for name, tensor in states(module).items():
        assert torch.equal(tensor, states(fresh)[name]), name
    assert torch.equal(fresh.objective.head.dense.weight, before)


def test_a_masked_model_leaves_the_heads_for_pairs_out_and_says_so(folder):
    loaded = load_exported(folder(architectures=["BertForMaskedLM"]))
    assert loaded.description.objective == "mlm"
    assert "left out" in loaded.note
    assert "bert.pooler.dense.weight" in loaded.note
    assert "cls.seq_relationship.weight" in loaded.note


def test_a_tied_copy_must_be_a_copy(folder):
    made = folder("gpt2")
    tensors = read_weights(made)
    tensors["lm_head.weight"] = tensors["transformer.wte.weight"].clone()
    write_weights(made / "model.safetensors", tensors)
    load_exported(made)
    tensors["lm_head.weight"][0, 0] += 1
    write_weights(made / "model.safetensors", tensors)
    with pytest.raises(LmzooError, match=r"ties lm_head.weight to transformer.wte.weight, and they differ"):
        load_exported(made)


def test_a_table_may_have_more_rows_than_the_tokenizer_and_not_fewer(folder, tokenizer):
    made = folder(vocab_size=tokenizer.vocab_size + 8)
    tensors = read_weights(made)
    for name in ("bert.embeddings.word_embeddings.weight", "cls.predictions.bias"):
        tensors[name] = torch.cat([tensors[name], torch.zeros(8, *tensors[name].shape[1:])])
    write_weights(made / "model.safetensors", tensors)
    loaded = load_exported(made)
    assert loaded.module.objective.special == replace(tokenizer.special, vocab_size=tokenizer.vocab_size + 8)
    edit(made, vocab_size=tokenizer.vocab_size - 8)
    with pytest.raises(LmzooError, match=r"the tokenizer has 280 pieces and the model 272"):
        load_exported(made)


def test_a_gpt2_with_its_one_special_token_goes_in_and_out(folder, tmp_path, tokenizer):
    """As it was published: vocab.json, merges.txt, and `<|endoftext|>` in every part."""
    from tokenizers.pre_tokenizers import ByteLevel

    made = folder("gpt2")
    for path in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (made / path).unlink()
    letters = sorted(ByteLevel.alphabet())
    vocabulary = {letter: number for number, letter in enumerate(letters)} | {"th": 256, "<|endoftext|>": 257}
    (made / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (made / "merges.txt").write_text("#version: 0.2\nt h\n", encoding="utf-8")
    names = dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>")
    (made / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "GPT2Tokenizer"} | names))
    loaded = load_exported(made)
    special = loaded.module.objective.special
    assert (special.pad, special.unk, special.cls, special.sep, special.mask) == (257, 257, 257, 257, None)
    assert special.vocab_size == tokenizer.vocab_size  # the table's

    description = loaded.description
    again = tmp_path / "again"
    export_model(again, loaded.module, description.model, 24, loaded.tokenizer)
    back = load_exported(again)
    assert back.tokenizer.fingerprint() == loaded.tokenizer.fingerprint()
    assert back.module.objective.special == special
    for name, tensor in loaded.module.state_dict().items():
        assert torch.equal(tensor, back.module.state_dict()[name]), name
    transformers = pytest.importorskip("transformers")
    there = transformers.AutoTokenizer.from_pretrained(again)
    assert there("the")["input_ids"] == [257, *loaded.tokenizer.encode_batch(["the"])[0]]


def test_weights_in_half_precision_become_whole(folder):
    made = folder("gpt2")
    write_weights(made / "model.safetensors", {n: t.bfloat16() for n, t in read_weights(made).items()})
    assert {p.dtype for p in load_exported(made).module.parameters()} == {torch.float32}


# -- starting from another model


def test_another_vocabulary_or_shape_is_refused(folder, tokenizer):
    made = folder()
    other, _ = module_of("gpt2", tokenizer)
    with pytest.raises(LmzooError) as refusal:
        initialize_from(other, made, tokenizer)
    message = str(refusal.value)
    assert "has another architecture than this run" in message
    assert "missing: backbone.encoder.final_norm.bias, backbone.encoder.final_norm.weight" in message
    assert "unexpected: backbone.embedding.norm.bias" in message

    words = train_tokenizer(TokenizerConfig(vocab_size=270), ["The cat sat on the mat. " * 20])
    module, _ = module_of("bert", tokenizer)
    with pytest.raises(LmzooError, match=r"another vocabulary than this run; .*tokenizer.file="):
        initialize_from(module, made, words)
