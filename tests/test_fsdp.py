"""FSDP2 on CPU processes: what is learned, and checkpoints that any number of processes reads.

Two processes are started once a test, and do all of its runs one after the other (rank_runs.py).
"""

from __future__ import annotations

import json
import os
import pickle
import resource
import shutil
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
import torch.distributed
from safetensors.torch import load_file

from builders import EVERY, PAIRS, random_batch, small_module
from lmzoo.assembly import build_datamodule, build_module
from lmzoo.checkpoints import read_checkpoint
from lmzoo.config import compose
from lmzoo.data.datamodule import TrainingBatches
from lmzoo.data.prepare import prepare as prepare_store
from lmzoo.errors import LmzooError
from lmzoo.hub.folder import load_exported
from lmzoo.sharded import gathered, shard, unsynchronised
from lmzoo.sharded_files import read_folder, read_into, read_whole, write_folder
from lmzoo.sharded_index import INDEX, REST, SUMS, checksum
from lmzoo.types import NO_DOCUMENT
from rank_runs import Run, exported, hardware, here, in_processes, ledgers, losses, norms, small_run

OWN = [("elmo", "bilm"), ("gpt", "clm"), ("bert", "mlm"), ("bert", "mlm_nsp"), ("bert", "rtd")]
"""Each family with its own objectives, and one with a model in it; all legal pairs are in the slow test."""
STEPS = ["budget.steps=4", "checkpoint.log_spaced=2"]


@pytest.fixture(scope="session")
def cache(tmp_path_factory) -> Path:
    """One text and its store for all runs of a worker."""
    return tmp_path_factory.mktemp("cache")


# ---------------------------------------------------------------------------------- what is learned


def numbers_of_targets(overrides: list[str], step: int, ranks: int) -> set[tuple[float, ...]]:
    """How many predictions of each part the ranks make in one step."""
    config = compose(overrides)
    store = prepare_store(config.data, config.tokenizer, Path(config.cache_dir or ""))
    module, view = build_module(config, store), build_datamodule(config, store).train_view
    batches = [
        TrainingBatches(view, 8, config.seed, rank=rank, num_ranks=ranks)[step] for rank in range(ranks)
    ]
    return {tuple(module.prepare(batch).counts().values()) for batch in batches}


def compare_with_one_process(pairs: list[tuple[str, str]], cache: Path, folder: Path) -> None:
    """DDP and FSDP on two processes against one, in every loss; their numbers of targets differ."""
    runs, alone = [], {}
    for family, objective in pairs:
        base = small_run(cache, family, objective, *STEPS)
        name = f"{family}-{objective}"
        assert any(len(numbers_of_targets(base, step, 2)) == 2 for step in range(4)), name
        alone[name] = Run(str(folder / f"{name}-alone"), base)
        runs += [
            Run(str(folder / f"{name}-{strategy}"), [*base, *hardware(strategy, 2)])
            for strategy in ("ddp", "fsdp")
        ]
    # gradients are summed over the ranks after the last micro-batch alone
    in_parts = [*small_run(cache, "bert", "mlm_nsp", *STEPS), "hardware.micro_batch=3", *hardware("fsdp", 2)]
    runs.append(Run(str(folder / "bert-mlm_nsp-parts"), in_parts))
    in_processes(runs, 2, folder)
    for run in runs:
        one, other = ledgers(run.folder, 2)
        assert one == other, run.folder
    for name, run in alone.items():
        here(run)
        told = losses(run.folder)
        assert len(told) == 6  # four steps, a validation between them and one after
        near = 1e-5 * (50 if name.endswith("-rtd") else 1)  # which counts its second part 50 times
        others = ["ddp", "fsdp", *(["parts"] if name == "bert-mlm_nsp" else [])]
        for other in others:
            of_two = folder / f"{name}-{other}"
            assert losses(of_two) == pytest.approx(told, abs=near), (name, other)
            assert min(norms(run.folder)) > 0.1  # so that all were clipped
            assert norms(of_two) == pytest.approx(norms(run.folder), rel=1e-4), (name, other)
            metrics, own = (json.loads((Path(f) / "metrics.json").read_text()) for f in (of_two, run.folder))
            assert metrics["valid"]["loss"] == pytest.approx(own["valid"]["loss"], abs=near), (name, other)
            assert own["ledger"]["predicted_tokens"] <= 2 * own["ledger"]["tokens_seen"]
            for count in ("tokens_seen", "predicted_tokens", "flops", "params_total", "params_non_embedding"):
                assert metrics["ledger"][count] == own["ledger"][count], (name, other, count)
            assert set(exported(of_two)) == set(exported(run.folder))
            compare_along(of_two, Path(run.folder))
        # all of the weights have come together in the export
        assert load_exported(folder / f"{name}-fsdp").module is not None


def compare_along(of_two: Path, alone: Path) -> None:
    """The exports at half of the budget and at its end."""
    half, own, end = (
        load_file(folder / "checkpoints" / f"step-{step}" / "model.safetensors")
        for folder, step in ((of_two, 2), (alone, 2), (of_two, 4))
    )
    last = exported(of_two)
    assert all(torch.equal(end[name], weight) for name, weight in last.items())
    assert any(not torch.equal(half[name], weight) for name, weight in last.items())
    for name, weight in own.items():  # a gradient of nearly nothing may step either way
        assert (half[name] - weight).abs().float().mean() < 1e-5, name


def test_two_processes_learn_what_one_does_by_ddp_and_by_fsdp(cache, tmp_path):
    compare_with_one_process(OWN, cache, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("family", sorted({family for family, _ in PAIRS}))
def test_two_processes_learn_what_one_does_for_every_legal_pair(family, cache, tmp_path):
    compare_with_one_process([pair for pair in PAIRS if pair[0] == family], cache, tmp_path)


@pytest.mark.slow
def test_bf16_is_as_near_to_one_process_as_ddp_is(cache, tmp_path):
    base = small_run(cache, "bert", "mlm", "budget.steps=6", "hardware.precision=bf16")
    names = ("ddp", "fsdp")
    in_processes([Run(str(tmp_path / n), [*base, *hardware(n, 2)]) for n in names], 2, tmp_path)
    here(Run(str(tmp_path / "alone"), base))
    told = losses(tmp_path / "alone")
    for name in names:
        assert losses(tmp_path / name) == pytest.approx(told, abs=5e-3), name


@pytest.mark.slow
def test_ranks_whose_rows_are_of_unequal_length_agree_on_what_was_spent(cache, tmp_path):
    """Whoever counted less would go on with other rates, and stop later, than the others."""
    base = small_run(cache, "bert", "mlm", "data.view=sentences", "budget.flops=2e8", "schedule.final=0.1")
    runs = [Run(str(tmp_path / name), [*base, *hardware(name, 2)]) for name in ("ddp", "fsdp")]
    in_processes(runs, 2, tmp_path)
    for run in runs:
        one, other = ledgers(run.folder, 2)
        assert one == other
        assert one["steps"] > 3
    assert losses(runs[0].folder) == pytest.approx(losses(runs[1].folder), abs=1e-5)


# ---------------------------------------------------------------------------------- checkpoints


@pytest.mark.slow  # test_distributed.py has the quick one
def test_a_checkpoint_of_two_processes_goes_on_in_any_number(cache, tmp_path):
    """Stopped after step 7, with a checkpoint of step 6; and one of a single process goes on in two."""
    base = small_run(cache, "bert", "mlm", "budget.steps=10")
    drawing = small_run(cache, "bert", "mlm", "budget.steps=10", "model.dropout=0.1")
    two, names = hardware("fsdp", 2), ("stopped", "dropped")
    stopped, dropped = (str(tmp_path / name) for name in names)
    alone = str(tmp_path / "stopped-alone")
    here(Run(alone, base, stop=7))
    in_processes(
        [
            Run(stopped, [*base, *two], stop=7),
            Run(str(tmp_path / "on-two"), [*base, *two], copied_from=stopped),
            Run(str(tmp_path / "on-ddp"), [*base, *hardware("ddp", 2)], copied_from=stopped),
            Run(str(tmp_path / "from-one"), [*base, *two], copied_from=alone),
            Run(str(tmp_path / "straight"), [*drawing, *two]),
            Run(dropped, [*drawing, *two], stop=7),
            Run(str(tmp_path / "exact"), [*drawing, *two], copied_from=dropped),
            Run(str(tmp_path / "done"), [*drawing, *two], copied_from=str(tmp_path / "straight")),
        ],
        2,
        tmp_path,
    )
    last = Path(stopped) / "checkpoints" / "last.ckpt"
    files = {INDEX, SUMS, REST, "__0_0.distcp", "__1_0.distcp"}
    assert {path.name for path in last.iterdir()} == files
    assert read_folder(last)["ledger"]["steps"] == 6
    here(Run(str(tmp_path / "on-one"), base, copied_from=stopped))
    here(Run(str(tmp_path / "alone"), base))
    for name, kind in (
        ("on-two", Path.is_dir),
        ("from-one", Path.is_dir),
        ("on-ddp", Path.is_file),
        ("on-one", Path.is_file),
    ):
        assert kind(tmp_path / name / "checkpoints" / "last.ckpt")
        assert losses(tmp_path / name) == pytest.approx(losses(tmp_path / "alone"), abs=1e-5), name
    # with dropout, which depends on the number of processes: bit for bit
    straight = read_whole(tmp_path / "straight" / "checkpoints" / "last.ckpt")
    for name in ("exact", "done"):
        ended = read_whole(tmp_path / name / "checkpoints" / "last.ckpt")
        assert ended["ledger"]["steps"] == straight["ledger"]["steps"] == 10
        assert set(ended["state_dict"]) == set(straight["state_dict"])
        for key, weight in straight["state_dict"].items():
            assert torch.equal(ended["state_dict"][key], weight), (name, key)
        assert losses(tmp_path / name) == losses(tmp_path / "straight")


@pytest.mark.slow
def test_a_checkpoint_goes_on_in_four_processes_and_comes_back(cache, tmp_path):
    """Without dropout, so that the number of processes changes nothing but the order of sums."""
    base = small_run(cache, "bert", "mlm_nsp", "budget.steps=10")
    two, stopped = [*base, *hardware("fsdp", 2)], str(tmp_path / "stopped")
    in_processes([Run(str(tmp_path / "straight"), two), Run(stopped, two, stop=4)], 2, tmp_path)
    on_four = str(tmp_path / "on-four")
    in_processes([Run(on_four, [*base, *hardware("fsdp", 4)], copied_from=stopped, stop=7)], 4, tmp_path)
    here(Run(str(tmp_path / "back"), base, copied_from=on_four))
    here(Run(str(tmp_path / "alone"), base))
    for name in ("straight", "back"):
        assert losses(tmp_path / name) == pytest.approx(losses(tmp_path / "alone"), abs=1e-5), name


@pytest.fixture
def group():
    """A process group of this process alone."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def small_sharded(objective: str = "mlm", seed: int = 1):
    """A small sharded module that has learned for a step, and its optimizer."""
    from torch.distributed.device_mesh import init_device_mesh

    module = small_module("bert", objective, seed=seed)
    shard(module, init_device_mesh("cpu", (1,)), halved=False)
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.01, fused=True)
    sum(module.totals(module.prepare(random_batch(objective))).values()).backward()
    optimizer.step()
    return module, optimizer


@pytest.fixture
def folder(group, tmp_path) -> Path:
    module, optimizer = small_sharded()
    write_folder(tmp_path / "last.ckpt", module, optimizer, {"ledger": {"steps": 1}, "lmzoo": {}})
    return tmp_path / "last.ckpt"


def test_a_folder_gives_back_weights_and_states(folder):
    saved = read_whole(folder)
    module, optimizer = small_sharded(seed=2)
    whole = gathered(module, lambda: small_module("bert", "mlm"))
    assert whole is not None
    name = "backbone.encoder.layers.0.attention.out.weight"
    assert not torch.equal(whole.state_dict()[name], saved["state_dict"][name])
    rest = read_into(folder, module, optimizer)
    assert rest == {"ledger": {"steps": 1}, "lmzoo": {}}
    whole = gathered(module, lambda: small_module("bert", "mlm"))
    assert whole is not None
    for key, weight in whole.state_dict().items():
        assert torch.equal(saved["state_dict"][key], weight), key
    # a plain optimizer takes the same states, by the numbers of its parameters
    plain = torch.optim.AdamW(whole.parameters(), lr=1.0)
    plain.load_state_dict(saved["optimizer_states"][0])
    assert plain.param_groups[0]["lr"] == 0.01
    states = {n: optimizer.state[p]["exp_avg"].full_tensor() for n, p in module.named_parameters()}
    for key, parameter in whole.named_parameters():
        assert torch.equal(plain.state[parameter]["exp_avg"], states[key]), key
        assert float(plain.state[parameter]["step"]) == 1
    # the table and the decoder are one tensor, kept once
    assert (
        saved["state_dict"]["objective.head.decoder"]
        is saved["state_dict"]["backbone.embedding.tokens.weight"]
    )


@pytest.mark.parametrize("name", ["__0_0.distcp", INDEX, REST])
@pytest.mark.parametrize("harm", ["a bit", "the end", "all"])
def test_a_damaged_folder_is_refused_by_the_name_of_its_file(name, harm, folder):
    file = folder / name
    content = bytearray(file.read_bytes())
    if harm == "a bit":
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    elif harm == "the end":
        file.write_bytes(content[:-1])
    else:
        file.unlink()
    with pytest.raises(LmzooError, match=name.replace(".", r"\.")) as refused:
        read_checkpoint(folder)
    assert "\n" not in str(refused.value)


def resummed(folder: Path, name: str) -> None:
    """Make the checksums fit again, as somebody would who means harm."""
    sums = json.loads((folder / SUMS).read_text())
    sums["files"][name] = checksum(folder / name)
    (folder / SUMS).write_text(json.dumps(sums))


class Carrier:
    """What runs something when it is unpickled."""

    def __reduce__(self):
        return pytest.fail, ("the checkpoint's code was run",)


def test_an_index_that_carries_code_or_leads_elsewhere_is_refused(folder):
    with (folder / INDEX).open("rb") as file:
        index = pickle.load(file)
    whole = pickle.dumps(index)
    for harm, told in (("code", "carries code"), ("place", "leads out"), ("object", "is no tensor")):
        index = pickle.loads(whole)
        if harm == "code":
            index.planner_data = Carrier()
        elif harm == "place":
            next(iter(index.storage_data.values())).relative_path = "../../secret"
        else:
            from torch.distributed.checkpoint.metadata import BytesStorageMetadata

            index.state_dict_metadata["optimizer/exp_avg/a"] = BytesStorageMetadata()
        (folder / INDEX).write_bytes(pickle.dumps(index))
        resummed(folder, INDEX)
        for read in (read_folder, read_whole):
            with pytest.raises(LmzooError, match=told):
                read(folder)
    torch.save({"sharded": Carrier()}, folder / REST)
    resummed(folder, REST)
    with pytest.raises(LmzooError, match="carries code"):
        read_folder(folder)


def test_checksums_that_lead_elsewhere_or_say_nothing_are_refused(folder):
    sums = json.loads((folder / SUMS).read_text())
    shutil.copy(folder / REST, folder.parent / "outside")
    harmed = sums | {"files": sums["files"] | {"../outside": sums["files"][REST]}}
    for content in (json.dumps(harmed), "[]", "{", json.dumps({"files": {}}), "[" * 100_000):
        (folder / SUMS).write_text(content)
        with pytest.raises(LmzooError):
            read_folder(folder)


def test_where_the_disk_takes_no_more_the_last_checkpoint_stays(folder):
    module, optimizer = small_sharded(seed=2)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limit[1]))
    try:
        with pytest.raises(
            LmzooError, match=r"last\.ckpt cannot be written .*the checkpoint before it is as it was"
        ):
            write_folder(folder, module, optimizer, {"ledger": {"steps": 2}, "lmzoo": {}})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert read_checkpoint(folder)["ledger"] == {"steps": 1}
    write_folder(folder, module, optimizer, {"ledger": {"steps": 2}, "lmzoo": {}})
    assert read_checkpoint(folder)["ledger"] == {"steps": 2}
    assert read_checkpoint(folder.with_name("previous.ckpt"))["ledger"] == {"steps": 1}
    assert {path.name for path in folder.parent.iterdir()} == {"last.ckpt", "previous.ckpt"}
    # what is known to be damaged does not take the place of a good one
    write_folder(folder, module, optimizer, {"ledger": {"steps": 3}, "lmzoo": {}}, keep=False)
    assert read_checkpoint(folder)["ledger"] == {"steps": 3}
    assert read_checkpoint(folder.with_name("previous.ckpt"))["ledger"] == {"steps": 1}
    assert {path.name for path in folder.parent.iterdir()} == {"last.ckpt", "previous.ckpt"}


def test_a_folder_is_on_the_disk_before_it_counts(folder, monkeypatch):
    module, optimizer = small_sharded(seed=2)
    synced, whole = [], os.fsync

    def fsync(handle):
        synced.append(os.readlink(f"/proc/self/fd/{handle}").removesuffix(".tmp"))
        whole(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    write_folder(folder, module, optimizer, {"ledger": {"steps": 2}, "lmzoo": {}})
    new = folder.with_name(".last.ckpt.new")
    assert set(synced[:-1]) == {str(new), *(str(new / path.name) for path in folder.iterdir())}
    assert synced[-1] == str(folder.parent)  # which knows it by its own name now


# ---------------------------------------------------------------------------------- the pieces


@pytest.mark.parametrize(("family", "objective"), EVERY)
def test_a_sharded_module_computes_what_a_plain_one_does(family, objective, group):
    """All legal pairs, with the gradients, on one rank; a table that the head shares has one gradient."""
    from torch.distributed.device_mesh import init_device_mesh

    plain, spread = (small_module(family, objective) for _ in range(2))
    shard(spread, init_device_mesh("cpu", (1,)), halved=False)
    batch = random_batch(objective)
    for module in (plain, spread):
        task = module.prepare(batch)
        sum(module.totals(task).values()).backward()
    gradients = {name: p.grad for name, p in plain.named_parameters()}
    for name, parameter in spread.named_parameters():
        assert parameter.grad is not None, name
        torch.testing.assert_close(parameter.grad.full_tensor(), gradients[name], msg=name)
    with torch.no_grad():
        told = [
            {n: float(term.total) for n, term in m.measured(m.prepare(batch))[0].items()}
            for m in (plain, spread)
        ]
    assert told[1] == pytest.approx(told[0], rel=1e-5)
    assert {type(p).__name__ for p in spread.state_dict(keep_vars=True).values() if p.requires_grad} == {
        "DTensor"
    }


def test_inside_unsynchronised_gradients_stay_with_their_rank(group):
    from torch.distributed.device_mesh import init_device_mesh

    module, plain = (small_module("bert", "mlm") for _ in range(2))
    shard(module, init_device_mesh("cpu", (1,)), halved=False)
    for part in (module, plain):
        for number, batch in enumerate(random_batch().split(2)):
            with unsynchronised(part) if number == 0 else nullcontext():
                sum(part.totals(part.prepare(batch)).values()).backward()
            if part is module and number == 0:
                assert all(parameter.grad is None for parameter in module.parameters())
    for (name, one), other in zip(module.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one.grad.full_tensor(), other.grad, msg=name)


@pytest.mark.parametrize("objective", ["clm", "mlm", "bilm"])
def test_a_rank_without_a_single_target_has_gradients_of_zero(objective, group):
    """It takes part in the sums over the ranks, which would wait for it."""
    from torch.distributed.device_mesh import init_device_mesh

    module = small_module("bert" if objective == "mlm" else "gpt", objective)
    shard(module, init_device_mesh("cpu", (1,)), halved=False)
    full = random_batch(objective)
    empty = full.replace(
        tokens=torch.zeros_like(full.tokens), documents=torch.full_like(full.documents, NO_DOCUMENT)
    )
    task = module.prepare(empty)
    assert not any(task.counts().values())
    sum(module.totals(task).values()).backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        assert not parameter.grad.full_tensor().any(), name
