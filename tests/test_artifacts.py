"""`logger.log_model=true`: the last and the best weights in a real offline run, read back; and no others."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from lmzoo.artifacts import log_models, remove_others
from lmzoo.config import compose, save_config
from lmzoo.training import train

RUN = [
    "model=gpt",
    "hardware=cpu",
    "hardware.precision=fp32",
    "model.hidden_size=16",
    "model.num_layers=1",
    "model.num_heads=2",
    "model.ffn_size=24",
    "seq_len=16",
    "batch_size=4",
    "tokenizer.vocab_size=600",
    "valid.sequences=4",
    "valid.every_steps=2",
    "budget.steps=4",
    "logger.mode=offline",
]


def records(folder: Path) -> list[dict]:
    """What the offline run holds, read by W&B's own command."""
    run = next((folder / "wandb").glob("offline-run-*"))
    command = [Path(sys.executable).parent / "wandb", "leet", "inspect", "--json", run]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("wanted", [True, False])
def test_an_offline_run_keeps_last_and_best(tmp_path, tmp_path_factory, wanted, capfd):
    folder = tmp_path / "run"
    folder.mkdir()
    cache = tmp_path_factory.getbasetemp() / "artifacts"
    config = compose([*RUN, f"cache_dir={cache}", f"logger.log_model={str(wanted).lower()}"])
    save_config(config, folder / "config.yaml")
    train(config, folder)
    artifacts = [record["artifact"] for record in records(folder) if record["type"] == "artifact"]
    if not wanted:
        assert artifacts == []
        return
    assert "artifact" not in capfd.readouterr().err
    assert len({artifact["name"] for artifact in artifacts}) == 1
    held = {}
    for artifact in artifacts:
        assert artifact["type"] == "model"
        assert json.loads(artifact["metadata"])["objective"] == "clm"
        (alias,) = set(artifact["aliases"]) - {"latest"}
        held[alias] = {entry["path"]: Path(entry["local_path"]) for entry in artifact["manifest"]["contents"]}
    assert set(held) == {"last", "best"}
    assert {"last.ckpt", "model/config.json", "model/model.safetensors"} <= set(held["last"])
    assert set(held["best"]) == {"best.ckpt"}
    for files in held.values():
        for path in files.values():
            assert path.is_relative_to(folder)  # not copied elsewhere
            assert path.is_file()


def test_without_wandb_nothing_is_kept(tmp_path):
    log_models([SimpleNamespace()], tmp_path, {})  # type: ignore[list-item]
    assert list(tmp_path.iterdir()) == []


def test_versions_of_an_earlier_part_of_the_run_are_removed():
    """A server cannot be had here: an object with the two methods that are asked of it stands in."""
    deleted = []

    def version(number: int, *aliases: str) -> SimpleNamespace:
        delete = lambda delete_aliases: deleted.append(number)  # noqa: E731
        return SimpleNamespace(aliases=list(aliases), delete=delete)

    versions = [version(0), version(1), version(2, "last"), version(3, "latest", "best")]
    asked = []
    api = SimpleNamespace(artifacts=lambda kind, name: asked.append((kind, name)) or versions)
    remove_others(api, "someone/lmzoo/model-abc")
    assert asked == [("model", "someone/lmzoo/model-abc")]
    assert deleted == [0, 1]
