"""The order of a run: a pure function of (seed, step), whoever asks, and after a resume too."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DistributedSampler

from corpora import SPECIAL, made_documents, numbered_part, write_text
from lmzoo import rng
from lmzoo.data.config import DataConfig
from lmzoo.data.datamodule import TextDataModule, TrainingBatches, ValidationBatches, order_key
from lmzoo.data.prepare import prepare
from lmzoo.data.store import Store
from lmzoo.data.views import View, build_view
from lmzoo.errors import LmzooError
from lmzoo.text.config import TokenizerConfig
from lmzoo.types import Batch


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("store")
    write_text(folder / "train.txt", made_documents(60))
    write_text(folder / "valid.txt", made_documents(20, seed=1))
    write_text(folder / "test.txt", made_documents(5, seed=2))
    data = DataConfig(
        source="text",
        train=str(folder / "train.txt"),
        valid=str(folder / "valid.txt"),
        test=str(folder / "test.txt"),
    )
    return prepare(data, TokenizerConfig(vocab_size=300), folder / "cache")


def make(store: Store, **more: object) -> TextDataModule:
    settings = {"view": "stream", "seq_len": 32, "batch_size": 4, "seed": 1, **more}
    return TextDataModule(store, **settings)  # type: ignore[arg-type]


TENSORS = [field.name for field in fields(Batch) if field.name != "whole"]


def equal(one: Batch, other: Batch) -> bool:
    for name in TENSORS:
        left, right = getattr(one, name), getattr(other, name)
        if left is None or right is None:
            if left is not right:
                return False
        elif not torch.equal(left, right):
            return False
    return True


def joined(batches: list[Batch]) -> Batch:
    values = {}
    for name in TENSORS:
        tensors = [getattr(batch, name) for batch in batches]
        values[name] = None if tensors[0] is None else torch.cat(tensors)
    return Batch(**values)


def rows_view(tmp_path: Path, count: int) -> View:
    """A view of ``count`` rows whose second token tells the row."""
    return build_view("stream", numbered_part(tmp_path / "train", [[1]] * count), SPECIAL, 3, key=0)


def test_an_epoch_is_a_permutation_and_each_another(tmp_path: Path) -> None:
    view = rows_view(tmp_path, 10)
    batches = TrainingBatches(view, 4, seed=3)
    seen = torch.cat([batches[step].tokens[:, 1] - 10 for step in range(10)]).numpy()
    epochs = seen.reshape(4, 10)
    assert (np.sort(epochs) == np.arange(10)).all()
    for epoch in range(4):
        assert epochs[epoch].tolist() == rng.permuted(order_key(3, epoch), 10, np.arange(10)).tolist()
    assert len({tuple(epoch) for epoch in epochs.tolist()}) == 4
    other = torch.cat([TrainingBatches(view, 4, seed=4)[step].tokens[:, 1] - 10 for step in range(10)])
    assert seen.tolist() != other.tolist()
    # the batch size moves the cuts, not the order
    larger = torch.cat([TrainingBatches(view, 20, seed=3)[step].tokens[:, 1] - 10 for step in range(2)])
    assert seen.tolist() == larger.tolist()


ORDER = [[1, 5, 9, 4], [3, 6, 0, 8], [7, 2, 6, 0], [5, 7, 9, 3]]


def test_the_order_as_a_literal_table(tmp_path: Path) -> None:
    """A change of the order would silently break every resumed run."""
    batches = TrainingBatches(rows_view(tmp_path, 10), 4, seed=3)
    assert [(batches[step].tokens[:, 1] - 10).tolist() for step in range(4)] == ORDER
    assert [batches[step].samples.tolist() for step in (0, 1, 10**6)] == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
        [4_000_000, 4_000_001, 4_000_002, 4_000_003],
    ]


@pytest.mark.parametrize("view", ["stream", "pairs"])
@pytest.mark.parametrize("num_ranks", [2, 4])
def test_ranks_share_the_same_batch(store: Store, view: str, num_ranks: int) -> None:
    train = make(store, view=view).train_view
    for step in (0, 1, 77, 10**6):
        whole = TrainingBatches(train, 8, seed=1)[step]
        parts = [
            TrainingBatches(train, 8, seed=1, rank=rank, num_ranks=num_ranks)[step]
            for rank in range(num_ranks)
        ]
        assert equal(joined(parts), whole)


def test_the_datamodule_asks_the_trainer_for_its_rank(store: Store) -> None:
    data = make(store, batch_size=8)
    whole = next(iter(data.train_dataloader()))
    data.trainer = SimpleNamespace(global_rank=1, world_size=2)  # type: ignore[assignment]
    loader = data.train_dataloader()
    assert next(iter(loader)).samples.tolist() == whole.samples[4:].tolist()
    assert next(iter(data.val_dataloader())).samples.tolist() == [4, 5, 6, 7]
    # or Lightning would put a sampler of its own in place of ours, and leave out every other step
    assert isinstance(loader.sampler, DistributedSampler)


def test_a_batch_that_cannot_be_shared(store: Store) -> None:
    with pytest.raises(LmzooError, match="batch_size=4 cannot be shared by 3 devices"):
        TrainingBatches(make(store).train_view, 4, seed=1, num_ranks=3)


@pytest.mark.parametrize("view", ["stream", "sentences", "pairs"])
def test_every_view_is_served(store: Store, view: str) -> None:
    data = make(store, view=view)
    data.total_steps = 3
    batches = list(data.train_dataloader())
    assert len(batches) == len(data.train_dataloader()) == 3
    for batch in batches:
        assert len(batch) == 4
        assert batch.tokens.shape == batch.documents.shape == batch.positions.shape
        assert (batch.segments is not None) == (batch.is_random is not None) == (view == "pairs")
    again = make(store, view=view)
    again.total_steps = 3
    assert all(equal(a, b) for a, b in zip(again.train_dataloader(), batches, strict=True))


def test_a_run_without_an_end_holds_no_list_of_steps(store: Store) -> None:
    data = make(store)
    assert len(data.train_dataloader()) == 10**9
    batches = iter(data.train_dataloader())
    assert next(batches).samples.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(("batch_size", "num_ranks"), [(4, 1), (5, 1), (4, 2), (2, 2), (100, 3), (3, 3)])
def test_validation_takes_every_row_once(store: Store, batch_size: int, num_ranks: int) -> None:
    view = make(store).valid_view
    ranks = [ValidationBatches(view, batch_size, rank=rank, num_ranks=num_ranks) for rank in range(num_ranks)]
    assert len({len(rank) for rank in ranks}) == 1
    seen = [rank[i].samples for rank in ranks for i in range(len(rank))]
    assert min(len(rows) for rows in seen) > 0
    assert sorted(torch.cat(seen).tolist()) == list(range(len(view)))
    if num_ranks == 1:
        assert [len(rows) for rows in seen[:-1]] == [batch_size] * (len(seen) - 1)
        assert len(seen[-1]) <= batch_size


def test_validation_rows_are_spread_and_the_same_for_every_run(store: Store) -> None:
    total = len(make(store).valid_view)
    assert total > 20
    loaders = [make(store, seed=seed, batch_size=size, valid_sequences=7) for seed, size in [(1, 2), (2, 5)]]
    first, second = (joined(list(data.val_dataloader())) for data in loaders)
    assert equal(first, second)
    assert first.samples.tolist() == np.linspace(0, total - 1, 7).round().tolist()
    pairs = [make(store, view="pairs", seed=seed, batch_size=size) for seed, size in [(1, 2), (2, 5)]]
    first, second = (joined(list(data.val_dataloader())) for data in pairs)
    assert equal(first, second)
    data = make(store, valid_sequences=7)
    data.full_validation = True
    assert joined(list(data.val_dataloader())).samples.tolist() == list(range(total))
    assert len(joined(list(make(store, valid_sequences=10**6).val_dataloader()))) == total


def test_validation_with_more_devices_than_rows(store: Store) -> None:
    with pytest.raises(LmzooError, match="3 rows of held-out text are too few for 4 devices"):
        ValidationBatches(make(store).valid_view, 4, num_rows=3, num_ranks=4)


def test_test_text(store: Store, tmp_path: Path) -> None:
    data = make(store)
    assert data.test_view is not None
    assert len(joined(list(data.test_dataloader()))) == len(data.test_view)
    text = write_text(tmp_path / "a.txt", made_documents(60))
    config = DataConfig(source="text", train=str(text), valid_fraction=0.2)
    without = prepare(config, TokenizerConfig(vocab_size=300), tmp_path)
    with pytest.raises(LmzooError, match=r"give data\.test=FILE"):
        make(without).test_dataloader()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"seq_len": 10**6},
            r"the training text has [\d,]+ tokens, too few for one sequence of seq_len=1000000",
        ),
        ({"batch_size": 0}, "batch_size=0"),
        ({"seq_len": 1}, "seq_len=1"),
        ({"short_pairs": 1.5}, r"data\.short_pairs=1\.5"),
        ({"valid_sequences": 0}, r"valid\.sequences=0"),
        ({"view": "words"}, r"data\.view=words"),
    ],
)
def test_refusals(store: Store, settings: dict, words: str) -> None:
    with pytest.raises(LmzooError, match=words):
        make(store, **settings)


def test_unique_tokens_of_a_run(store: Store) -> None:
    data = make(store)
    epoch = -(-len(data.train_view) // 4)
    seen = [
        int((batch.documents >= 0).sum())
        for batch, _ in zip(data.train_dataloader(), range(epoch), strict=False)
    ]
    assert data.unique_tokens(1) == seen[0]
    assert data.unique_tokens(3) == sum(seen[:3])
    assert data.unique_tokens(epoch) == data.unique_tokens(10**6) == store.parts["train"].num_tokens
    assert make(store, view="pairs").unique_tokens(3) is None


class Recorder(pl.LightningModule):
    """A model of one weight that keeps what it was shown; its weight hangs on the batches and their order."""

    def __init__(self, stop_at: int | None = None) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.stop_at = stop_at
        self.seen: list[list[int]] = []
        self.indices: list[int] = []

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        if len(self.seen) == self.stop_at:
            raise KeyboardInterrupt
        self.seen.append(batch.samples.tolist())
        self.indices.append(batch_idx)
        return (self.weight - batch.tokens.float().mean() / 100) ** 2

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        assert len(batch) > 0

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(
    store: Store, folder: Path, workers: int, total: int, resume: Path | None = None, **more: object
) -> tuple[Recorder, pl.Trainer]:
    data = make(store, workers=workers)
    data.total_steps = total
    model = Recorder(more.pop("stop_at", None))  # type: ignore[arg-type]
    trainer = pl.Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=[ModelCheckpoint(folder, save_last=True, every_n_train_steps=3, save_top_k=-1)],
        **{"val_check_interval": 4, **more},
    )
    trainer.fit(model, datamodule=data, ckpt_path=resume, weights_only=True)
    return model, trainer


@pytest.mark.filterwarnings("error:.*not resumable.*")
@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_run_sees_exactly_what_was_missing(store: Store, tmp_path: Path, workers: int) -> None:
    steps = [[4 * step + slot for slot in range(4)] for step in range(14)]
    whole, trainer = fit(store, tmp_path / "whole", workers, total=14)
    assert whole.seen == steps
    assert trainer.global_step == 14

    # stopped in the fifth step, and in the tenth; checkpoints stand after the third and the ninth
    cut = tmp_path / "cut"
    with pytest.raises(SystemExit):
        fit(store, cut, workers, total=14, stop_at=4)
    with pytest.raises(SystemExit):
        fit(store, cut, workers, total=14, resume=cut / "last.ckpt", stop_at=6)
    third, trainer = fit(store, cut, workers, total=14, resume=cut / "last.ckpt")
    assert third.seen == steps[9:]
    assert third.indices == list(range(9, 14))
    assert trainer.global_step == 14
    assert trainer.current_epoch == 1
    assert torch.equal(third.weight, whole.weight)


def test_a_finished_run_has_nothing_left(store: Store, tmp_path: Path) -> None:
    fit(store, tmp_path, 0, total=6)
    again, trainer = fit(store, tmp_path, 0, total=6, resume=tmp_path / "last.ckpt")
    assert again.seen == []
    assert trainer.global_step == 6


def test_a_datamodule_starts_anew_without_a_checkpoint(store: Store, tmp_path: Path) -> None:
    data = make(store)
    data.load_state_dict({"step": 5})
    assert data.state_dict() == {"step": 5}
    data.total_steps = 2
    model = Recorder()
    trainer = pl.Trainer(
        default_root_dir=tmp_path,
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    trainer.fit(model, datamodule=data)
    assert model.seen == [[0, 1, 2, 3], [4, 5, 6, 7]]
