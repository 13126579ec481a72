"""Our own code folder, opened by transformers, against the module that it was written from."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from builders import PAIRS, SPECIAL, random_batch, small_module
from lmzoo import __version__
from lmzoo.hub.code import MODELING, code_files, with_flat_imports, write_code_folder
from lmzoo.hub.rows import IGNORED, numbered, positions_in
from lmzoo.modules import LanguageModelModule
from lmzoo.nn.config import StaticConfig
from lmzoo.nn.static import Static
from lmzoo.objectives.base import Task
from lmzoo.objectives.config import ClmConfig
from lmzoo.types import NO_DOCUMENT, Batch, Context, Trace

transformers = pytest.importorskip("transformers")
from lmzoo.hub import remote  # noqa: E402 (needs transformers)

CHOICES = {
    "sinusoidal masked": ("bert", "mlm", {"positions": "sinusoidal"}),
    "sinusoidal causal": ("gpt", "clm", {"positions": "sinusoidal", "activation": "relu", "bias": True}),
    "post-norm apart": ("gpt", "bilm", {"norm_placement": "post", "positions": "learned"}),
    "alibi": ("bert", "mlm", {"positions": "alibi", "norm": "rms", "activation": "swiglu"}),
    "alibi causal": ("gpt", "clm", {"positions": "alibi", "query_key_norm": True}),
    "local": ("bert", "mlm", {"positions": "none", "local_window": 4, "global_every": 2}),
    "untied": ("bert", "mlm", {"tied": False, "decoder_bias": True, "head": "plain"}),
    "recurrent with positions": ("elmo", "bilm", {"positions": "learned"}),
    "adaptive": ("gpt", ClmConfig(loss="adaptive", cutoffs=[10, 30]), {"decoder_bias": True}),
}
CASES = {
    f"{model} {objective}": (model, objective, {})
    for model, objective in PAIRS
    if objective not in ("hybrid", "prefix", "phases")
}
CASES |= CHOICES | {"mixed": ("bert", "hybrid", {})}
HEADS = {
    "mlm": ("AutoModelForMaskedLM", "AutoModelForPreTraining"),
    "mlm_nsp": ("AutoModelForMaskedLM", "AutoModelForPreTraining"),
    "mlm_sop": ("AutoModelForMaskedLM", "AutoModelForPreTraining"),
    "clm": ("AutoModelForCausalLM", "AutoModelForPreTraining"),
    "bilm": ("AutoModelForPreTraining",),
    "rtd": (),
    "sgns": (),
    "hybrid": ("AutoModelForMaskedLM", "AutoModelForCausalLM"),
    "phases": ("AutoModelForMaskedLM", "AutoModelForCausalLM"),
    "prefix": ("AutoModelForCausalLM",),
}
TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}


@pytest.fixture(scope="module", autouse=True)
def _own_cache(tmp_path_factory):
    """What transformers copies out of a folder stays among the temporary files."""
    with pytest.MonkeyPatch.context() as patch:
        from transformers import dynamic_module_utils

        cache = tmp_path_factory.mktemp("modules")
        patch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(cache))
        patch.setattr(sys, "path", list(sys.path))
        yield


def written(folder: Path, module: LanguageModelModule, seq_len: int = 24) -> Path:
    encoder, objective = module.backbone.encoder, module.objective.config
    model = StaticConfig(name="word2vec", hidden_size=16)
    if not isinstance(encoder, Static):
        model = encoder.config if hasattr(encoder, "config") else encoder.past.config
    context = module.backbone.context
    described = {
        "version": __version__,
        "model": asdict(model),
        "objective": asdict(objective),
        "context": context.value,
        "seq_len": seq_len,
        "special_tokens": asdict(SPECIAL),
    }
    tokenizer = SimpleNamespace(special=SPECIAL)
    write_code_folder(folder, module, model, objective, context, seq_len, tokenizer, described)  # type: ignore[arg-type]
    return folder


def shaken_module(case: str) -> LanguageModelModule:
    """A module whose every weight, of norms and biases too, is random."""
    model, objective, changes = CASES[case]
    module = small_module(model, objective, seq_len=24, **changes).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return module


def opened(auto: str, folder: Path, **kwargs):
    return getattr(transformers, auto).from_pretrained(folder, trust_remote_code=True, **kwargs)


def inputs_of(batch: Batch) -> dict[str, torch.Tensor]:
    inputs = {
        "input_ids": batch.tokens,
        "attention_mask": (batch.documents != NO_DOCUMENT).long(),
        "documents": batch.documents.clamp_min(0),
    }
    return inputs if batch.segments is None else inputs | {"token_type_ids": batch.segments}


def labels_of(task: Task, original: Batch) -> dict[str, torch.Tensor]:
    """The labels, as a user of transformers gives them."""
    if "mlm" not in task.predictions:
        return {"labels": original.tokens}
    labels = torch.full_like(original.tokens, IGNORED)
    labels.view(-1)[task.predictions["mlm"].places] = task.predictions["mlm"].targets
    if original.is_random is None:
        return {"labels": labels}
    return {"labels": labels, "next_sentence_label": original.is_random}


@pytest.mark.parametrize("case", [case for case in CASES if case != "mixed"])
def test_states_logits_and_losses_are_ours(case, tmp_path):
    module = shaken_module(case)
    objective = module.objective.config.name
    folder = written(tmp_path / "model", module)
    original = random_batch(objective)
    trace = Trace(want_attention=True)
    with torch.no_grad():
        task = module.objective.prepare(original, 5, training=False)
        task = module.objective.draft(task, module.backbone.embedding)
        hidden = module.backbone(task.batch, trace)
        terms = module.objective.loss(hidden, task)
    parts = {name: term.total / term.count for name, term in terms.items()}
    inputs, labels = inputs_of(task.batch), labels_of(task, original)
    beside = torch.cat(hidden.streams, dim=-1)

    with torch.no_grad():
        states = opened("AutoModel", folder)(**inputs, output_hidden_states=True, output_attentions=True)
    torch.testing.assert_close(states.last_hidden_state, beside, **TOLERANCE)
    assert len(states.hidden_states) == len(trace.layers) == (1 if objective == "sgns" else 3)
    for theirs, streams in zip(states.hidden_states, trace.layers, strict=True):
        torch.testing.assert_close(theirs, torch.cat(streams, dim=-1), **TOLERANCE)
    torch.testing.assert_close(states.hidden_states[-1], states.last_hidden_state, rtol=0, atol=0)
    for theirs, streams in zip(states.attentions, trace.attentions, strict=True):
        torch.testing.assert_close(theirs, torch.cat(streams, dim=1), **TOLERANCE)
    if module.backbone.context is Context.APART:
        torch.testing.assert_close(states.past_state, hidden.past, **TOLERANCE)
        torch.testing.assert_close(states.future_state, hidden.future, **TOLERANCE)

    logits_of = module.objective.head.logits
    for auto in HEADS[objective]:
        model = opened(auto, folder)
        assert type(model).__module__.startswith("transformers_modules.")
        given = labels if auto == "AutoModelForPreTraining" else {"labels": labels["labels"]}
        with torch.no_grad():
            output = model(**inputs, **given)
        if auto != "AutoModelForPreTraining":
            expected, theirs = {"": beside}, {"": output.logits}
            loss = parts[objective.partition("_")[0]]
        elif objective == "bilm":
            expected = {"forward": hidden.past, "backward": hidden.future}
            theirs = {"forward": output.forward_logits, "backward": output.backward_logits}
            loss = (parts["forward"] + parts["backward"]) / 2
        else:
            expected, theirs = {"": beside}, {"": output.prediction_logits}
            loss = sum(parts.values())
        for name, states_of in expected.items():
            with torch.no_grad():
                torch.testing.assert_close(theirs[name], logits_of(states_of), **TOLERANCE)
        torch.testing.assert_close(output.loss, loss, **TOLERANCE)
        with torch.no_grad():
            plain = model(**inputs, **given, return_dict=False)
        assert [value.shape for value in plain] == [value.shape for value in output.to_tuple()]
        torch.testing.assert_close(plain[0], output.loss, rtol=0, atol=0)
        if objective in ("mlm_nsp", "mlm_sop") and auto == "AutoModelForPreTraining":
            with torch.no_grad():
                pair = module.objective.pair_head(module.objective.pooled(hidden, task.batch))
            torch.testing.assert_close(output.seq_relationship_logits, pair, **TOLERANCE)


def test_rows_of_mixed_context_are_read_as_the_head_wants_them(tmp_path):
    module = shaken_module("mixed")
    folder, batch = written(tmp_path / "model", module), random_batch()
    inputs = inputs_of(batch)
    with torch.no_grad():
        full, past = (module.backbone.read_as(one)(batch).states for one in (Context.FULL, Context.PAST))
        head = module.objective.head
        causal = opened("AutoModelForCausalLM", folder)(**inputs).logits
        masked = opened("AutoModelForMaskedLM", folder)(**inputs).logits
        torch.testing.assert_close(causal, head.logits(past), **TOLERANCE)
        torch.testing.assert_close(masked[:, 1:], head.logits(full[:, :-1]), **TOLERANCE)
        for reading, expected in (({}, full), ({"reading": "past"}, past)):
            states = opened("AutoModel", folder, **reading)(**inputs).last_hidden_state
            torch.testing.assert_close(states, expected, **TOLERANCE)


def test_every_auto_class_is_named_and_one_without_heads_stands_alone(tmp_path):
    for objective, names in HEADS.items():
        model = {"bilm": "elmo", "sgns": "word2vec"}.get(objective, "gpt")
        folder = written(tmp_path / objective, small_module(model, objective))
        config = json.loads((folder / "config.json").read_text())
        assert set(config["auto_map"]) == {"AutoConfig", "AutoModel", *names}
        assert config["architectures"][0] in {c.split(".")[1] for c in config["auto_map"].values()}
        assert config["hidden_size"] == (32 if objective == "bilm" else 16)

    @dataclass
    class OtherConfig(ClmConfig):
        name: str = "other"

    module = small_module("gpt", "clm")
    module.objective.config = OtherConfig()
    folder = written(tmp_path / "other", module)
    config = json.loads((folder / "config.json").read_text())
    assert set(config["auto_map"]) == {"AutoConfig", "AutoModel"}
    assert opened("AutoModel", folder)(random_batch().tokens).last_hidden_state.shape == (4, 24, 16)


def test_rows_padded_on_either_side_are_read_alike(tmp_path):
    for number, case in enumerate(("gpt clm", "elmo bilm", "sinusoidal causal", "gpt bilm")):
        model = opened("AutoModel", written(tmp_path / str(number), shaken_module(case)))
        text = torch.arange(5, 12)[None]
        alone = model(text).last_hidden_state
        for left, right in ((0, 3), (3, 0), (2, 2)):
            padded = torch.nn.functional.pad(text, (left, right))
            mask = torch.nn.functional.pad(torch.ones_like(text), (left, right))
            states = model(padded, attention_mask=mask).last_hidden_state[:, left : left + 7]
            torch.testing.assert_close(states, alone, **TOLERANCE)


def test_positions_are_counted_in_each_document():
    documents = torch.tensor([[0, 0, 1, 1, 1, 2], [0, 0, 0, 0, 0, 0]])
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [0, 0, 1, 1, 1, 0]])
    numbers = numbered(documents, mask, documents)
    assert numbers.tolist() == [[0, 0, 1, 1, 1, 2], [-1, -1, 0, 0, 0, -1]]
    assert positions_in(numbers).tolist() == [[0, 1, 0, 1, 2, 0], [0, 0, 0, 1, 2, 0]]


def test_saved_by_transformers_it_opens_again(tmp_path):
    for number, (case, auto) in enumerate(
        [
            ("bert mlm_nsp", "AutoModelForPreTraining"),
            ("elmo_2018 bilm", "AutoModel"),
            ("gpt clm", "AutoModelForCausalLM"),
        ]
    ):
        model = opened(auto, written(tmp_path / f"{number}", shaken_module(case)))
        again = tmp_path / f"{number}-again"
        model.save_pretrained(again)
        assert set(code_files()) <= {path.name for path in again.iterdir()}
        tokens = random_batch().tokens
        ours, theirs = model(tokens).to_tuple(), opened(auto, again)(tokens).to_tuple()
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=0)
        if auto == "AutoModelForPreTraining":  # one part of it is a whole model too
            assert opened("AutoModel", again)(tokens).last_hidden_state.shape == (4, 24, 16)


def test_a_folder_without_a_head_is_refused_by_the_class_that_needs_it(tmp_path):
    folder = written(tmp_path / "whole", shaken_module("untied"))
    weights = {n: w for n, w in load_file(folder / "model.safetensors").items() if "decoder" not in n}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert opened("AutoModel", folder)(random_batch().tokens).last_hidden_state.shape == (4, 24, 16)
    with pytest.raises(
        ValueError, match=r"no weights objective\.head\.decoder, objective\.head\.decoder_bias"
    ):
        opened("AutoModelForMaskedLM", folder)


def test_the_wrong_class_is_refused_by_name(tmp_path):
    config = opened("AutoModel", written(tmp_path / "model", shaken_module("elmo bilm"))).config
    with pytest.raises(ValueError, match="objective=bilm is no LmzooForCausalLM"):
        remote.LmzooForCausalLM(remote.LmzooConfig(**config.to_dict()))
    with pytest.raises(ValueError, match="no key `lmzoo`"):
        remote.LmzooModel(remote.LmzooConfig())


def test_a_model_built_from_its_config_is_drawn_as_lmzoo_draws(tmp_path):
    folder = written(tmp_path / "model", small_module("elmo_2018", "mlm"))
    config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=True)
    model = transformers.AutoModelForMaskedLM.from_config(config, trust_remote_code=True)
    forget = model.backbone.encoder.past[0].bias[12:24]
    assert forget.tolist() == [1.0] * 12
    assert model.objective.head.decoder.std() > 0


def test_halves_are_computed_in_and_the_spelling_stays_whole(tmp_path):
    folder = written(tmp_path / "transformer", shaken_module("sinusoidal masked"))
    batch = random_batch()
    whole = opened("AutoModel", folder)(batch.tokens).last_hidden_state
    half = opened("AutoModel", folder, dtype=torch.bfloat16)(batch.tokens).last_hidden_state
    assert half.dtype == torch.bfloat16
    assert torch.nn.functional.cosine_similarity(half.float(), whole, dim=-1).min() > 0.99
    folder = written(tmp_path / "characters", shaken_module("elmo_2018 bilm"))
    assert opened("AutoModel", folder, dtype=torch.bfloat16).embedding.tokens.spelling.dtype == torch.int32


def test_it_generates_what_its_own_logits_say_and_learns(tmp_path):
    module = shaken_module("sinusoidal causal")
    model = opened("AutoModelForCausalLM", written(tmp_path / "model", module))
    prompts = torch.tensor([[0, 0, 7, 8], [9, 10, 11, 12]])
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    made = model.generate(prompts, attention_mask=mask, max_new_tokens=6, do_sample=False, eos_token_id=None)
    for row, start in ((0, 2), (1, 0)):
        tokens = prompts[row, start:].tolist()
        for _ in range(6):
            read = torch.tensor([tokens])
            batch = Batch(read, torch.zeros_like(read), torch.arange(len(tokens))[None], torch.zeros(1))
            with torch.no_grad():
                logits = module.objective.head.logits(module.backbone(batch).states[:, -1])
            tokens.append(int(logits.argmax()))
        assert made[row, start:].tolist() == tokens
    model.train()
    model(prompts, attention_mask=mask, labels=prompts).loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_the_code_names_its_source_and_its_neighbours_alone(tmp_path):
    files = code_files()
    folder = written(tmp_path / "model", small_module("gpt", "clm"))
    for name, text in files.items():
        assert (folder / name).read_text() == text
        assert text.splitlines()[0].endswith(f"of lmzoo {__version__}, its imports made relative")
        assert text.splitlines()[1] == "# SPDX-License-Identifier: Apache-2.0"
        modules = {node.module for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom)}
        assert not {m for m in modules if m and m.split(".")[0] == "lmzoo"}
    from transformers.dynamic_module_utils import get_relative_import_files

    found = get_relative_import_files(folder / f"{MODELING}.py")
    assert {Path(path).name for path in found} | {f"{MODELING}.py"} == set(files)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("import lmzoo.types", "write `from"),
        ("from lmzoo.nn import losses", "name the file"),
        ("from  lmzoo.types import Batch", "on one line"),
    ],
)
def test_an_import_that_cannot_be_made_relative_is_an_error(line, reason):
    with pytest.raises(ValueError, match=reason):
        with_flat_imports("lmzoo.some", f"import torch\n{line}\n")


def test_imports_inside_blocks_and_over_lines_are_made_relative():
    text = "if TYPE_CHECKING:\n    from lmzoo.types import (\n        Batch,\n    )\n"
    flat, needed = with_flat_imports("lmzoo.some", text)
    assert flat == text.replace("lmzoo.types", ".lmzoo_types")
    assert needed == ["lmzoo.types"]


ELSEWHERE = """
import json, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "lmzoo":
            raise ImportError("lmzoo is not here")

sys.meta_path.insert(0, Blocker())
import torch, transformers
tokens, answers = torch.arange(5, 17)[None], {}
for auto, folder in json.loads(sys.argv[1]):
    model = getattr(transformers, auto).from_pretrained(folder, trust_remote_code=True)
    with torch.no_grad():
        answers[folder] = [value.tolist() for value in model(tokens).to_tuple()]
assert not [name for name in sys.modules if name.split(".")[0] == "lmzoo"]
print(json.dumps(answers))
"""


def test_it_opens_where_lmzoo_is_not(tmp_path):
    cases = {
        "bert mlm_nsp": "AutoModelForPreTraining",
        "elmo_2018 bilm": "AutoModelForPreTraining",
        "gpt bilm": "AutoModel",
        "sinusoidal causal": "AutoModelForCausalLM",
    }
    folders = [
        (auto, str(written(tmp_path / f"model {number}", shaken_module(case))))
        for number, (case, auto) in enumerate(cases.items())
    ]
    environment = os.environ | {"HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", ELSEWHERE, json.dumps(folders)],
        env=environment, cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout.splitlines()[-1])
    tokens = torch.arange(5, 17)[None]
    for auto, folder in folders:
        with torch.no_grad():
            here = opened(auto, Path(folder))(tokens).to_tuple()
        for mine, theirs in zip(here, answers[folder], strict=True):
            torch.testing.assert_close(mine, torch.tensor(theirs), **TOLERANCE)


def test_code_is_written_where_transformers_is_not():
    blocked = "import sys; sys.modules['transformers'] = None"
    code = f"{blocked}; from lmzoo.hub.code import code_files; print(len(code_files()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) == len(code_files())
