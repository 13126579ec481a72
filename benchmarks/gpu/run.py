"""What the parts of ``benchmarks.gpu`` share: the time left, the device, and contestants of their own."""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.contestants import Contestant, Ours
from benchmarks.contests import Setting
from benchmarks.gpu.plain_gpt import plain_gpt
from benchmarks.measure import Report, matmul_peak
from lmzoo.data.store import Store
from lmzoo.modules import LanguageModelModule
from lmzoo.nn.config import TransformerConfig
from lmzoo.optim import build_optimizer
from lmzoo.types import Batch


class LeftOut(Exception):
    """A contestant is not possible here; the message says why."""


@dataclass
class Run:
    """What all parts are given."""

    options: argparse.Namespace
    report: Report
    store: Store
    ends: float
    """When to be done, by ``time.monotonic``."""
    slowest: float = 0.0
    """Seconds that a contestant took at most until it was warm."""

    @property
    def device(self) -> str:
        return self.options.device

    @property
    def on_gpu(self) -> bool:
        return self.device == "cuda"

    @property
    def left(self) -> float:
        """Seconds."""
        return max(self.ends - time.monotonic(), 0.0)

    def has_room(self, what: str, seconds: float) -> bool:
        """Whether there is time for it; if not, says so."""
        if self.left >= seconds:
            return True
        self.report.note(f"{what} is left out: {self.left:.0f} s are left, and it may take {seconds:.0f}.")
        return False

    def seconds_of(self, work: Callable[[], object], times: int) -> float:
        """Mean seconds of ``times`` calls in a row, until the device is done with them."""
        self._wait()
        began = time.perf_counter()
        for _ in range(times):
            work()
        self._wait()
        return (time.perf_counter() - began) / times

    def peak(self) -> float:
        """Floating-point operations a second of the best bf16 product."""
        return matmul_peak(torch.bfloat16, 8192 if self.on_gpu else 256, self.device)

    def forget(self) -> None:
        """Give back what a part held."""
        gc.collect()
        torch.compiler.reset()  # else what was compiled before counts against the next one's limit
        if self.on_gpu:
            torch.cuda.empty_cache()

    def _wait(self) -> None:
        if self.on_gpu:
            torch.cuda.synchronize()


class Plain(Contestant):
    """The GPT as nanoGPT writes it, with the weights of a module of ours."""

    name = "plain GPT, nanoGPT's way"
    backward_under_autocast = False

    def __init__(
        self,
        setting: Setting,
        batches: Sequence[Batch],
        like: LanguageModelModule,
        *,
        precision: str,
        compiled: bool,
        device: str,
    ) -> None:
        model = setting.config.model
        assert isinstance(model, TransformerConfig)
        self.module = plain_gpt(model, setting.vocab_size, like.state_dict()).to(device)
        if compiled:
            self.module.compile()
        optimizer = build_optimizer(self.module, setting.config.optimizer)
        super().__init__([batch.tokens.to(device) for batch in batches], optimizer, precision, compiled)

    def _compute(self, feed: Tensor) -> Tensor:
        return self.module(feed)


def flexing(ours: Ours) -> Ours:
    """The same with flex attention. Raises LeftOut where that is not possible."""
    dtype = torch.bfloat16 if ours.precision == "bf16" else torch.float32
    reason = ours.module.backbone.use_flex(next(ours.module.parameters()).device, dtype)
    if reason:
        raise LeftOut(reason)
    return ours


def first_line(error: Exception) -> str:
    """What to say of an error in a line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
