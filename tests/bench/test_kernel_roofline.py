"""What the kernels need is what the plan counts, and grows as it must."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from bench import gpu
from bench.harness.launch_costs import H100_BYTES, H100_FLOPS, LaunchCost, fused_cost, launch_costs
from bench.kernel_roofline import main
from glance_fast.config import ModelConfig
from glance_fast.models.model import GlanceModel
from glance_fast.presets import PRESETS


@pytest.fixture(scope="module", params=PRESETS)
def model(request: pytest.FixtureRequest) -> GlanceModel:
    return GlanceModel(ModelConfig.model_validate(PRESETS[request.param]["model"]))


def test_the_products_are_the_plans_and_the_networks(model: GlanceModel) -> None:
    rows = {need.launch: need.macs for need in launch_costs(model, 1)}
    layers = sum(macs for launch, macs in rows.items() if " conv " in launch)
    assert layers == model.compile_plan().macs
    assert rows["Local-Net, PyTorch"] + rows["first convolution"] == model.local_macs


def test_a_batch_reads_weights_and_tables_once(model: GlanceModel) -> None:
    single_image, eight_images = (list(launch_costs(model, batch)) for batch in (1, 8))
    for single, several in zip(single_image, eight_images, strict=True):
        assert several.macs == 8 * single.macs
        assert single.bytes <= several.bytes <= 8 * single.bytes
    wide = list(launch_costs(model, 1, width=4))
    assert all(half.bytes <= full.bytes <= 2 * half.bytes for half, full in zip(single_image, wide, strict=True))


def test_a_roofline_is_the_longer_of_the_two() -> None:
    assert LaunchCost("products", 1e9, 1).seconds(1e12, 1e12) == 2e-3
    assert LaunchCost("memory", 1, 1e9).seconds(1e12, 1e12) == 1e-3


def test_the_table_adds_up(capsys: pytest.CaptureFixture[str]) -> None:
    main("fast", 1, H100_FLOPS, H100_BYTES)
    first, pooled = capsys.readouterr().out.split("\n\n")
    lines = [line.split("|") for line in first.splitlines()[2:]]
    assert lines[-1][1].strip() == "all"
    parts = [float(line[3]) for line in lines]
    assert sum(parts[:-1]) == pytest.approx(parts[-1], abs=0.1)
    assert len(pooled.splitlines()) == 2 + 1  # one of the layers behind the first is pooled


def test_pooling_in_the_convolutions_launch_computes_more_and_moves_less(model: GlanceModel) -> None:
    rows = {need.launch: need for need in launch_costs(model, 4)}
    for i, (conv, pool) in enumerate(pairwise(model.compile_plan().steps)):
        if (conv.layer.kind, pool.layer.kind) == ("conv", "pool"):
            fused = fused_cost(conv, pool, 4)
            names = "{} conv {}→{}, entries".format(i, *conv.channels), "{} pool {}→{}".format(i + 1, *pool.channels)
            apart = [rows[name] for name in names]
            assert fused.macs > sum(need.macs for need in apart)
            assert fused.bytes < sum(need.bytes for need in apart)


def test_the_gpu_benchmark_reports_each_engines_share_of_its_roofline(monkeypatch: pytest.MonkeyPatch) -> None:
    class Event:
        def __init__(self, enable_timing: bool) -> None: ...
        def record(self) -> None: ...
        def synchronize(self) -> None: ...
        def elapsed_time(self, end: Event) -> float:
            return 2.0

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)

    def timed(count: float, *needed: LaunchCost) -> gpu.GpuCase:
        return gpu.GpuCase(lambda: None, count, needed)

    cases = {
        gpu.PRODUCT: timed(1e9),
        gpu.COPY: timed(1e6),
        "engine": timed(4, LaunchCost("a", 1e6, 1), LaunchCost("b", 1, 1e3)),
    }
    *limits, engine = gpu.measure(cases, turns=2)
    assert not any("roofline_ms" in row for row in limits)
    assert engine["per_second"] == 2000
    assert engine["roofline_ms"] == pytest.approx(2e-3 + 2e-3)
    assert engine["roofline_share"] == pytest.approx(2e-3)
