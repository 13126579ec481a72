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
from lmzoo.text.tokenizer import TextTokenizer
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
    """The module of a run: its family's, with any legal objective, but for ``tell_words``."""
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
    return module


def tell_words(config: TrainConfig, module: LanguageModelModule, tokenizer: TextTokenizer) -> str | None:
    """Give the objective its list of words, if it has a file of them; training alone looks at it.

    Returns:
        of a text whose words are parted, how far they are found as they are there; how many words were too long.

    Raises:
        LmzooError: the file cannot be read as such, or has no word of several tokens that is short enough.
    """
    if not isinstance(config.objective, MlmConfig) or config.objective.words is None:
        return None
    assert isinstance(module.objective, Mlm)
    given = f"objective.words={config.objective.words}"
    words = word_list(read_words(Path(config.objective.words), tokenizer))
    if not len(words):
        raise LmzooError(
            f"{given} has no word of 2 to {LONGEST_WORD} tokens, and longer ones are left out; "
            "give a file with one word a line, or a text whose words are parted by spaces"
        )
    module.objective.tell_words(words)
    told = []
    if words.agreement is not None:
        told.append(f"{words.agreement:.1%} of its words are found as they are parted there")
    if words.left_out:
        told.append(f"left out for their length of more than {LONGEST_WORD} tokens: {words.left_out:,}")
    return "; ".join([f"{given}: {len(words):,} entries", *told]) if told else None


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
