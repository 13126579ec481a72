"""What a folder is said to hold: ours, transformers', a hub name; and what is refused by its key."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from builders import SMALL
from fake_hub import NAME, Hub, serving
from hub_folders import FORMS, edit, made_folder, module_of
from lmzoo.errors import LmzooError
from lmzoo.hub.describe import LATER, describe, find_model
from lmzoo.hub.folder import export_model, load_exported
from lmzoo.modules import MODULES
from lmzoo.nn.sizes import complete

LOCAL = ("full_attention", "sliding_attention")


@pytest.fixture
def folder(tmp_path, tokenizer) -> Callable[..., Path]:
    """See ``made_folder``."""
    return partial(made_folder, tmp_path, tokenizer)


# -- what can be read


@pytest.mark.parametrize("form", FORMS)
def test_a_config_from_elsewhere_means_the_same_model(form, folder, tokenizer):
    found = describe(folder(form))
    _, config = module_of(form, tokenizer)
    assert found.form == form
    assert (config.name, found.objective) == FORMS[form]
    # how weights were drawn is not always written there
    drawn = {"initializer", "initializer_range", "rotary_base", "scale_residual"}
    for name, value in vars(config).items():
        if name not in drawn:
            assert getattr(found.model, name) == value, name
    assert found.seq_len == 24
    assert found.vocab_size == tokenizer.vocab_size
    assert found.context == ("past" if found.objective == "clm" else "full")
    assert find_model(found.folder) == found.folder


def test_ours_is_found_in_a_run_folder_and_keeps_its_objective(tmp_path, folder):
    run = folder(foreign=False, lmzoo__objective__mask_rate=0.3).rename(tmp_path / "model").parent
    found = describe(run)
    assert found.folder == run / "model"
    assert found.objective_config.mask_rate == 0.3  # type: ignore[attr-defined]


def test_vectors_are_named_without_the_folder_and_found_again_in_a_run(tmp_path, tokenizer):
    module, config = module_of("bert", tokenizer)
    config = replace(config, vectors="/home/somebody/glove.txt")
    export_model(tmp_path / "model", module, config, 24, tokenizer)
    assert "somebody" not in "".join(p.read_text() for p in (tmp_path / "model").glob("*.[jm]*[nd]"))
    assert describe(tmp_path).model.vectors == str(tmp_path / "model" / "glove.txt")
    (tmp_path / "config.yaml").write_text("model: {vectors: /home/somebody/glove.txt}\n")
    assert describe(tmp_path).model.vectors == "/home/somebody/glove.txt"


@pytest.mark.parametrize("name", ["/etc/passwd", "../glove.txt", "a/b.txt", ".."])
def test_vectors_outside_of_the_folder_are_refused(name, tmp_path, tokenizer):
    module, config = module_of("bert", tokenizer)
    export_model(tmp_path / "model", module, replace(config, vectors="glove.txt"), 24, tokenizer)
    path = tmp_path / "model" / "config.json"
    path.write_text(path.read_text().replace('"glove.txt"', json.dumps(name)))
    with pytest.raises(LmzooError, match="is no plain name of a file beside it"):
        describe(tmp_path)


@pytest.mark.parametrize(
    ("keys", "objective"),
    [
        ({"architectures": ["BertForMaskedLM"]}, "mlm"),
        ({"architectures": ["BertModel"]}, "mlm"),
        ({"architectures": ["BertForPreTraining"]}, "mlm_nsp"),
        ({"architectures": None}, "mlm_nsp"),  # the file has the head
        ({"architectures": ["BertLMHeadModel"], "is_decoder": True}, "clm"),
        ({"architectures": ["BertModel"], "is_decoder": True}, "clm"),
    ],
)
def test_the_class_tells_the_objective(keys, objective, folder):
    assert describe(folder(**keys)).objective == objective


def test_older_releases_of_modernbert_are_read_too(folder):
    made = folder("modernbert", layer_types=None, rope_parameters=None, global_rope_theta=500.0)
    assert describe(made).model.rotary_base == 500.0  # type: ignore[attr-defined]


@pytest.mark.parametrize(("form", "window"), [("modernbert", 128), ("modernbert-decoder", 126)])
@pytest.mark.parametrize("said", ["layers", "every"])
def test_local_layers_are_read_as_they_were_published(said, form, window, folder):
    """By name, or as the releases before 5 said it; the decoder counts the query's own token to its half."""
    older = {"layer_types": None, "rope_parameters": None, "global_attn_every_n_layers": 3,
             "global_rope_theta": 160000.0, "local_rope_theta": 10000.0}  # fmt: skip
    newer = {"layer_types": [*LOCAL], "rope_parameters__full_attention__rope_theta": 160000.0}
    model = describe(folder(form, **(newer if said == "layers" else older))).model
    found = (model.local_window, model.global_every, model.rotary_base, model.local_rotary_base)  # type: ignore[attr-defined]
    assert found == (window, 2 if said == "layers" else 3, 160000.0, 10000.0)


def test_dropouts_that_differ_are_told(folder):
    found = load_exported(folder(hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.3))
    assert found.description.model.dropout == 0.1
    assert found.note == "dropout is hidden_dropout_prob=0.1 everywhere, not attention_probs_dropout_prob=0.3"


# -- what is refused


@pytest.mark.parametrize(
    ("form", "keys", "message"),
    [
        (
            "bert",
            {"model_type": "t5"},
            "model_type=t5, which cannot be loaded here; supported: bert, electra, gpt2",
        ),
        ("bert", {"model_type": None}, "names no model_type"),
        ("bert", {"position_embedding_type": "relative_key"}, "position_embedding_type=relative_key"),
        ("bert", {"hidden_act": "silu"}, "hidden_act=silu cannot be loaded here; only gelu can"),
        ("bert", {"hidden_size": 17}, "hidden size=17 cannot be loaded here; only a multiple of its 2 heads"),
        ("bert", {"hidden_size": -16}, "hidden_size=-16 cannot be loaded here; only a positive whole number"),
        ("bert", {"hidden_size": "16"}, "hidden_size=16 cannot"),
        ("bert", {"num_hidden_layers": True}, "num_hidden_layers=True"),
        ("bert", {"layer_norm_eps": float("inf")}, "layer_norm_eps=inf"),
        ("bert", {"hidden_dropout_prob": 1.5}, "hidden_dropout_prob=1.5"),
        ("bert", {"add_cross_attention": True}, "add_cross_attention=True"),
        ("bert", {"is_decoder": True}, "is_decoder=true"),
        ("bert", {"architectures": "BertModel"}, "architectures=BertModel"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx=True"),
        ("gpt2", {"scale_attn_weights": False}, "scale_attn_weights=False"),
        ("gpt2", {"activation_function": "swish"}, "activation_function=swish"),
        ("openai-gpt", {"afn": "silu"}, "afn=silu"),
        (
            "modernbert",
            {"layer_types": ["sliding_attention", "full_attention"]},
            "only full_attention in every",
        ),
        ("modernbert", {"layer_types": [*LOCAL], "sliding_window": 9}, "sliding_window=9"),
        ("modernbert", {"layer_types": [*LOCAL], "local_attention": 1}, "local_attention=1"),
        ("modernbert-decoder", {"layer_types": [*LOCAL], "local_attention": 3}, "local_attention=3"),
        (
            "modernbert",
            {"layer_types": [*LOCAL], "rope_parameters__sliding_attention__rope_type": "yarn"},
            "rope_type=yarn",
        ),
        ("modernbert", {"layer_types": ["full_attention"]}, "layer_types="),
        ("modernbert", {"mlp_bias": True}, "norm_bias=false"),
        ("modernbert", {"rope_parameters__full_attention__rope_type": "yarn"}, "rope_type=yarn"),
        ("modernbert-decoder", {"hidden_activation": "silu"}, "hidden_activation=silu"),
    ],
)
def test_what_no_model_here_computes_is_refused_by_its_key(form, keys, message, folder):
    with pytest.raises(LmzooError) as refusal:
        describe(folder(form, **keys))
    assert message in str(refusal.value)
    assert "config.json" in str(refusal.value)


@pytest.mark.parametrize(
    "keys",
    [
        {"lmzoo": []},
        {"lmzoo__model": None},
        {"lmzoo__model__name": "../bert"},
        {"lmzoo__model__hidden_size": 0},
        {"lmzoo__model__hidden_size": "16"},
        {"lmzoo__model__num_layers": 10**9},
        {"lmzoo__model__dropout": 2.0},
        {"lmzoo__model__norm_eps": float("nan")},
        {"lmzoo__model__filters": [1, "2"]},
        {"lmzoo__model__secret": 1},
        {"lmzoo__model__positions": "lerned"},
        {"lmzoo__model__bias": 1},
        {"lmzoo__objective__name": "os"},
        {"lmzoo__objective__mask_rate": None},
        {"lmzoo__context": "past"},
        {"lmzoo__context": "nowhere"},
        {"lmzoo__seq_len": -1},
        {"lmzoo__special_tokens__cls": 10**6},
        {"model_type": "gpt2"},
    ],
)
def test_a_tampered_config_of_ours_is_refused(keys, folder):
    with pytest.raises(LmzooError, match=r"config.json|do not fit"):
        load_exported(folder(foreign=False, **keys))


def test_more_layers_than_tensors_are_refused_before_they_are_built(tmp_path, tokenizer):
    config = complete(SMALL["elmo"], size=None, pairs=False, seq_len=24)
    export_model(tmp_path, MODULES["elmo"](model=config, special=tokenizer.special), config, 24, tokenizer)
    edit(tmp_path, lmzoo__model__num_layers=10**9)
    with pytest.raises(LmzooError, match="1000000000 layers"):
        load_exported(tmp_path)


def test_two_configs_in_one_that_contradict_each_other_are_refused(folder):
    made = folder(foreign=False, layer_norm_eps=0.1)
    with pytest.raises(LmzooError, match=r"says two things: lmzoo.model.norm_eps=1e-12, and BERT's .* 0.1"):
        describe(made)


def test_a_folder_from_before_a_key_came_has_its_default(folder):
    made = folder(foreign=False)
    whole = describe(made)
    said = json.loads((made / "config.json").read_text())
    for section in ("model", "objective"):
        for key in LATER:
            said["lmzoo"][section].pop(key, None)
    (made / "config.json").write_text(json.dumps(said))
    older = describe(made)
    assert (older.model, older.objective_config) == (whole.model, whole.objective_config)


def test_a_folder_of_an_older_version_says_so(tmp_path):
    (tmp_path / "config.json").write_text('{"lmzoo_version": "0.1.0", "model": {}}')
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(LmzooError, match="another version of lmzoo; export the run again"):
        describe(tmp_path)


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(LmzooError, match=r"holds no model .*; give a finished run"):
        describe(tmp_path)
    with pytest.raises(LmzooError, match="holds no model"):
        describe(tmp_path / "not" / "there")


# -- names on the hub


def on_the_hub(
    name: str, cache: Path, code: str = "", **environment: str
) -> subprocess.CompletedProcess[str]:
    """Look a name up in another process, where the hub's library reads its settings anew."""
    code = code or (
        "import sys\n"
        "from lmzoo.errors import LmzooError\n"
        "from lmzoo.hub.describe import describe\n"
        "try:\n"
        "    found = describe(sys.argv[1])\n"
        "    print(found.form, found.model.hidden_size, found.folder)\n"
        "except LmzooError as error:\n"
        "    print(f'refused: {error}')\n"
        "assert 'torch' not in sys.modules\n"
    )
    settings = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(cache)} | environment
    return subprocess.run(
        [sys.executable, "-c", code, name],
        capture_output=True,
        text=True,
        env=settings,
        cwd=cache,
        check=True,
    )


def test_a_name_on_the_hub_is_found_in_its_cache(tmp_path, folder):
    pytest.importorskip("huggingface_hub")
    stored = tmp_path / "cache" / "models--somebody--a-bert"
    commit = "0123456789abcdef0123456789abcdef01234567"
    (stored / "snapshots").mkdir(parents=True)
    (stored / "refs").mkdir()
    (stored / "refs" / "main").write_text(commit)
    folder().rename(stored / "snapshots" / commit)
    found = on_the_hub("somebody/a-bert", tmp_path / "cache").stdout
    assert found.split() == ["bert", "16", str(stored / "snapshots" / commit)]

    told = on_the_hub("somebody/another", tmp_path / "cache").stdout
    assert told.startswith("refused: somebody/another: there is no such folder, and the hub did not give")
    assert told.count("\n") == 1


def test_both_halves_of_an_electra_are_fetched_and_no_other_subfolder(tmp_path, tokenizer):
    pytest.importorskip("huggingface_hub")
    model = complete(SMALL["bert_2018"], size=None, pairs=False, seq_len=24)
    module = MODULES["bert_2018"]("rtd", model=model, special=tokenizer.special)
    export_model(tmp_path / "model", module, model, 24, tokenizer)
    (tmp_path / "cache").mkdir()
    files = {p.relative_to(tmp_path / "model").as_posix(): p for p in (tmp_path / "model").rglob("*.*")}
    hub = Hub()
    commit = hub.commit({name: p.read_bytes() for name, p in files.items()} | {"onnx/config.json": b"{}"})
    with serving(hub) as address:
        settings = {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": address, "HF_HUB_DISABLE_XET": "1"}
        form, _, folder = on_the_hub(NAME, tmp_path / "cache", **settings).stdout.split()
    assert (form, Path(folder).name) == ("electra", commit)
    assert (Path(folder) / "generator" / "model.safetensors").is_file()
    assert not (Path(folder) / "onnx").exists()
    loaded = load_exported(folder)
    assert loaded.note == ""
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, loaded.module.state_dict()[name]), name
    # fetched once, both halves are there without the network
    assert on_the_hub(NAME, tmp_path / "cache").stdout.split()[2] == folder


def test_without_the_extra_a_hub_name_is_refused(tmp_path):
    code = (
        "import sys\n"
        "sys.modules['huggingface_hub'] = None\n"
        "from lmzoo.errors import LmzooError\n"
        "from lmzoo.hub.describe import describe\n"
        "try:\n"
        "    describe(sys.argv[1])\n"
        "except LmzooError as error:\n"
        "    print(error)\n"
    )
    told = on_the_hub("somebody/a-bert", tmp_path, code).stdout
    assert "there is no such folder" in told
    assert "pip install 'lmzoo[hub]'" in told
