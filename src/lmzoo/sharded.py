"""FSDP2: weights, gradients and optimizer states spread over the ranks, each of which holds a part of every
matrix (Zhao et al. 2023, "PyTorch FSDP"; ``torch.distributed.fsdp.fully_shard``).

What is learned stays what one process would learn: the order of the data, the counts that the losses are
divided by and the norm that gradients are clipped to are those of the whole global batch.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn

from lmzoo.checkpoint_files import read_checkpoint_file
from lmzoo.nn.transformer import Layer
from lmzoo.sharded_files import LAST_NAME, read_into, take_whole, write_folder

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

M = TypeVar("M", bound=nn.Module)

ENTRANCES = ("totals", "measured")
"""Methods of a LightningModule that run its whole forward pass: before each, the weights that no layer holds
are brought together."""


def shard(module: nn.Module, mesh: DeviceMesh, *, halved: bool) -> None:
    """Spread the weights of a ``LanguageModelModule`` over a mesh; a second time changes nothing.

    The matrices of each Transformer layer come together just before the layer runs, and go again after it;
    all else (tables, heads, norms, a whole biLSTM) once a pass. A table that the head shares stays one.

    Args:
        module: with ``backbone``, ``objective`` and the methods in ``ENTRANCES``; the same on every rank.
        mesh: (ranks,) one dimension.
        halved: bring the layers' matrices together in bf16, which autocast would make of them anyway; their
            gradients are summed in 32 bits, and what is kept of them has 32 bits.
    """
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

    if is_sharded(module):
        return
    warnings.filterwarnings("ignore", ".*returned a view tensor.*")  # to which nothing is added in place
    # The residual stream keeps its type: autocast alone decides in what a product is taken.
    policy = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if halved else None,
        reduce_dtype=torch.float32,
        cast_forward_inputs=False,
    )
    for layer in module.modules():
        if isinstance(layer, Layer):
            # without the norms, which are used in 32 bits
            fully_shard([layer.attention, layer.ffn], mesh=mesh, mp_policy=policy)
    fully_shard(module, mesh=mesh, mp_policy=MixedPrecisionPolicy(cast_forward_inputs=False))
    if mesh.device_type == "cpu" and hasattr(module, "set_force_sum_reduction_for_comms"):
        for part in module.modules():
            if is_sharded(part):
                part.set_force_sum_reduction_for_comms(True)  # type: ignore[operator]  # gloo has no mean
    for name in ENTRANCES:
        register_fsdp_forward_method(module, name)


def is_sharded(module: nn.Module) -> bool:
    """Whether ``shard`` has been here; asked so that FSDP is imported by those alone who use it."""
    return hasattr(module, "set_requires_gradient_sync")


@contextmanager
def unsynchronised(module: nn.Module) -> Iterator[None]:
    """Inside, backward passes add to each rank's own gradients; the next one outside sums them over all."""
    if not is_sharded(module):
        yield
        return
    module.set_requires_gradient_sync(False)  # type: ignore[operator]
    try:
        yield
    finally:
        module.set_requires_gradient_sync(True)  # type: ignore[operator]


def gathered(module: M, build: Callable[[], M]) -> M | None:
    """A module with all weights in one place. Every rank has to call it.

    Args:
        module: as it was trained.
        build: makes another like it.

    Returns:
        ``module`` itself where it is not sharded; else, on rank 0, another on the CPU, and None elsewhere.
    """
    if not is_sharded(module):
        return module
    first = torch.distributed.get_rank() == 0
    weights: dict[str, Tensor] = {}
    for name, value in module.state_dict().items():  # one at a time: rank 0 alone ever holds them all
        whole = value.full_tensor() if hasattr(value, "full_tensor") else value
        if first:
            weights[name] = whole.detach().cpu()
    if not first:
        return None
    built = build()
    built.load_state_dict(weights)
    return built


class ShardedStrategy(ModelParallelStrategy):
    """FSDP2 over all ranks of all nodes, with checkpoints that are folders: see ``lmzoo.sharded_files``.

    A checkpoint of one file, by one process or by DDP, is gone on with too.

    Args:
        keep_last: whether what stands as ``last.ckpt`` now is good, and may become ``previous.ckpt``.
    """

    def __init__(self, keep_last: bool = True) -> None:
        super().__init__()
        self._keep_last = keep_last

    def setup_environment(self) -> None:
        self._data_parallel_size = self.num_nodes * self.num_processes
        self._tensor_parallel_size = 1
        super().setup_environment()

    def lightning_module_state_dict(self) -> dict[str, Any]:
        return {}  # written by `save_checkpoint`, part by part, and never held whole

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        return {}

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any = None
    ) -> None:
        spread = ("state_dict", "optimizer_states")
        rest = {key: value for key, value in checkpoint.items() if key not in spread}
        path, module = Path(self.broadcast(str(filepath))), self.lightning_module
        assert module is not None
        write_folder(path, module, self.optimizers[0], rest, self._keep_last)
        self._keep_last = self._keep_last or path.name == LAST_NAME

    def load_checkpoint(
        self, checkpoint_path: str | Path, weights_only: bool | None = None
    ) -> Mapping[str, Any]:  # type: ignore[override]
        path, module = Path(checkpoint_path), self.lightning_module
        assert module is not None
        if path.is_dir():
            return read_into(path, module, self.optimizers[0])
        saved = read_checkpoint_file(path)
        take_whole(saved, module, self.optimizers[0])
        return saved
