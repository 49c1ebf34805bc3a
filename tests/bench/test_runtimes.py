"""The benchmark of runtimes: the peers are the published networks, and its table is one of checked results."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from bench import runtimes
from bench.harness import cases, interleaved, roofline
from bench.harness.peak_memory import peak_memory_of
from bench.harness.runners import Point, precisions
from bench.peers.networks import PEER_NETWORKS
from glance_fast.backends.tolerances import TOLERANCES, Tolerance

# Parameters in millions and multiply-adds in billions: EfficientAD's paper (8.1 and 20.7 M); ResNet-18 up to layer3 is
# 2.78 M, of which STFPM has two and PaDiM one (batch norms folded), beside 64 * 64 Gaussians of 100 channels; a Wide
# ResNet-50-2 up to layer3 is 24.9 M. PatchCore's 1,024 vectors times 20,480 are 8.05 and 32.2 of its billions.
PUBLISHED = {
    "EfficientAD-S": (8.06, 37.5), "EfficientAD-M": (20.7, 117.5), "STFPM ResNet-18": (5.56, 3.7),
    "PaDiM ResNet-18": (2.78, 1.9), "PatchCore ResNet-18": (2.78, 9.9), "PatchCore Wide ResNet-50": (24.9, 45.2),
}  # fmt: skip


@pytest.mark.parametrize("name", PEER_NETWORKS)
def test_a_peer_is_the_published_network(name: str) -> None:
    network = PEER_NETWORKS[name]().eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        out = network(torch.rand(1, 3, 256, 256))
    assert out.shape == (1, 1, 256, 256) and torch.isfinite(out).all()
    millions, billions = PUBLISHED[name]
    assert sum(weight.numel() for weight in network.parameters()) / 1e6 == pytest.approx(millions, rel=0.01)
    assert counter.get_total_flops() / 2e9 == pytest.approx(billions, rel=0.03)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Point:
    """Peers at a smaller image than they are published for, no pauses, and little memory to read."""
    for module in (cases, runtimes):
        monkeypatch.setattr(module, "SIZE", 128)
    monkeypatch.setattr(interleaved, "REST", 0)
    monkeypatch.setattr(roofline, "MEGABYTES", 8)
    return Point(128)


def test_a_run_appends_its_rows_and_prints_them(small: Point, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runtimes.main(tmp_path, ["fast"], size=[small.size], turns=3)
    monkeypatch.setattr(runtimes, "peak_memory_of", lambda arguments: 10**6)
    runtimes.main(tmp_path, ["STFPM ResNet-18"], size=[small.size], turns=3)
    rows = [json.loads(line) for line in (tmp_path / "runtimes.jsonl").read_text().splitlines()]
    count = len(precisions())  # in OpenVINO, of a preset, a peer, and both limits of the CPU
    openvino = [*["OpenVINO"] * count, *["OpenVINO, plugins"] * count]
    expected_runtimes = ["loop, PyTorch", "PyTorch", "ONNX Runtime", *openvino]
    of_preset, of_peer = len(expected_runtimes), 2 + count
    of_limits = 2 * count + 1
    preset_run, peer_run = rows[: of_preset + of_limits], rows[of_preset + of_limits :]
    assert len(peer_run) == of_peer + of_limits
    assert [row["runtime"] for row in preset_run[:of_preset]] == expected_runtimes
    assert all(0 < row["low"] <= row["ms"] <= row["high"] and row["commit"] for row in rows)
    assert all(row["p50_ms"] <= row["p95_ms"] <= row["p99_ms"] <= row["high"] + 0.01 for row in rows)
    assert all(1e3 / row["high"] - 1 <= row["images_per_second"] <= 1e3 / row["low"] + 1 for row in rows)
    assert rows[0]["loop_speedup"] == 1 and rows[3]["loop_speedup"] > 10 and peer_run[0]["loop_speedup"] is None
    assert all(row["roofline_share"] > 0 for row in rows)
    for run, first, last in ((preset_run, 1, of_preset), (peer_run, 0, of_peer)):  # all but the loop and the limits
        assert run[-1]["roofline_share"] == 1, "memory is the limit of itself"
        assert [i for i, row in enumerate(run) if row["memory_mb"] is not None] == [*range(first, last)]
    head, _, *table = (tmp_path / "runtimes.md").read_text().splitlines()
    assert head.startswith("Medians of 3 turns.") and rows[-1]["commit"] in head
    assert len(table) == 2 + len(peer_run) and len({line.count("|") for line in table}) == 1


def test_an_unknown_method_is_reported_with_the_legal_names(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="unknown method quick; legal are fast, .*PaDiM"):
        runtimes.main(tmp_path, ["quick", "fast"])


def test_nothing_is_timed_when_the_numbers_differ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(TOLERANCES, ("output", "fp32"), Tolerance(1e-12, "a limit that no result is within"))
        with pytest.raises(SystemExit, match="differs from the loop .*nothing was timed"):
            cases.our_cases("fast", tmp_path, Point(128))
    if "bf16" in precisions():
        monkeypatch.setitem(TOLERANCES, ("output", "bf16"), Tolerance(1e-7, "a limit that no result is within"))
        with pytest.raises(SystemExit, match="OpenVINO at bf16.*nothing was timed"):
            cases.our_cases("fast", tmp_path, Point(128))


def test_a_peer_runs_alone_at_its_batch(small: Point, tmp_path: Path) -> None:
    peer_cases = cases.peer_cases(["STFPM ResNet-18"], tmp_path, batch=2)
    measured = [bool(peak_memory_of(case.memory_args)) for case in peer_cases if case.memory_args]
    assert measured == [True] * (2 + len(precisions()))


def test_a_run_goes_over_sizes_strides_and_batches(
    small: Point, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtimes, "peak_memory_of", lambda arguments: int(arguments[-1]) * 10**6)
    runtimes.main(tmp_path, ["fast", "STFPM ResNet-18"], size=[128, 144], stride=[16], batch=[1, 3], turns=1)
    rows = [json.loads(line) for line in (tmp_path / "runtimes.jsonl").read_text().splitlines()]
    loops = [(row["size"], row["batch"]) for row in rows if row["runtime"].startswith("loop")]
    assert loops == [(128, 1), (144, 1)]
    actual = [(row["size"], row["stride"], row["batch"]) for row in rows if row["runtime"] == "ONNX Runtime"]
    # The peer runs at one size, and its rows have the default stride.
    assert actual == [(128, 16, 1), (128, 16, 3), (144, 16, 1), (144, 16, 3), (128, 8, 1), (128, 8, 3)]
    batches_of_3 = [row for row in rows if row["batch"] == 3]
    assert all(row["p50_ms"] == pytest.approx(3 * row["ms"], abs=0.1) and row["memory_mb"] == 3 for row in batches_of_3)
    assert all(row["loop_speedup"] > 1 for row in batches_of_3 if row["method"] == "fast")
