"""The kernels that `hardware=` asks for: flex attention, compiled code."""

from __future__ import annotations

import torch
from lightning.pytorch.utilities import rank_zero_only

from lmzoo.modules import LanguageModelModule
from lmzoo.progress import say
from lmzoo.settings import HardwareConfig


def choose_kernels(
    module: LanguageModelModule, hardware: HardwareConfig, device: torch.device, precision: str
) -> None:
    """Have the backbone go by what was asked for; a line says what cannot be had, or does not pay.

    Args:
        module: of the run.
        hardware: its choices.
        device: where the weights will be.
        precision: `fp32`, `bf16` or `fp16`.
    """
    if hardware.attention == "flex":
        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
        reason = module.backbone.use_flex(device, dtype)
        if reason:
            _say_once(f"hardware.attention=flex is left out, and attention goes the usual way: {reason}")
    if hardware.compile:
        if device.type == "cpu":
            _say_once(
                "hardware.compile=true on a CPU: compiled code has neither lmzoo's attention nor dropout, "
                "and spares the last layer nothing; as a rule it is slower (docs/performance.md)"
            )
        module.backbone.compile()


def _say_once(line: str) -> None:
    if rank_zero_only.rank == 0:  # type: ignore[attr-defined]
        say(line)
