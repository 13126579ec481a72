"""One run, from its config to its folder: corpus, module, trainer, figures, export."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_only

from lmzoo import __version__
from lmzoo import config as configs
from lmzoo.artifacts import log_models
from lmzoo.assembly import PRECISIONS, build_datamodule, build_module, precision_of, tell_words
from lmzoo.averaging import averaging_of
from lmzoo.branches import read_trunk
from lmzoo.callbacks import BudgetBar, LogSpaced, quieten
from lmzoo.checkpoint_files import Saved, WholeCheckpoints
from lmzoo.checkpoints import (
    LAST,
    PREVIOUS,
    LastCheckpoint,
    RunRecord,
    read_last,
    refuse_another_run,
    weights_of,
)
from lmzoo.data.config import PAIR_VIEWS
from lmzoo.data.datamodule import TextDataModule
from lmzoo.data.nsp_baseline import overlap_baseline
from lmzoo.data.prepare import default_cache_dir, prepare
from lmzoo.data.store import Store
from lmzoo.data.subset import trained_on
from lmzoo.disk import (
    disk_errors,
    only_one,
    refuse_without_room,
    remove,
    remove_leftovers,
    try_to_write,
)
from lmzoo.distributed import as_rank_command, cluster_environment
from lmzoo.hub.folder import export_model, initialize_from
from lmzoo.kernels import choose_kernels
from lmzoo.ledger import peak_memory_bytes
from lmzoo.logs import build_loggers, close_loggers, wandb_link
from lmzoo.modules import LanguageModelModule
from lmzoo.nonfinite import FOLDER as NONFINITE
from lmzoo.progress import say
from lmzoo.records import final_figures, git_commit, next_commands, write_json
from lmzoo.settings import TrainConfig
from lmzoo.sharded import ShardedStrategy, gathered
from lmzoo.signals import Stopped, how_to_go_on
from lmzoo.summary import summary_table
from lmzoo.vectors import fill_from_file
from lmzoo.yardsticks.run import along, at_end


def train(config: TrainConfig, folder: Path, resuming: bool = False) -> dict[str, Any]:
    """Train, measure and export one model.

    Args:
        config: resolved.
        folder: the run folder, which holds config.yaml already.
        resuming: go on from ``checkpoints/last.ckpt``, or from the one before if that is damaged.

    Returns:
        what ``metrics.json`` holds.

    Raises:
        LmzooError: for all that a user can cause.
        Stopped: a signal asked the run to end.
    """
    first = rank_zero_only.rank == 0  # type: ignore[attr-defined]
    with (
        disk_errors(folder, f", then {how_to_go_on(folder)}"),
        only_one(folder) if first else contextlib.nullcontext(),
    ):
        return _train(config, folder, resuming, first)


def _train(config: TrainConfig, folder: Path, resuming: bool, first: bool) -> dict[str, Any]:
    quieten()
    precision = precision_of(config.hardware)
    if first:
        try_to_write(folder)
        remove_leftovers(folder)
    saved = read_last(folder) if resuming else None
    record = saved.content["lmzoo"] if saved else {}
    trunk: Saved | None = None
    cache = Path(config.cache_dir) if config.cache_dir else default_cache_dir()
    store = trained_on(prepare(config.data, config.tokenizer, cache), config.data)
    datamodule = build_datamodule(config, store)
    module = build_module(config, store)
    module.nonfinite.folder = folder / NONFINITE
    told = tell_words(config, module, store.tokenizer)
    if told and first:
        say(told)
    if first:
        parameter_bytes = sum(p.numel() * p.element_size() for p in module.parameters())
        kept = 1 + config.checkpoint.log_spaced + 3 * len(config.checkpoint.branches or ())
        refuse_without_room(folder, parameter_bytes, exports=kept)
    vectors_found = record.get("vectors_found")
    if saved is None and config.model.vectors is not None:
        vectors_found = fill_from_file(module.backbone, store.tokenizer, config.model.vectors)
    if saved is None and config.init_from:
        told = initialize_from(module, config.init_from, store.tokenizer)
        if told and first:
            say(f"init_from={config.init_from}: {told}")
    if saved is not None:
        refuse_another_run(saved, config, module, store, folder)
    elif config.branch_from:
        trunk = read_trunk(config, store)
    averaging = averaging_of(config.averaging)
    described = configs.to_dict(config)
    loggers, wandb_id = build_loggers(
        config.logger,
        folder,
        run_config=described,
        name=f"{config.model.name}-{config.objective.name}-{config.size}-seed{config.seed}",
        tags=[config.model.name, config.objective.name, str(config.size), f"seed{config.seed}"],
        group=config.logger.group,
        wandb_id=record.get("wandb_id"),
        resume_step=saved.steps if saved else None,
    )

    def export(to: Path) -> None:
        with averaging.in_place(module) if averaging else contextlib.nullcontext():
            export_as_it_is(to)

    def export_as_it_is(to: Path) -> None:
        whole = gathered(module, lambda: build_module(config, store))
        if first and whole is not None:
            export_model(to, whole, config.model, config.seq_len, store.tokenizer, run_config=described)

    exit_code, preempted = 1, False
    try:
        with as_rank_command(folder, described, resuming):
            trainer = _build_trainer(
                config,
                precision,
                folder,
                loggers,
                RunRecord(described, wandb_id, store.content, vectors_found),
                saved or trunk,
                [
                    *([averaging] if averaging else []),
                    LogSpaced(folder, config.checkpoint.log_spaced, export),
                ],
            )
            choose_kernels(module, config.hardware, trainer.strategy.root_device, precision)
            _fit(trainer, module, datamodule, saved or trunk)
            metrics = _measure(trainer, module, datamodule, config, store)
            if averaging:
                with averaging.as_it_was(module):
                    trainer.validate(module, datamodule=datamodule, verbose=False)
                    metrics["valid"]["loss_unaveraged"] = module.metrics["loss"] if averaging.ended else None
            whole = gathered(module, lambda: build_module(config, store))
        metrics["run"]["vectors_found"] = vectors_found
        if trainer.is_global_zero:
            assert whole is not None
            for logger in loggers:
                logger.log_metrics(final_figures(metrics), step=module.ledger.steps)
            write_json(folder / "metrics.json", metrics)
            export_model(
                folder / "model",
                whole,
                config.model,
                config.seq_len,
                store.tokenizer,
                record=metrics,
                run_config=described,
            )
            if config.logger.log_model:
                log_models(loggers, folder, metrics["run"])
            _evaluate(config, folder, store, metrics, loggers, str(trainer.strategy.root_device))
            remove(folder / PREVIOUS)
        exit_code = 0
    except Stopped as stop:
        exit_code, preempted = stop.status, stop.preempted
        raise
    finally:
        close_loggers(loggers, exit_code, preempted)
    if trainer.is_global_zero:
        # as it would be typed here
        shown = folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
        link = wandb_link(loggers)
        if link is not None:
            link = link.replace(str(folder), str(shown))
        print(
            summary_table(metrics, shown, next_commands=next_commands(config, shown), link=link), flush=True
        )
    return metrics


def _build_trainer(
    config: TrainConfig,
    precision: str,
    folder: Path,
    loggers: list[Any],
    record: RunRecord,
    saved: Saved | None,
    along_the_way: list[Callback],
) -> L.Trainer:
    hardware = config.hardware
    keep_last = saved is None or saved.path == folder / LAST
    return L.Trainer(
        default_root_dir=folder,
        accelerator=hardware.accelerator,
        devices=hardware.devices,
        num_nodes=hardware.nodes,
        strategy=ShardedStrategy(keep_last) if hardware.strategy == "fsdp" else hardware.strategy,
        plugins=[cluster_environment(), WholeCheckpoints(saved, keep_last)],
        precision=PRECISIONS[precision],  # type: ignore[arg-type]
        logger=loggers,
        max_epochs=1,  # the data module's one epoch has no end; the budget ends the run
        val_check_interval=config.valid.every_steps,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[
            record,
            *along_the_way,
            ModelCheckpoint(
                folder / "checkpoints",
                filename="best",
                monitor="valid/loss",
                enable_version_counter=False,
                auto_insert_metric_name=False,
            ),
            LastCheckpoint(
                folder,
                config.checkpoint.every_steps,
                config.valid.every_steps,
                config.checkpoint.branches or (),
            ),
            BudgetBar(f"{config.model.name} {config.objective.name}"),
        ],
    )


def _fit(
    trainer: L.Trainer, module: LanguageModelModule, datamodule: TextDataModule, saved: Saved | None
) -> None:
    if saved is not None and module_is_done(module, saved.content):
        module.load_state_dict(weights_of(saved))
        return
    path = None if saved is None else str(saved.path)
    trainer.fit(module, datamodule=datamodule, ckpt_path=path, weights_only=True)


def module_is_done(module: LanguageModelModule, saved: dict[str, Any]) -> bool:
    """Take over a checkpoint's ledger; whether its budget is spent already."""
    module.ledger.load_state_dict(saved["ledger"])
    return module.progress >= 1


def _evaluate(
    config: TrainConfig, folder: Path, store: Store, metrics: dict[str, Any], loggers: list[Any], device: str
) -> None:
    """The yardsticks that were asked for, of the exported model and of the checkpoints along the way."""
    text = {"seq_len": config.seq_len, "sentences": config.data.sentences, "device": device}
    if config.evaluate_at_end:
        metrics["evaluations"] = at_end(config.evaluate_at_end, folder, store, **text)
        write_json(folder / "metrics.json", metrics)
        known = {f"evaluation/{n}": f for n, f in metrics["evaluations"].items() if f is not None}
        for logger in loggers if known else []:
            logger.log_metrics(known, step=metrics["ledger"]["steps"])
    if config.evaluate_along:
        along(config.evaluate_along, folder, store, **text)


def _measure(
    trainer: L.Trainer,
    module: LanguageModelModule,
    datamodule: TextDataModule,
    config: TrainConfig,
    store: Store,
) -> dict[str, Any]:
    """The last weights on the whole validation part, and the test part if there is one; the ledger."""
    datamodule.full_validation = True
    trainer.validate(module, datamodule=datamodule, verbose=False)
    valid = module.metrics | {"unigram_entropy": store.unigram_entropy("valid")}
    if config.data.view in PAIR_VIEWS and config.objective.name == "mlm_nsp":
        valid["nsp_overlap_accuracy"] = overlap_baseline(datamodule.train_view, datamodule.valid_view)  # type: ignore[arg-type]
    test = None
    if "test" in store.parts:
        trainer.test(module, datamodule=datamodule, verbose=False)
        test = module.metrics | {"unigram_entropy": store.unigram_entropy("test")}
    ledger = module.ledger
    return {
        "run": {
            "model": config.model.name,
            "objective": config.objective.name,
            "size": config.size,
            "seed": config.seed,
            "version": __version__,
            "precision": precision_of(config.hardware),
            "averaging": config.averaging.name,
            "git": git_commit(),
            "content": store.content,
        },
        "ledger": {
            "steps": ledger.steps,
            "skipped_steps": ledger.skipped_steps,
            "tokens_seen": ledger.tokens_seen,
            "unique_tokens": datamodule.unique_tokens(ledger.steps),
            "predicted_tokens": ledger.predicted_tokens,
            "flops": ledger.flops,
            "seconds": ledger.seconds,
            "tokens_per_second": ledger.tokens_per_second,
            "peak_memory_bytes": peak_memory_bytes(trainer.strategy.root_device),
            "params_total": sum(p.numel() for p in module.parameters()),
            "params_non_embedding": module.backbone.num_parameters(),
        },
        "valid": valid,
        "test": test,
    }
