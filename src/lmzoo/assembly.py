"""From a run's config and its store to what is trained: the data module, the module, and the precision."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from lmzoo.data.config import PAIR_VIEWS
from lmzoo.data.datamodule import TextDataModule
from lmzoo.data.store import Store
from lmzoo.errors import LmzooError
from lmzoo.modules import MODULES, LanguageModelModule
from lmzoo.nn.char_cnn import characters_of
from lmzoo.objectives.config import MlmConfig, by_counts, by_words
from lmzoo.objectives.mlm import Mlm
from lmzoo.objectives.segmentation import LONGEST_WORD, word_list
from lmzoo.settings import HardwareConfig, TrainConfig
from lmzoo.text.word_list import read_words

PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


def build_datamodule(config: TrainConfig, store: Store) -> TextDataModule:
    """The batches of a run over a prepared corpus."""
    assert config.data.view
    return TextDataModule(
        store,
        view=config.data.view,
        seq_len=config.seq_len,
        batch_size=config.batch_size,
        seed=config.seed,
        short_pairs=config.data.short_pairs,
        valid_sequences=config.valid.sequences,
        workers=config.hardware.workers,
        ramp=config.ramp,
    )


def build_module(config: TrainConfig, store: Store) -> LanguageModelModule:
    """The module of a run: its family's, with any legal objective."""
    token_bytes = store.tokenizer.id_bytes()
    special = store.tokenizer.special
    counts = np.array(store.parts["train"].unigrams) if by_counts(config.objective) else None
    characters = None
    if config.model.is_spelt:
        characters = characters_of(store.tokenizer.spellings(), special, config.model.characters_per_token)
    module = MODULES[config.model.name](
        config.objective,
        model=config.model,
        size=config.size,
        special=special,
        unigrams=None if counts is None else torch.from_numpy(counts),
        characters=characters,
        token_bytes=None if token_bytes is None else torch.from_numpy(token_bytes),
        joints=torch.from_numpy(store.tokenizer.joints()) if by_words(config.objective) else None,
        pairs=config.data.view in PAIR_VIEWS,
        seq_len=config.seq_len,
        context=config.context,
        seed=config.seed,
        optimizer=config.optimizer,
        schedule=config.schedule,
        budget=config.budget,
        micro_batch=config.hardware.micro_batch,
        log_every=config.logger.every_steps,
        skip_nonfinite=config.skip_nonfinite,
    )
    if isinstance(config.objective, MlmConfig) and config.objective.words is not None:
        assert isinstance(module.objective, Mlm)
        words = word_list(read_words(Path(config.objective.words), store.tokenizer))
        if not len(words):
            raise LmzooError(
                f"objective.words={config.objective.words} has no word of 2 to {LONGEST_WORD} tokens, and longer "
                "ones are left out; give a file with one word a line, or a text whose words are parted by spaces"
            )
        module.objective.tell_words(words)
    return module


def words_told(config: TrainConfig, module: LanguageModelModule) -> str | None:
    """Of a text whose words are parted, how far they are found as they are there; how many were too long."""
    words = module.objective.word_list if isinstance(module.objective, Mlm) else None
    if words is None or (words.agreement is None and not words.left_out):
        return None
    assert isinstance(config.objective, MlmConfig)
    told = [f"{len(words):,} entries"]
    if words.agreement is not None:
        told.append(f"{words.agreement:.1%} of its words are found as they are parted there")
    if words.left_out:
        told.append(f"left out for their length of more than {LONGEST_WORD} tokens: {words.left_out:,}")
    return f"objective.words={config.objective.words}: {'; '.join(told)}"


def precision_of(hardware: HardwareConfig) -> str:
    """``fp32``, ``bf16`` or ``fp16``; ``auto`` is bf16 where the processor has instructions for it."""
    if hardware.accelerator == "gpu" and not torch.cuda.is_available():
        raise LmzooError(
            "hardware.accelerator=gpu, but this machine has no GPU that torch can use; use hardware=cpu"
        )
    gpu = hardware.accelerator == "gpu" or (hardware.accelerator == "auto" and torch.cuda.is_available())
    if hardware.precision == "fp16" and not gpu:
        raise LmzooError("hardware.precision=fp16 needs a GPU; choose bf16 or fp32")
    if hardware.precision != "auto":
        return hardware.precision
    if gpu:
        halved = "fp32" if hardware.strategy == "fsdp" else "fp16"  # nothing scales a loss there
        return "bf16" if torch.cuda.is_bf16_supported() else halved
    capable = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16" if capable else "fp32"
