"""Run folders as training, evaluation and fine-tuning leave them, made of made-up figures."""

from __future__ import annotations

import copy
import csv
import json
from functools import cache
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import yaml

from lmzoo.config import compose, to_dict
from lmzoo.tasks.config import TaskConfig
from lmzoo.tasks.examples import Labelled, Question, Tagged, TaskData
from lmzoo.tasks.result import Result, SeedResult
from lmzoo.tasks.result import save as save_task
from lmzoo.yardsticks.base import Measured, hash_of
from lmzoo.yardsticks.base import save as save_yardstick

PARTS = {
    **{"clm": ["clm"], "mlm": ["mlm"], "mlm_nsp": ["mlm", "nsp"], "bilm": ["forward", "backward"]},
    "hybrid": ["mlm", "clm"],
}
COSTS = {
    "gpt": (36.4e12, 288.0, 3_970_000),
    "bert": (11.9e12, 132.0, 600_000),
    "elmo": (60.2e12, 556.0, 7_940_000),
}
PHENOMENA = ("island_effects", "binding", "ellipsis")


@cache
def config_of(*overrides: str) -> dict[str, Any]:
    """The resolved config that a run with these arguments has."""
    return to_dict(compose(["logger=none", *overrides]))


def make_run(
    folder: Path,
    *overrides: str,
    seed: int = 1,
    finished: bool = True,
    tokens: int = 4_000_000,
    flops: float | None = None,
    loss: float = 4.5,
    content: str | None = "c0ffee" * 5,
) -> Path:
    """A run folder with config.yaml, history.csv and, of a finished run, metrics.json."""
    config = copy.deepcopy(config_of(*overrides))
    config["seed"] = seed
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    name, objective = config["model"]["name"], config["objective"]["name"]
    family = name.partition("_")[0]
    cost, seconds, predicted = COSTS[family]
    seconds *= 1 + 0.001 * seed
    _history(folder, PARTS[objective], tokens, seconds, loss, finished)
    if not finished:
        return folder
    valid: dict[str, Any] = {"loss": loss, "perplexity": float(np.exp(loss)), "bits_per_byte": None}
    for number, part in enumerate(PARTS[objective]):
        valid |= {f"{part}_loss": loss + 0.01 * number, f"{part}_accuracy": 0.2}
    if objective == "mlm_nsp":
        valid["nsp_chance"] = 0.5
    valid["unigram_entropy"] = 6.86
    metrics = {
        "run": {
            **{"model": name, "objective": objective, "size": "tiny", "seed": seed, "version": "0.1.0"},
            **{"precision": "fp32", "git": "0123456789abcdef", "content": content, "vectors_found": None},
        },
        "ledger": {
            **{"steps": 2000, "tokens_seen": tokens, "unique_tokens": tokens, "predicted_tokens": predicted},
            **{
                "flops": cost if flops is None else flops,
                "seconds": seconds,
                "tokens_per_second": tokens / seconds,
            },
            **{"peak_memory_bytes": 7e8, "params_total": 1_460_000, "params_non_embedding": 396_000},
        },
        "valid": valid,
        "test": None,
    }
    (folder / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
    return folder


def _history(
    folder: Path, parts: list[str], tokens: int, seconds: float, loss: float, finished: bool
) -> None:
    names = [f"{split}/{part}_loss" for split in ("train", "valid") for part in parts]
    columns = ["step", *names, "train/tokens_per_second", "train/tokens_seen"]
    steps = range(20, 2001 if finished else 401, 20)
    with (folder / "history.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.DictWriter(file, columns, lineterminator="\n")
        rows.writeheader()
        for step in steps:
            now = loss + 4.5 * np.exp(-step / 300)
            row: dict[str, Any] = {"step": step, "train/tokens_seen": tokens * step // 2000}
            row["train/tokens_per_second"] = round(tokens / seconds, 4)
            row |= {name: now for name in names if name.startswith("train/") or step % 400 == 0}
            rows.writerow(row)


def header(folder: Path) -> dict[str, Any]:
    config = yaml.safe_load((folder / "config.yaml").read_text("utf-8"))
    return {"model": config["model"]["name"], "objective": config["objective"]["name"], "version": "0.1.0",
            "device": "cpu", "precision": "fp32", "seconds": 1.0}  # fmt: skip


def add_pairs(
    folder: Path,
    right: float,
    *,
    items: int = 60,
    which: str = "blimp",
    key: str = "",
    ngram: bool = True,
    reading: str | None = None,
    told: str | None = None,
) -> None:
    """Minimal pairs, of three paradigms in three phenomena; ``key`` seeds which of them are right, ``reading`` was
    asked for, and ``told`` is the reading of a model that has several."""
    draw = np.random.default_rng(crc32(f"{right} {key}".encode()))
    made, paradigms = [], [f"paradigm_{number}" for number in range(3)]
    for number in range(items):
        for paradigm, phenomenon in zip(paradigms, PHENOMENA, strict=True):
            said = {"id": f"{paradigm}/{number}", "paradigm": paradigm, "phenomenon": phenomenon}
            made.append(said | {"good": -1.0, "bad": -2.0, "correct": bool(draw.random() < right)})
    for place, item in enumerate(made):
        item["ngram"] = place % 2 == 0
    of = {p: 100 * np.mean([i["correct"] for i in made if i["phenomenon"] == p]) for p in PHENOMENA}
    parts: dict[str, Any] = {"phenomena": {p: float(of[p]) for p in PHENOMENA}, "chance": 50.0}
    parts["ngram"] = (
        {"figure": 50.0, "order": 5, "tokens": 1000, "ties": 0, "phenomena": dict.fromkeys(PHENOMENA, 50.0)}
        if ngram
        else {"figure": None, "reason": "there is no training text beside this model"}
    )
    parts["published"] = {
        "overall": {"lstm": 69.8, "human": 88.6},
        "phenomena": {p: {"lstm": 65.0, "human": 90.0} for p in PHENOMENA},
    }
    figure = float(np.mean(list(of.values())))
    measured = Measured(figure, "% correct", True, "accuracy", parts, {}, made, hash_of([which, str(items)]))
    of_several = {"reading": told or reading} if told or reading else {}
    save_yardstick(folder, "minimal_pairs", measured, header(folder) | of_several, reading=reading)


def add_bits(
    folder: Path,
    bits: float,
    *,
    kind: str = "log-likelihood",
    blocks: int = 40,
    step: int | None = None,
    text: str = "a",
) -> None:
    """Bits per byte, all blocks alike but for noise."""
    draw = np.random.default_rng(int(bits * 1e6) % 2**32)
    nats = bits * np.log(2) * 500 * draw.uniform(0.9, 1.1, blocks)
    items = [{"id": n, "nats": float(each), "bytes": 500, "tokens": 128} for n, each in enumerate(nats)]
    figure = sum(i["nats"] for i in items) / np.log(2) / sum(i["bytes"] for i in items)
    measured = Measured(figure, "bits a byte", False, kind, {}, {}, items, hash_of([text]))
    target = folder if step is None else folder / "along"
    save_yardstick(target, "bits_per_byte", measured, header(folder))
    if step is not None:
        (folder / "evaluations").mkdir(exist_ok=True)
        (target / "evaluations").rename(folder / "evaluations" / f"step-{step}")
        target.rmdir()


def add_lengths(folder: Path, bits: list[float], trained: int = 128) -> None:
    """Bits a byte at 1, 2, 4, … times the trained length."""
    times = [2**n for n in range(len(bits))]
    parts = {
        f"x{n}": {"tokens": n * trained, "bits_per_byte": each} for n, each in zip(times, bits, strict=True)
    }
    items = [
        {"id": n, "nats": bits[-1] * float(np.log(2)) * 4000, "bytes": 4000, "tokens": 1024}
        for n in range(20)
    ]
    kind = f"log-likelihood, rows of {times[-1] * trained} tokens"
    settings = {"trained": trained, "times": times}
    measured = Measured(bits[-1], "bits a byte", False, kind, parts, settings, items, hash_of(["a"]))
    save_yardstick(folder, "length_extrapolation", measured, header(folder))


def add_nothing(folder: Path, name: str, reason: str, reading: str | None = None) -> None:
    """A yardstick that has no meaning for this model, or for one of its readings."""
    measured = Measured(None, "bits a byte", False, "none", reason=reason)
    told = {"reading": reading} if reading else {}
    save_yardstick(folder, name, measured, header(folder) | told, reading=reading)


def add_task(
    folder: Path,
    shape: str,
    accuracy: float,
    *,
    name: str = "toy",
    seeds: int = 2,
    count: int = 50,
    mixture: bool = False,
    **settings: Any,
) -> Path:
    """A fine-tuned task whose predictions are right with this chance, scored by its shape's metric."""
    from lmzoo.tasks.metrics import score_of

    draw, golden = np.random.default_rng(int(accuracy * 1e6)), np.random.default_rng(0)
    metric = {"sentence": "accuracy", "matthews": "matthews", "f1": "f1", "tagging": "accuracy",
              "entities": "entity_f1", "spans": "exact_match_f1"}[shape]  # fmt: skip
    told = {"matthews": "sentence", "f1": "sentence", "entities": "tagging"}.get(shape, shape)
    labels = (
        ["no", "yes"] if told == "sentence" else ["O", "B-X", "I-X"] if shape == "entities" else ["A", "B"]
    )
    scored: list[Any] = []
    for number in range(count):
        if told == "sentence":
            scored.append(Labelled(f"i{number}", ("a text",), labels[int(golden.random() < 0.4)]))
        elif told == "spans":
            answer = f"the {'red' if number % 2 else 'blue'} house {number}"
            scored.append(Question(f"i{number}", "which?", f"by {answer} he sat", ((answer, 3),)))
        else:
            tags = tuple(labels[k] for k in golden.integers(0, len(labels), 3 + number % 4))
            scored.append(Tagged(f"i{number}", tuple("abcdef"[: len(tags)]), tags))
    config = TaskConfig(name=name, shape=told, metric=metric, positive="yes" if metric == "f1" else None)
    data = TaskData(config, [], [], scored, "valid", labels, hash=hash_of([shape, str(count)]))
    results = []
    for seed in range(1, seeds + 1):
        predicted: list[Any] = []
        for item in scored:
            right = draw.random() < accuracy
            if told == "sentence":
                predicted.append(item.label if right else labels[int(item.label == "no")])
            elif told == "spans":
                predicted.append(item.answers[0][0] if right else "red")
            else:
                predicted.append([tag if draw.random() < accuracy else labels[0] for tag in item.tags])
        mixed = {"input": {"gamma": 1.0 + seed / 10, "s": [0.2, 0.3, 0.5]}} if mixture else {}
        results.append(SeedResult(seed, score_of(data, predicted), 1e-3, 3, 2, 80.0, predicted, mixed))
    result = Result(
        **{"task": name, "mode": "frozen", "variant": "", "metric": next(iter(results[0].metrics))},
        **{"seeds": results, "scored_part": "valid", "items": count, "items_hash": data.hash},
        controls={
            "majority": {next(iter(results[0].metrics)): 40.0},
            "static_vectors": {"score": 45.0, "seeds": []},
        },
        config={"layers": "mix", "context": {"pretrained": "past", "finetuned": "past"}} | settings,
        model={"name": "gpt", "objective": "clm"},
    )
    place = folder / "finetune" / f"{name}-frozen"
    save_task(place, result, data)
    return place


def three_families(root: Path, seeds: tuple[int, ...] = (1, 2, 3)) -> list[Path]:
    """ELMo, GPT and BERT with losses, minimal pairs and, where it has a meaning, bits per byte."""
    made = []
    for place, (model, right) in enumerate({"elmo": 0.8, "gpt": 0.75, "bert": 0.55}.items()):
        for seed in seeds:
            folder = make_run(root / f"{model}-{seed}", f"model={model}", seed=seed, loss=4.5 + 0.02 * seed)
            add_pairs(folder, right, key=f"{model} {seed}")
            if model == "bert":
                add_nothing(folder, "bits_per_byte", "a masked model gives no probability of a text")
            else:
                kind = "log-likelihood" if model == "gpt" else "mean of two directions"
                add_bits(folder, 1.7 + 0.01 * place + 0.002 * seed, kind=kind)
            made.append(folder)
    return made
