"""Figures of sentences that summarise many rows: ranges over runs, parts and sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from itertools import pairwise
from statistics import mean

from bench.harness.cases import OPENVINO_PLUGINS
from bench.tables.accuracy import ROWS, values
from bench.tables.rows import gigabytes, last_run, read_rows, run_of, runs
from bench.tables.speed import FASTER_MACHINE, RUNTIMES, bfloat16_gain, limit, scaling
from glance_fast.presets import PRESETS

PRECISIONS = ("fp32", "bf16")
CENTER_OFFSET_0 = "mt-center-offset-0.json"


def _range(numbers: Iterable[float], form: str) -> str:
    """The least and the most of some numbers: "1.6 to 1.8"."""
    ordered = sorted(numbers)
    return f"{ordered[0]:{form}} to {ordered[-1]:{form}}"


def _scaling_rate(runtime: str) -> str:
    """Billions of multiply-adds per second that fit the points."""
    row = scaling(runtime, "side")[0]
    return f"{row['macs'] / row['expected_ms'] / 1e6:.0f}"


def _same_case(runtime: str) -> str:
    """The least and the most milliseconds of the point that every sweep contains."""
    base = {"side": 256, "stride": 8, "patch": 32, "batch": 1, "threads": 2}
    times = [
        row["ms"]
        for row in read_rows("scaling.jsonl")
        if row["runtime"] == runtime and all(int(row[name]) == value for name, value in base.items())
    ]
    return f"{min(times):.0f} to {max(times):.0f} ms"


def _second_thread(runtime: str) -> str:
    single, double = (next(row["ms"] for row in scaling(runtime, "threads") if row["threads"] == n) for n in (1, 2))
    return f"{single / double:.1f}"


def _gmac_range() -> str:
    """The least and the most billions of multiply-adds of a point."""
    macs = [row["macs"] / 1e9 for row in read_rows("scaling.jsonl")]
    return f"{min(macs):.1f} to {max(macs):,.0f}"


def _openvino_memory(side: int) -> str:
    return gigabytes(next(row["memory"] for row in scaling("OpenVINO", "side") if row["side"] == side))


def _openvino_over_tables() -> str:
    """Memory of a process with OpenVINO over the bytes of the plan's tables."""
    rows = [row for row in read_rows("scaling.jsonl") if row["runtime"] == "OpenVINO"]
    return _range((row["memory"] / row["plan_peak"] for row in rows), ".1f")


def _openvino_over_tables_at(side: int) -> str:
    row = next(row for row in scaling("OpenVINO", "side") if row["side"] == side)
    return f"{row['memory'] / row['plan_peak']:.1f}"


def _loop_range() -> str:
    """The smallest and the largest factor of the presets in OpenVINO float32, by the times that the README shows."""
    run = last_run(RUNTIMES)
    return _range((run.row(preset, "loop, PyTorch")["ms"] / run.row(preset)["ms"] for preset in PRESETS), ".0f")


def _kernels_range() -> str:
    """Time of the plain graph over that with our kernels, by turns, over presets and precisions."""
    keys = [((preset, "OpenVINO", p), (preset, OPENVINO_PLUGINS, p)) for preset in PRESETS for p in PRECISIONS]
    return _range((last_run(RUNTIMES).ratio(plain, ours) for plain, ours in keys), ".2f")


def _bfloat16_range() -> str:
    return _range((bfloat16_gain(last_run(RUNTIMES), preset) for preset in PRESETS), ".1f")


def _limit_range() -> str:
    """GFLOP/s in float32 of all runs that kept their turns."""
    return _range((limit(run, "fp32") for run in runs(RUNTIMES).values()), ".0f")


def _aupro_range() -> str:
    """How much higher AUPRO of `fast` and `accurate` is than PaDiM's, on the reported part and on all images."""
    gaps = [
        mean(values(ROWS, preset, "aupro", part)) - mean(values(ROWS, "padim", "aupro", part))
        for preset in ("fast", "accurate")
        for part in ("reporting", None)
    ]
    return _range(gaps, ".3f")


def _center_offset_auroc() -> str:
    """The most that the centre offset changes image AUROC by."""
    files = ("mt-feature-block-2.json", CENTER_OFFSET_0)
    means = [[mean(values(file, preset, "image_auroc")) for file in files] for preset in ("fast", "accurate")]
    return f"{max(abs(after - before) for after, before in means):.3f}"


def _state(preset: str, precision: str, name: str) -> str:
    """The turns of the third run of 25 November on both sides of their largest gap: how many are below, both ranges."""
    turns = sorted(run_of(RUNTIMES, FASTER_MACHINE["third run"]).row(preset, "OpenVINO", precision)["turns_ms"])
    _, split = max((above / below, i) for i, (below, above) in enumerate(pairwise(turns), start=1))
    parts = {"count": str(split), "fast": _range(turns[:split], ".1f"), "slow": _range(turns[split:], ".1f")}
    return parts[name]


def _two_streams(precision: str, latency: bool) -> str:
    """Images per second with two streams over one call per image; or how many times as long each image takes."""
    rows = [row for row in read_rows("throughput.jsonl") if row["way"] == "Engine.stream, streams=None"]
    share = [row["of_engine"] for row in rows if row.get("precision", "fp32") == precision][-1]
    return f"{2 / share if latency else share:.2f}"


FIGURES: dict[str, Callable[[], str]] = {
    "loop-range": _loop_range,
    "kernels-range": _kernels_range,
    "bf16-range": _bfloat16_range,
    "limit-range": _limit_range,
    "aupro-minus-padim-range": _aupro_range,
    "center-offset-auroc-change": _center_offset_auroc,
    "scaling-gmac-range": _gmac_range,
    "scaling-openvino-1024-memory": partial(_openvino_memory, 1024),
    "scaling-openvino-over-tables": _openvino_over_tables,
    "scaling-openvino-1024-over-tables": partial(_openvino_over_tables_at, 1024),
    **{
        f"scaling-{runtime.lower()}-{name}": partial(figure, runtime)
        for runtime in ("PyTorch", "OpenVINO")
        for name, figure in (("rate", _scaling_rate), ("same-case", _same_case), ("second-thread", _second_thread))
    },
    **{
        f"states-{preset}-{precision}-{name}": partial(_state, preset, precision, name)
        for preset in PRESETS
        for precision in PRECISIONS
        for name in ("count", "fast", "slow")
    },
    **{
        f"two-streams-{name}-{precision}": partial(_two_streams, precision, name == "latency")
        for name in ("rate", "latency")
        for precision in PRECISIONS
    },
}
