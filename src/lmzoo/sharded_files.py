"""A checkpoint as a folder that all ranks write at once, and that any number of them reads.

The shards and their index are those of ``torch.distributed.checkpoint``; beside them lie ``rest.pt`` with
what is no tensor of the model or the optimizer, and ``checksums.json``, written last. A folder is built beside
its place and moved there whole; the ``last.ckpt`` before it stays, as ``previous.ckpt``, until the next.

Nothing that lies in a folder is run: the index is a pickle, of which torch's own description of tensors alone
is read, and every tensor is read with ``weights_only``.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn

from lmzoo.disk import remove, sync_folder
from lmzoo.errors import LmzooError
from lmzoo.hub.files import unpickle
from lmzoo.sharded_index import (
    ADVICE,
    INDEX,
    REST,
    SUMS,
    checksum,
    read_index,
    reader,
    reason_of,
    told,
    verify,
)

LAST_NAME, PREVIOUS_NAME = "last.ckpt", "previous.ckpt"
WEIGHTS, OPTIMIZER = "weights", "optimizer"
"""What the names of tensors begin with: ``weights/NAME``, ``optimizer/STATE/NAME``."""


def put_in_place(new: Path, path: Path, keep: bool = True) -> None:
    """Move a finished checkpoint, a folder, to its place.

    Folders cannot be exchanged in one move: for the moment between two, only the one before is there.

    Args:
        new: built beside its place.
        path: its place.
        keep: whether the ``last.ckpt`` that was there becomes ``previous.ckpt``; any other goes.
    """
    kept = keep and path.name == LAST_NAME
    aside = path.with_name(PREVIOUS_NAME if kept else f".{path.name}.old.new")
    sync_folder(new)
    if path.exists():
        remove(aside)
        path.rename(aside)
    new.rename(path)
    sync_folder(path.parent)
    if not kept:
        remove(aside)


# ---------------------------------------------------------------------------------- out


def write_folder(
    path: Path,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    rest: Mapping[str, Any],
    keep: bool = True,
) -> None:
    """Write a checkpoint; every rank has to call it.

    Args:
        path: its place.
        module: sharded.
        optimizer: of its parameters.
        rest: tensors and plain containers.
        keep: see ``put_in_place``.

    Raises:
        LmzooError: on every rank, where one of them could not write; what lay at ``path`` is as it was.
    """
    new = path.with_name(f".{path.name}.new")
    rank = torch.distributed.get_rank()
    try:
        _write(new, path, module, optimizer, rest)
        _together(path, lambda: put_in_place(new, path, keep) if rank == 0 else None)
    except LmzooError:
        if rank == 0:
            shutil.rmtree(new, ignore_errors=True)
        raise


def _write(
    new: Path, path: Path, module: nn.Module, optimizer: torch.optim.Optimizer, rest: Mapping[str, Any]
) -> None:
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.filesystem import FileSystemWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    rank = torch.distributed.get_rank()
    _together(path, lambda: _make_empty(new) if rank == 0 else None)
    try:
        save(_tensors(module, optimizer), storage_writer=FileSystemWriter(new))
    except CheckpointException as error:
        raise _unwritable(path, reason_of(error)) from error
    names = [file.name for file in new.glob(f"__{rank}_*")]
    sums = _together(path, lambda: {name: checksum(new / name) for name in names})
    described = {"groups": _groups(module, optimizer), "twins": _twins(module)}
    _together(path, lambda: _conclude(new, rest, described, sums) if rank == 0 else None)


def _make_empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def _conclude(
    new: Path, rest: Mapping[str, Any], described: dict[str, Any], sums: list[dict[str, Any]]
) -> None:
    """What one rank adds when all shards are there."""
    with (new / REST).open("wb") as file:
        torch.save({**rest, "sharded": described}, file)
        file.flush()
        os.fsync(file.fileno())
    files = {name: entry for part in sums for name, entry in part.items()}
    files |= {name: checksum(new / name) for name in (INDEX, REST)}
    with (new / SUMS).open("w", encoding="utf-8") as file:
        json.dump({"version": 1, "files": files}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())


def _together(path: Path, step: Callable[[], Any]) -> list[Any]:
    """What a step gave on each rank; where it failed on one, all raise, and none waits for another."""
    outcome: tuple[Any, str | None]
    try:
        outcome = step(), None
    except (OSError, RuntimeError) as error:
        outcome = None, reason_of(error)
    outcomes: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(outcomes, outcome)
    for _, reason in outcomes:
        if reason is not None:
            raise _unwritable(path, reason)
    return [given for given, _ in outcomes]


def _unwritable(path: Path, reason: str) -> LmzooError:
    return LmzooError(f"{path} cannot be written ({reason}); the checkpoint before it is as it was")


def _tensors(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Every rank's part of all that is trained, by names that do not depend on the number of ranks."""
    twins = _twins(module)
    found = {f"{WEIGHTS}/{name}": t for name, t in module.state_dict().items() if name not in twins}
    names = _names(module)
    for parameter, state in optimizer.state.items():
        for what, value in state.items():
            found[f"{OPTIMIZER}/{what}/{names[id(parameter)]}"] = torch.as_tensor(value)
    return found


def _names(module: nn.Module) -> dict[int, str]:
    module.state_dict()  # FSDP takes the chance to put whole weights away, and the optimizer's are the others
    return {id(parameter): name for name, parameter in module.named_parameters()}


def _twins(module: nn.Module) -> dict[str, str]:
    """Names of the state dict under which another name's tensor is found again, by that name."""
    first: dict[int, str] = {}
    found = {}
    for name, value in module.state_dict(keep_vars=True).items():
        other = first.setdefault(id(value), name)
        if other != name:
            found[name] = other
    return found


def _groups(module: nn.Module, optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """The optimizer's groups with the names of their parameters."""
    names = _names(module)
    return [
        {**group, "params": [names[id(parameter)] for parameter in group["params"]]}
        for group in optimizer.param_groups
    ]


# ---------------------------------------------------------------------------------- in


def read_folder(path: Path) -> dict[str, Any]:
    """What a checkpoint says of itself, its checksums verified; its weights have shapes alone (device meta).

    Raises:
        LmzooError: it is damaged or cut short, or carries code.
    """
    verify(path)
    rest = unpickle(path / REST)
    index = read_index(path)
    if not isinstance(rest, dict) or not isinstance(rest.get("sharded"), dict):
        raise LmzooError(f"{path / REST} is damaged; {ADVICE}")
    weights = {
        key.partition("/")[2]: torch.empty(entry.size, dtype=entry.properties.dtype, device="meta")
        for key, entry in index.state_dict_metadata.items()
        if key.startswith(f"{WEIGHTS}/")
    }
    twins = {name: weights[other] for name, other in rest["sharded"]["twins"].items()}
    return rest | {"state_dict": weights | twins}


def read_whole(path: Path) -> dict[str, Any]:
    """A folder as the dictionary of a checkpoint in one file, in the memory of the CPU.

    Raises:
        LmzooError: as ``read_folder``.
    """
    from torch.distributed.checkpoint.state_dict_loader import _load_state_dict

    rest = read_folder(path)
    shards = reader(path)
    tensors = {
        key: torch.empty(entry.size, dtype=entry.properties.dtype)
        for key, entry in shards.index.state_dict_metadata.items()
    }
    with told(path):
        _load_state_dict(tensors, shards, no_dist=True)
    described = rest.pop("sharded")
    weights = {key.partition("/")[2]: t for key, t in tensors.items() if key.startswith(f"{WEIGHTS}/")}
    weights |= {name: weights[other] for name, other in described["twins"].items()}
    number: dict[str, int] = {}
    groups = []
    for group in described["groups"]:
        numbers = [number.setdefault(name, len(number)) for name in group["params"]]
        groups.append({**group, "params": numbers})
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        if key.startswith(f"{OPTIMIZER}/"):
            _, what, name = key.split("/", 2)
            state.setdefault(number[name], {})[what] = tensor
    return rest | {"state_dict": weights, "optimizer_states": [{"state": state, "param_groups": groups}]}


def read_into(path: Path, module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Take over a folder, verified before, in a sharded module and its optimizer; each rank reads its part.

    Returns:
        what is neither weights nor the optimizer's.

    Raises:
        LmzooError: the folder cannot be read, or is of another model.
    """
    from torch.distributed.checkpoint.state_dict_loader import load

    rest = unpickle(path / REST)
    shards = reader(path)
    targets = _tensors(module, optimizer)
    by_name = dict(module.named_parameters())
    for key, entry in shards.index.state_dict_metadata.items():
        if key.startswith(f"{OPTIMIZER}/"):
            _, what, name = key.split("/", 2)
            if name not in by_name:
                raise LmzooError(f"{path} is of another model, which has {name}; {ADVICE}")
            targets[key] = optimizer.state[by_name[name]][what] = _room(by_name[name], entry)
    with told(path):
        load(targets, storage_reader=shards)
    for group, kept in zip(optimizer.param_groups, rest.pop("sharded")["groups"], strict=True):
        group.update({key: value for key, value in kept.items() if key != "params"})
    return rest


def _room(parameter: Tensor, entry: Any) -> Tensor:
    """Room for a state of a parameter: spread as it is, if it has its shape."""
    if entry.size == parameter.shape:
        return torch.zeros_like(parameter, requires_grad=False)
    return torch.zeros(entry.size, dtype=entry.properties.dtype, device=parameter.device)


def take_whole(saved: Mapping[str, Any], module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Take over a checkpoint of one file in a sharded module and its optimizer, on each rank its part."""
    for name, target in module.state_dict().items():
        _fill(target, saved["state_dict"][name])
    kept = saved["optimizer_states"][0]
    for group, saved_group in zip(optimizer.param_groups, kept["param_groups"], strict=True):
        group.update({key: value for key, value in saved_group.items() if key != "params"})
        for parameter, number in zip(group["params"], saved_group["params"], strict=True):
            for what, value in kept["state"].get(number, {}).items():
                if value.shape != parameter.shape:
                    optimizer.state[parameter][what] = value.to(parameter.device)
                    continue
                room = torch.zeros_like(parameter, requires_grad=False)
                _fill(room, value)
                optimizer.state[parameter][what] = room


@torch.no_grad()
def _fill(target: Tensor, whole: Tensor) -> None:
    """Copy a tensor, or this rank's part of it, into what is there."""
    mesh = getattr(target, "device_mesh", None)
    if mesh is None:
        target.copy_(whole)
        return
    parts = whole.chunk(mesh.size(), dim=0)  # as FSDP cuts them
    place = mesh.get_local_rank()
    if place < len(parts):
        target.to_local().copy_(parts[place])  # type: ignore[attr-defined]
