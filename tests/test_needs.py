"""What the kernels need is what the plan counts, and grows as it must."""

from __future__ import annotations

import pytest

from bench.needs import H100_BYTES, H100_FLOPS, Need, main, needs
from glance_fast.config import ModelConfig
from glance_fast.nets.model import GlanceModel
from glance_fast.presets import PRESETS


@pytest.fixture(scope="module", params=PRESETS)
def model(request: pytest.FixtureRequest) -> GlanceModel:
    return GlanceModel(ModelConfig.model_validate(PRESETS[request.param]["model"]))


def test_the_products_are_the_plans_and_the_networks(model: GlanceModel) -> None:
    rows = {need.launch: need.macs for need in needs(model, 1)}
    layers = sum(macs for launch, macs in rows.items() if " conv " in launch)
    assert layers == model.plan().macs
    assert rows["Local-Net, PyTorch"] + rows.get("first convolution", 0) == model.local_macs


def test_a_batch_reads_weights_and_tables_once(model: GlanceModel) -> None:
    one, many = (list(needs(model, batch)) for batch in (1, 8))
    for single, several in zip(one, many, strict=True):
        assert several.macs == 8 * single.macs
        assert single.bytes <= several.bytes <= 8 * single.bytes
    wide = list(needs(model, 1, width=4))
    assert all(half.bytes <= full.bytes <= 2 * half.bytes for half, full in zip(one, wide, strict=True))


def test_a_roofline_is_the_longer_of_the_two() -> None:
    assert Need("products", 1e9, 1).seconds(1e12, 1e12) == 2e-3
    assert Need("memory", 1, 1e9).seconds(1e12, 1e12) == 1e-3


def test_the_table_adds_up(capsys: pytest.CaptureFixture[str]) -> None:
    main("fast", 1, H100_FLOPS, H100_BYTES)
    lines = [line.split("|") for line in capsys.readouterr().out.splitlines()[2:]]
    assert lines[-1][1].strip() == "all"
    parts = [float(line[3]) for line in lines]
    assert sum(parts[:-1]) == pytest.approx(parts[-1], abs=0.1)
