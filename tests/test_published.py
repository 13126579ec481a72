"""The published line: the papers' shapes and parameter counts, and nothing but YAML between the lines."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch
import yaml

from lmzoo.config import compose, config_folder
from lmzoo.errors import LmzooError
from lmzoo.modules import MODULES, LanguageModelModule
from lmzoo.nn.config import MODELS
from lmzoo.nn.sizes import PUBLISHED_SIZES, SIZES
from lmzoo.types import SpecialTokens

PUBLISHED = list(PUBLISHED_SIZES)
CONTROLLED = [name for name in MODELS if name not in PUBLISHED]


def on_meta(*overrides: str, vocab_size: int) -> LanguageModelModule:
    config = compose(list(overrides))
    characters = None
    with torch.device("meta"):
        if config.model.embedding == "characters":
            characters = torch.zeros(vocab_size, config.model.characters_per_token, dtype=torch.int32)
        return MODULES[config.model.name](
            config.objective,
            model=config.model,
            special=SpecialTokens(vocab_size),
            characters=characters,
            pairs=config.data.view == "pairs",
        )


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


# exact counts as transformers builds the same shapes; the papers round to 110M, 340M, 117M, 124M (GPT-2's
# release), 355M, 774M and 1.5B; the small BERTs: Turc et al. 2019, table 1 (their encoders alone)
COUNTS = {
    ("bert_2018", "base", 30522): 110_106_428,
    ("bert_2018", "large", 30522): 336_226_108,
    ("gpt_2018", "base", 40478): 116_534_784,
    ("gpt2", "base", 50257): 124_439_808,
    ("gpt2", "medium", 50257): 354_823_168,
    ("gpt2", "large", 50257): 774_030_080,
    ("gpt2", "xl", 50257): 1_557_611_200,
}


@pytest.mark.parametrize(("model", "size", "vocab_size"), COUNTS)
def test_published_transformers_have_the_published_parameter_counts(model, size, vocab_size):
    module = on_meta(f"model={model}", f"size={size}", vocab_size=vocab_size)
    assert count(module) == COUNTS[model, size, vocab_size]


@pytest.mark.parametrize(("model", "size", "vocab_size"), COUNTS)
def test_the_counts_are_those_of_transformers(model, size, vocab_size):
    transformers = pytest.importorskip("transformers")
    shape = PUBLISHED_SIZES[model][size]
    names = {"bert_2018": "BertForPreTraining", "gpt_2018": "OpenAIGPTLMHeadModel", "gpt2": "GPT2LMHeadModel"}
    kind = getattr(transformers, names[model])
    if model == "bert_2018":
        config = kind.config_class(
            vocab_size=vocab_size,
            hidden_size=shape.hidden_size,
            num_hidden_layers=shape.num_layers,
            num_attention_heads=shape.num_heads,
            intermediate_size=shape.ffn_size,
        )
    else:
        config = kind.config_class(
            vocab_size=vocab_size, n_embd=shape.hidden_size, n_layer=shape.num_layers, n_head=shape.num_heads
        )
    with torch.device("meta"):
        theirs = kind(config)
    assert count(theirs) == COUNTS[model, size, vocab_size]


# without the output table, which was no part of the release: 13.6M, 28.0M and 93.6M
@pytest.mark.parametrize(
    ("size", "millions"), [("small", 13.6), ("medium", 28.0), ("base", 93.6)], ids=lambda value: str(value)
)
def test_elmo_has_the_published_parameter_counts(size, millions):
    backbone = on_meta("model=elmo_2018", f"size={size}", vocab_size=100).backbone
    assert count(backbone) / 1e6 == pytest.approx(millions, abs=0.05)
    if size == "base":
        one_more_character = 16  # [MASK]'s
        assert count(backbone) == 93_600_848 + one_more_character


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_lines_differ_in_nothing_but_yaml(name):
    """The published YAML names keys of the class that the controlled line has, and no code knows its name."""
    said = yaml.safe_load((config_folder() / "model" / f"{name}.yaml").read_text())
    schema = next(entry for entry in said.pop("defaults") if isinstance(entry, str) and "/schema/" in entry)
    twin = {"/schema/transformer@_here_": "bert", "/schema/lstm@_here_": "elmo"}[schema]
    assert MODELS[name] is MODELS[twin]
    assert set(said) <= {entry.name for entry in fields(MODELS[name])}
    config = compose(
        [f"model={twin}", *(f"model.{key}={value}" for key, value in said.items() if key != "name")]
    )
    want = compose([f"model={name}", f"objective={config.objective.name}", "size=toy"])
    shape = {key: getattr(want.model, key) for key in ("num_layers", "hidden_size", "filters", "num_highway")}
    for key in ("num_heads", "ffn_size", "cell_size"):
        if hasattr(want.model, key):
            shape[key] = getattr(want.model, key)
    differing = {
        entry.name
        for entry in fields(want.model)
        if entry.name not in shape and getattr(config.model, entry.name) != getattr(want.model, entry.name)
    }
    assert differing == {"name"}


def refusal(*overrides: str) -> str:
    with pytest.raises(LmzooError) as caught:
        compose(list(overrides))
    return str(caught.value)


@pytest.mark.parametrize(
    ("model", "size"),
    [(m, s) for m in PUBLISHED for s in [*SIZES, "medium", "xl"] if s not in PUBLISHED_SIZES[m]],
)
def test_a_size_that_was_never_published_is_refused_by_name(model, size):
    message = refusal(f"model={model}", f"size={size}")
    assert f"size={size} was never published for model={model}" in message
    assert ", ".join(PUBLISHED_SIZES[model]) in message


@pytest.mark.parametrize("model", CONTROLLED)
def test_the_controlled_line_has_its_own_sizes(model):
    assert compose([f"model={model}"]).size == "tiny"
    message = refusal(f"model={model}", "size=toy")
    assert f"size=toy is not known for model={model}; choose one of: {', '.join(SIZES)}" in message


@pytest.mark.parametrize("model", PUBLISHED)
def test_without_a_size_the_published_line_fits_a_laptop_and_says_so(model):
    config = compose([f"model={model}"])
    assert config.size == "toy"
    assert config.model.hidden_size == 128
    assert config.seq_len == 128


def test_a_shape_given_whole_needs_no_size():
    shape = ["model.num_layers=1", "model.hidden_size=32", "model.num_heads=2", "model.ffn_size=64"]
    config = compose(["model=gpt_2018", *shape])
    assert (config.size, config.model.num_layers, config.model.ffn_size) == ("custom", 1, 64)
    assert "size=custom needs the whole shape, and model.ffn_size is open" in refusal(
        "model=gpt_2018", "size=custom", *shape[:3]
    )


def test_longer_rows_than_the_table_of_positions_are_refused():
    assert "model.max_positions=512 is less than seq_len=1024" in refusal("model=bert_2018", "seq_len=1024")
    assert compose(["model=bert_2018", "seq_len=1024", "model.max_positions=1024"]).seq_len == 1024


@pytest.mark.parametrize(
    ("line", "part"),
    [
        (
            "model=elmo_2018 model.tied=true",
            "has no table that the output could share; give model.tied=false",
        ),
        ("model=elmo_2018 model.vectors=x.txt", "fills a table, and model.embedding=characters has none"),
        ("model=elmo_2018 model.filters=[]", "model.filters=[] is not possible"),
        ("model=bert model.freeze_vectors=true", "model.freeze_vectors=true needs model.vectors="),
        ("model=bert model.initializer=glorot", "choose one of: normal, truncated_normal"),
    ],
)
def test_refusals_of_the_embedding(line, part):
    assert part in refusal(*line.split())


# -- each paper's initialisation


def test_berts_weights_are_cut_at_two_standard_deviations():
    config = compose(["model=bert_2018", "size=mini"])
    module = MODULES["bert_2018"](config.objective, model=config.model, pairs=True)
    for name, parameter in module.named_parameters():
        if parameter.dim() > 1:
            assert float(parameter.detach().abs().max()) <= 0.04, name
            if parameter.numel() > 5000:
                assert float(parameter.detach().std()) == pytest.approx(0.02 * 0.88, rel=0.05), name
        elif name.endswith("bias"):
            assert not parameter.any(), name
        else:
            assert (parameter == 1).all(), name


@pytest.mark.parametrize(("model", "share"), [("gpt_2018", 1.0), ("gpt2", 24**-0.5)])
def test_the_gpts_weights_are_normal_and_gpt2s_residual_ones_smaller(model, share):
    shape = ["model.num_layers=12", "model.hidden_size=128", "model.num_heads=2", "model.ffn_size=512"]
    config = compose([f"model={model}", *shape])
    module = MODULES[model](config.objective, model=config.model)
    for name, parameter in module.backbone.named_parameters():
        if parameter.dim() > 1:
            writes = name.endswith(("attention.out.weight", "ffn.down.weight"))
            assert float(parameter.detach().std()) == pytest.approx(0.02 * (share if writes else 1), rel=0.05)
            assert float(parameter.detach().abs().max()) > 0.05 * (share if writes else 1)  # not cut


def test_elmos_kernels_are_drawn_as_tensorflow_draws_them():
    module = on_cpu_elmo()
    layer = module.backbone.encoder.past[0]
    limit = (6 / (128 + 128 + 4 * 256)) ** 0.5
    for weight in (layer.input_weight, layer.hidden_weight):
        assert 0.98 * limit < float(weight.detach().abs().max()) <= limit
    assert (layer.bias[256:512] == 1).all()
    assert not layer.bias[:256].any()
    cnn = module.backbone.embedding.tokens
    assert 0.99 < float(cnn.characters.weight.detach().abs().max()) <= 1.0
    assert all(float(c.weight.detach().abs().max()) <= 0.05 for c in cnn.convolutions)


def on_cpu_elmo() -> LanguageModelModule:
    from lmzoo.nn.char_cnn import characters_of

    config = compose(["model=elmo_2018"])
    special = SpecialTokens(60)
    characters = characters_of([f"w{i}".encode() for i in range(60)], special, 50)
    return MODULES["elmo_2018"](config.objective, model=config.model, special=special, characters=characters)
