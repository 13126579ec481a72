"""One training run as plain values: composed by Hydra, filled, checked, written and read back.

Importing this file costs neither torch nor Hydra: both come late, so that a refusal is quick.
"""

from __future__ import annotations

import copy
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmzoo import checks, model_checks
from lmzoo.data.config import OPENERS, PAIR_VIEWS, DataConfig
from lmzoo.data.ramp import check_ramp
from lmzoo.errors import LmzooError, MismatchError, one_of
from lmzoo.nn.config import MODELS, LstmConfig, StaticConfig, TransformerConfig
from lmzoo.nn.sizes import choose_size, complete
from lmzoo.objectives.config import OBJECTIVES, choose_context, complete_objective
from lmzoo.places import config_folder
from lmzoo.plain_yaml import read_yaml
from lmzoo.settings import DEFAULT_TOKENS, TrainConfig
from lmzoo.tasks.text import TaskSource

if TYPE_CHECKING:
    from omegaconf import DictConfig

OPENERS["task"] = TaskSource


def register_schemas() -> None:
    """Tell Hydra the types, so that it refuses a misspelt key or a wrong type from wherever it comes."""
    from hydra.core.config_store import ConfigStore

    store = ConfigStore.instance()
    models = {"transformer": TransformerConfig, "lstm": LstmConfig, "static": StaticConfig}
    schemas = {"train": TrainConfig} | models | OBJECTIVES
    schemas["past_lstm"] = MODELS["lstm"]
    for name, schema in schemas.items():
        # The run's own schema goes to the root; the others to where a group's YAML calls them.
        store.store(name, schema, group="schema", package="_global_" if name == "train" else None)
    _register_resolver()


def _register_resolver() -> None:
    from omegaconf import OmegaConf

    OmegaConf.register_new_resolver("at_width", _at_width, replace=True)


def _at_width(rate: float, width: int, *, _root_: DictConfig) -> float:
    """`${at_width:RATE,WIDTH}`: a learning rate that was published at one width, at the width of this run's model.

    Rates of optimizers that divide by the size of the gradient go with one over the width (Yang et al. 2022,
    arXiv:2203.03466, table 3: Adam, hidden weights).
    """
    from omegaconf import OmegaConf

    model: Any = OmegaConf.to_object(_root_.model)
    try:
        model = complete(model, size=_root_.size, pairs=False, seq_len=1)
    except LmzooError:  # a size that the model has not is refused in its own words
        return rate
    return float(f"{rate * width / model.hidden_size:.4g}")


def from_hydra(cfg: DictConfig) -> TrainConfig:
    """The dataclasses of a composed config.

    Raises:
        LmzooError: for a key that was forced in with ``+`` and that no dataclass has.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from lmzoo.refusals import explain

    _register_resolver()  # a launcher's worker has not composed the config itself
    if (cfg.recipe or "").endswith("?"):
        raise MismatchError(
            f"recipe={cfg.recipe[:-1]} says nothing of model={cfg.model.name}; leave recipe= out, or choose "
            "another model"
        )
    try:
        config: Any = OmegaConf.to_object(cfg)
    except OmegaConfBaseException as error:
        raise LmzooError(explain(error)) from error
    _refuse_extra_keys(config, "")
    return config


def _refuse_extra_keys(node: Any, prefix: str) -> None:
    from lmzoo.refusals import unknown_key

    known = {entry.name for entry in fields(node)}
    for name, value in vars(node).items():
        if name not in known:
            raise LmzooError(unknown_key(prefix + name, type(node)))
        if is_dataclass(value):
            _refuse_extra_keys(value, f"{prefix}{name}.")


def resolve(config: TrainConfig) -> TrainConfig:
    """Fill everything that is open or derived, and check that it goes together; the argument stays.

    Raises:
        LmzooError: one line naming what does not go together and what would.
    """
    config = copy.deepcopy(config)
    if config.resume is not None:
        raise LmzooError("resume= is given on the command line, alone or with hardware and logger settings")
    checks.check_values(config)
    model, objective, data = config.model, config.objective, config.data
    context = choose_context(model, objective, config.context)
    config.context = context.value
    if data.view is None:
        data.view = objective.views[0]
    model_checks.check_view(objective, data.view)
    pairs = data.view in PAIR_VIEWS
    config.size = choose_size(model, config.size)
    config.model = complete(model, size=config.size, pairs=pairs, seq_len=config.seq_len)
    model_checks.check_model(config.model, config.seq_len)
    model_checks.check_objective(objective)
    model_checks.check_token_loss(objective, config.tokenizer)
    checks.check_optimizer(config.optimizer, config.model)
    config.objective = complete_objective(objective)
    checks.check_data(data, config.tokenizer)
    checks.check_budget(config.budget)
    if all(value is None for value in vars(config.budget).values()):
        config.budget.tokens = float(DEFAULT_TOKENS)
    checks.check_schedule(config.schedule)
    devices = config.hardware.devices
    ranks = devices * config.hardware.nodes if isinstance(devices, int) else None
    check_ramp(config.ramp, config.batch_size, config.seq_len, data.view, ranks)
    checks.check_along_the_way(config)
    checks.check_hardware(config.hardware, config.batch_size, config.optimizer.name)
    _make_paths_absolute(config)
    return config


def _make_paths_absolute(config: TrainConfig) -> None:
    """A run may be resumed from any working folder, so its config must not rest on this one."""
    # the parts of a data set are splits of it, and itself is a path only where it is a folder
    if config.data.source == "task":
        _make_task_paths_absolute(config.data)
    texts = {"hub": ("name",), "task": ("root",)}.get(config.data.source, ("train", "valid", "test"))
    for owner, name in (
        *((config.data, part) for part in texts),
        (config.tokenizer, "file"),
        (config.model, "vectors"),
        (config.objective, "words"),
        (config, "cache_dir"),
        (config, "init_from"),
        (config, "branch_from"),
    ):
        given = getattr(owner, name, None)
        if name in ("init_from", "name") and given and not _is_there(given):
            continue  # a name on the hub
        if given == "":
            raise LmzooError(f"{name}= is empty; give a path, or leave it out")
        if isinstance(given, str):
            setattr(owner, name, _absolute(given))
        elif isinstance(given, list):
            setattr(owner, name, [_absolute(str(path)) for path in given])


def _make_task_paths_absolute(data: DataConfig) -> None:
    """A task may be a name, and its files may lie under its root: only what lies here is a path from here."""
    for name in ("task", "train", "valid", "test"):
        given = getattr(data, name)
        if isinstance(given, str) and given and _is_there(given) and Path(given).expanduser().is_file():
            setattr(data, name, _absolute(given))


def _is_there(path: str) -> bool:
    try:
        return Path(path).expanduser().exists()
    except (OSError, RuntimeError, ValueError):  # too long a name, nobody's home, a zero byte
        return False


def _absolute(path: str) -> str:
    try:
        return str(Path.cwd() / Path(path).expanduser())
    except RuntimeError:
        raise LmzooError(f"{path}: nobody of this name has a home here; give the path from /") from None


def to_dict(config: TrainConfig) -> dict[str, Any]:
    """Plain containers, as they stand in `config.yaml` and in checkpoints."""
    return asdict(config)


def from_dict(values: dict[str, Any]) -> TrainConfig:
    """The config that ``to_dict`` gave.

    Raises:
        LmzooError: for a key that this version of lmzoo does not have, or a value of another type.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from lmzoo.refusals import explain

    try:
        names = values["model"]["name"], values["objective"]["name"]
    except (KeyError, TypeError):
        raise LmzooError("not the config of a run: it names no model and no objective") from None
    one_of("model.name", names[0], MODELS)
    one_of("objective.name", names[1], OBJECTIVES)
    typed = TrainConfig(model=MODELS[names[0]](), objective=OBJECTIVES[names[1]]())
    try:
        config: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(typed), values))
    except OmegaConfBaseException as error:
        raise LmzooError(explain(error)) from error
    except OverflowError as error:
        raise LmzooError(f"a number in it is too large ({str(error).splitlines()[0]})") from error
    return config


def save_config(config: TrainConfig, path: Path) -> None:
    """Write ``config`` as YAML to a new file.

    Raises:
        FileExistsError: where there is a file already, which is left as it is.
    """
    import yaml

    text = yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True)
    with path.open("x", encoding="utf-8") as file:  # and in one write, for a process may be killed
        file.write(text)


def load_config(path: Path) -> TrainConfig:
    """Read a run's `config.yaml`. Raises LmzooError naming the file and what is wrong with it."""
    if not path.exists():
        raise LmzooError(f"{path} does not exist: is its folder a run?")
    values = read_yaml(path)
    try:
        _refuse_look_ups(values, "")
        return from_dict(values)
    except LmzooError as error:
        raise LmzooError(f"{path}: {error} (written by another version of lmzoo, or by hand?)") from error


def _refuse_look_ups(values: Any, where: str) -> None:
    """A run's config is resolved: someone else's could look up a password in the environment here."""
    inside = values.items() if isinstance(values, dict) else enumerate(values) if type(values) is list else ()
    for key, value in inside:
        _refuse_look_ups(value, f"{where}.{key}" if where else str(key))
    if isinstance(values, str) and "${" in values:
        raise LmzooError(
            f"{where}={values} looks something up, and everything in it should stand there itself"
        )


def compose(overrides: list[str]) -> TrainConfig:
    """The resolved config that ``overrides`` make, without a run: ``compose(["model=gpt", "seed=2"])``.

    Raises:
        LmzooError: where the command line would be refused.
    """
    from lmzoo.adoption import with_adopted
    from lmzoo.sweeps.cells import refuse_cells

    refuse_cells(overrides)
    return resolve(from_hydra(composed(with_adopted(overrides, composed))))


def composed(overrides: list[str]) -> DictConfig:
    """What Hydra makes of ``overrides``, neither filled nor checked. Raises LmzooError."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir

    from lmzoo.refusals import composition_errors, refusal

    register_schemas()
    try:
        with initialize_config_dir(str(config_folder()), version_base="1.3", job_name="lmzoo"):
            return hydra_compose("train", overrides)
    except composition_errors() as error:
        raise refusal(error) from error
