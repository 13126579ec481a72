"""The table of docs/scale.md is what the script gives, and the script's arithmetic holds."""

from __future__ import annotations

from dataclasses import replace

import pytest
from benchmarks.scale_plan import BEGIN, DOCUMENT, END, GPUS, Assumptions, Model, Plan, model_of, table

from lmzoo.modules import MODULES
from lmzoo.types import SpecialTokens

GIVEN = Assumptions()


def test_the_table_in_the_document_is_the_script_s():
    text = DOCUMENT.read_text(encoding="utf-8")
    assert text.count(BEGIN) == text.count(END) == 1
    assert text.partition(BEGIN)[2].partition(END)[0] == table(GIVEN)


def test_a_model_built_without_memory_weighs_what_a_real_one_does():
    counted = model_of("gpt", "tiny", 500, 64)
    real = MODULES["gpt"](size="tiny", special=SpecialTokens(500), seq_len=64)
    assert counted.parameters == sum(p.numel() for p in real.parameters())
    assert counted.in_layers == real.backbone.num_parameters() - sum(
        p.numel() for p in real.backbone.encoder.parameters() if p.dim() == 1
    )
    # six operations a weight of every matrix, and attention's two products over the row
    matrices = counted.in_layers + 128 * 128 + 500 * 128  # the layers', the head's, the vocabulary's
    assert counted.flops == 6 * matrices + 3 * 4 * 64 * 128 * 2


@pytest.mark.parametrize("gpus", GPUS)
def test_bytes_and_seconds_follow_from_the_assumptions(gpus):
    plan = Plan(Model(parameters=1_000_000_000, in_layers=900_000_000, flops=6e9), gpus, GIVEN)
    link = 0.8 * (450e9 if gpus == 8 else 50e9)
    assert plan.ddp == pytest.approx(2 * (gpus - 1) / gpus * 4e9 / link)
    assert plan.fsdp == pytest.approx((gpus - 1) / gpus * (3.6e9 + 0.4e9 + 4e9) / link)
    assert plan.compute == pytest.approx(6e9 * 2**20 / gpus / (0.4 * 989.4e12))
    assert plan.steps == 22_179
    assert plan.checkpoint == 12e9
    assert plan.one_file == 12
    assert plan.shards == pytest.approx(max(24 / gpus, 1.2))
    # 419 interruptions of 16,384 GPUs in 54 days
    assert plan.between_failures == pytest.approx(54 * 86_400 / 419 * 16_384 / gpus)
    assert plan.preparation == pytest.approx(100e9 / 2e6 / (8 * gpus))


def test_the_interval_between_checkpoints_is_the_one_that_costs_least():
    model = Model(1_000_000_000, 900_000_000, 6e9)
    assert Plan(model, 512, GIVEN).interval == 1800
    plan = Plan(model, 512, replace(GIVEN, longest=1e9))
    assert plan.interval > 1800
    best = plan.an_hour()
    for factor in (0.5, 0.9, 1.1, 2.0):
        assert plan.an_hour(factor * plan.interval) > best
