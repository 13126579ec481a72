"""Recipes: what they say of a model, what wins over them, and what they refuse."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from lmzoo.config import compose, config_folder, resolve
from lmzoo.errors import LmzooError, MismatchError
from lmzoo.nn.config import MODELS
from lmzoo.optim import build_optimizer
from lmzoo.settings import OptimizerConfig


@pytest.mark.parametrize(
    ("model", "optimizer", "rate", "width", "schedule"),
    [
        ("elmo", "adagrad", 0.2, 512, "constant"),  # Peters et al. 2018; allenai/bilm-tf
        ("elmo_2018", "adagrad", 0.2, 512, "constant"),
        ("gpt", "adamw", 2.5e-4, 768, "cosine"),  # Radford et al. 2018, section 4.1
        ("gpt_2018", "adamw", 2.5e-4, 768, "cosine"),
        ("gpt2", "adamw", 2.5e-4, 768, "cosine"),
        ("bert", "adamw", 1e-4, 768, "linear"),  # Devlin et al. 2019, appendix A.2
        ("bert_2018", "adamw", 1e-4, 768, "linear"),
    ],
)
def test_paper_is_the_published_recipe_at_the_width_of_the_run(model, optimizer, rate, width, schedule):
    config = compose([f"model={model}", "recipe=paper"])
    assert config.recipe == "paper"
    assert (config.optimizer.name, config.schedule.name) == (optimizer, schedule)
    assert config.model.dropout == 0.1
    assert config.model.hidden_size == 128
    assert config.optimizer.lr == pytest.approx(rate * width / 128)
    at_home = compose([f"model={model}", "recipe=paper", "size=base"]).model.hidden_size
    published = compose([f"model={model}", "recipe=paper", "size=base"]).optimizer.lr
    assert published == pytest.approx(rate * width / at_home, rel=1e-3)
    assert resolve(config) == config


def test_paper_knows_every_model():
    for name in ("elmo", "gpt", "bert", "elmo_2018", "gpt_2018", "gpt2", "bert_2018"):
        assert name in MODELS
        assert (config_folder() / "recipe" / "paper" / f"{name}.yaml").is_file()


def test_the_command_line_wins_over_a_recipe():
    base = ["model=gpt", "recipe=paper"]
    assert compose([*base, "optimizer.lr=1e-3", "size=mini"]).optimizer.lr == 1e-3
    assert compose([*base, "schedule=wsd"]).schedule.name == "wsd"
    assert compose([*base, "optimizer=muon"]).optimizer.name == "muon"
    assert compose([*base, "model.dropout=0"]).model.dropout == 0
    assert compose(["optimizer=adamw", "model=elmo", "recipe=paper"]).optimizer.name == "adamw"
    assert compose(["recipe=best", "objective.mask_rate=0.2"]).objective.mask_rate == 0.2  # type: ignore[attr-defined]


def test_best_has_muon_where_it_measured_best_and_the_command_line_wins():
    chosen = {
        model: compose([f"model={model}", "recipe=best"]).optimizer.name for model in ("elmo", "gpt", "bert")
    }
    assert chosen == {"elmo": "muon", "gpt": "muon", "bert": "adamw"}
    adamw = compose(["model=gpt", "recipe=best", "optimizer=adamw"]).optimizer
    assert (adamw.name, adamw.lr) == ("adamw", 8e-3)


def test_an_experiment_takes_a_recipe_and_wins_over_it():
    config = compose(["experiment=bert_ltr", "recipe=paper"])
    assert (config.recipe, config.objective.name, config.optimizer.beta2) == ("paper", "clm", 0.999)


def test_what_a_recipe_says_of_an_objective_goes_with_the_objective():
    assert compose(["model=bert", "recipe=best"]).objective.mask_rate == 0.4  # type: ignore[attr-defined]
    assert compose(["model=gpt", "objective=mlm", "recipe=best"]).objective.mask_rate == 0.4  # type: ignore[attr-defined]
    assert not hasattr(compose(["model=bert", "objective=clm", "recipe=best"]).objective, "mask_rate")


def test_without_a_recipe_all_is_as_ever():
    config = compose([])
    assert config.recipe is None
    assert config.optimizer == OptimizerConfig()
    assert (config.schedule.name, config.schedule.warmup) == ("linear", 0.06)


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("recipe=nosuch", "choose one of: best, paper"),
        ("recipe=best model=gpt2", "recipe=best says nothing of model=gpt2"),
        ("recipe=paper model=gpt size=huge", "size=huge is not known"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(line, part):
    with pytest.raises(LmzooError, match=part) as caught:
        compose(line.split())
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, MismatchError) == ("says nothing" in part)


def test_a_recipe_of_ones_own_lies_in_a_folder_of_choices(tmp_path: Path):
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir

    from lmzoo.config import from_hydra, register_schemas

    (tmp_path / "recipe" / "mine").mkdir(parents=True)
    (tmp_path / "recipe" / "mine.yaml").write_text(
        "# @package _global_\nrecipe: mine\noptimizer:\n  lr: ${at_width:1e-3,64}\n", encoding="utf-8"
    )
    (tmp_path / "recipe" / "mine" / "gpt.yaml").write_text(
        yaml.safe_dump({"batch_size": 8}), encoding="utf-8"
    )
    register_schemas()
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        said = [f"hydra.searchpath=[{tmp_path}]", "model=gpt", "recipe=mine"]
        config = from_hydra(hydra_compose("train", said))
    assert (config.recipe, config.optimizer.lr, config.batch_size) == ("mine", 5e-4, 8)


def test_adagrad_moves_as_published():
    """Duchi et al. 2011, equation 1 (diagonal): rate · g / √(start + Σ g²), by hand over two steps."""
    config = OptimizerConfig("adagrad", lr=0.2, eps=1e-30, initial_accumulator=0.25, weight_decay=0.0)
    layer = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(layer.weight, 1.0)
    optimizer = build_optimizer(layer, config)
    layer.weight.grad = torch.tensor([[0.5]])
    optimizer.step()
    first = 1 - 0.2 * 0.5 / (0.25 + 0.25) ** 0.5
    assert layer.weight.item() == pytest.approx(first, rel=1e-6)
    layer.weight.grad = torch.tensor([[-1.0]])
    optimizer.step()
    assert layer.weight.item() == pytest.approx(first + 0.2 * 1.0 / (0.5 + 1.0) ** 0.5, rel=1e-6)


def test_elmo_s_loss_without_its_factor_of_20_makes_the_published_updates():
    """A loss 20 times as large, accumulators of 1 and a norm of 10, against ours: the same weights."""
    ours = compose(["model=elmo", "recipe=paper"]).optimizer
    factor = 20
    assert ours.initial_accumulator == pytest.approx(1 / factor**2)
    assert ours.gradient_clip == pytest.approx(10 / factor)
    theirs = OptimizerConfig("adagrad", lr=ours.lr, eps=0.0, initial_accumulator=1.0, weight_decay=0.0)
    torch.manual_seed(1)
    gradients = [torch.randn(3, 4) for _ in range(5)]
    ends = []
    for config, scale in ((ours, 1), (theirs, factor)):
        layer = torch.nn.Linear(4, 3, bias=False)
        torch.nn.init.ones_(layer.weight)
        optimizer = build_optimizer(layer, config)
        for gradient in gradients:
            layer.weight.grad = gradient * scale
            optimizer.step()
        ends.append(layer.weight.detach())
    assert torch.allclose(*ends, rtol=1e-5)
