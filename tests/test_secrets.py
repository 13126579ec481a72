"""Keys of the environment reach neither logs nor configs, checkpoints, exports or what W&B keeps."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import torch

from small_runs import arguments

KEYS = {
    "WANDB_API_KEY": "5ec2e7a1" * 5,
    "HF_TOKEN": "hf_PlantedPlantedPlantedPlantedPlant",
    "HUGGING_FACE_HUB_TOKEN": "hf_AnotherAnotherAnotherAnotherAnoth",
    "AWS_SECRET_ACCESS_KEY": "PlantedSecretAccessKeyOfFortyCharacters0",
}


def contents(path: Path) -> Iterator[tuple[str, bytes]]:
    """Every file below a folder, and what is packed in those that are archives."""
    for file in sorted(path.rglob("*")):
        if not file.is_file():
            continue
        yield str(file), file.read_bytes()
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as packed:
                for name in packed.namelist():
                    yield f"{file}:{name}", packed.read(name)


def spellings(key: str) -> list[bytes]:
    """How a key may stand in a file: as it is, in UTF-16, backwards, hexadecimal, in base 64."""
    plain = key.encode()
    # three bytes make four letters: by where the key begins, another part of it is encoded as a whole
    aligned = [plain[skip:][: (len(plain) - skip) // 3 * 3] for skip in range(3)]
    encoded = [base64.b64encode(part) for part in aligned]
    return [plain, key.encode("utf-16-le"), plain[::-1], plain.hex().encode(), *encoded]


def places(folders: list[Path]) -> list[str]:
    wanted = {name: spellings(key) for name, key in KEYS.items()}
    return [
        f"{name} in {where}"
        for folder in folders
        for where, content in contents(folder)
        for name, ways in wanted.items()
        if any(way in content for way in ways)
    ]


def test_planted_keys_are_found_nowhere(tmp_path):
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    home.mkdir()
    elsewhere.mkdir()
    run = tmp_path / "run"
    given = ["logger=wandb", "logger.mode=offline", "logger.log_model=true", f"hydra.run.dir={run}"]
    base = tmp_path / "base"
    base.mkdir()
    environment = os.environ | KEYS | {"OMP_NUM_THREADS": "1", "HOME": str(home)}
    environment |= {"TMPDIR": str(elsewhere), "WANDB_MODE": "offline"}
    done = subprocess.run(
        [sys.executable, "-m", "lmzoo.train", *arguments("bert", "mlm", base, *given)],
        env=environment, cwd=elsewhere, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    names = {path.relative_to(run).parts[0] for path in run.rglob("*") if path.is_file()}
    assert names >= {"config.yaml", "history.csv", "checkpoints", "model", "wandb", "metrics.json"}
    assert list(run.glob("wandb/offline-run-*/*.wandb"))
    assert not any(key in done.stdout + done.stderr for key in KEYS.values())
    assert places([run, home, elsewhere, base]) == []


def test_a_planted_key_would_be_found(tmp_path):
    """The search itself: plain, packed in a checkpoint, and in base 64 at any offset."""
    key = KEYS["HF_TOKEN"]
    torch.save({"note": key}, tmp_path / "last.ckpt")
    (tmp_path / "config.yaml").write_text(f"token: {key}")
    for offset in range(3):
        (tmp_path / f"{offset}.bin").write_bytes(base64.b64encode(b"x" * offset + key.encode() + b"yyy"))
    found = places([tmp_path])
    assert len([place for place in found if "last.ckpt" in place]) >= 1
    assert len([place for place in found if ".bin" in place]) == 3
    assert len([place for place in found if "config.yaml" in place]) == 1
