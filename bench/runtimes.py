"""Our presets in every runtime and the peers, in one run: `python -m bench.runtimes --output bench/results`.

Networks of random weights, at one point or at all of several sizes, strides and batches (`--size 256 --size 512 --batch
1 --batch 8`). The cases are interleaved; milliseconds per image are the median of a case's turns, a ratio is the median
of the turns' ratios, and latencies (p50, p95, p99) are those of a whole batch. Every case ends at the anomaly map, and
is timed only after its numbers were verified (`bench.harness.cases`).

Each row also has the share of its time that its roofline takes (`bench.harness.roofline`), the peak memory of a process
that runs nothing else (`bench.harness.peak_memory`), and joules per image where the machine has counters.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from statistics import mean, median
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.progress import track

from bench.harness.cases import loop_cases, our_cases, peer_cases
from bench.harness.environment import environment, use_all_cores
from bench.harness.interleaved import Case, Measurement, run_interleaved
from bench.harness.peak_memory import peak_memory_of
from bench.harness.roofline import machine_limits, memory_bandwidth, roofline_seconds, roofline_share
from bench.harness.runners import BASE, Point, precisions
from bench.peers.networks import PEER_NETWORKS, SIZE
from glance_fast.backends.base import cpu_threads
from glance_fast.presets import PRESETS
from glance_fast.storage.atomic_write import replace_file

METHODS = (*PRESETS, *PEER_NETWORKS)


def main(
    output: Annotated[Path, typer.Option("--output", "-o", help="For runtimes.jsonl, appended to, and runtimes.md.")],
    method: Annotated[list[str] | None, typer.Option(help=f"Of {', '.join(METHODS)}; all if none.")] = None,
    size: Annotated[list[int] | None, typer.Option(help="Side of the square images; may be repeated.")] = None,
    stride: Annotated[list[int] | None, typer.Option(help="Pixels between patches; may be repeated.")] = None,
    batch: Annotated[list[int] | None, typer.Option(help="Images per run; may be repeated.")] = None,
    turns: Annotated[int, typer.Option(help="Runs of each case that are counted.")] = 15,
) -> None:
    """Time all cases in turn, print and write the table, and append its rows with the machine's description."""
    if unknown := set(method or ()) - set(METHODS):
        raise SystemExit(f"unknown method {', '.join(sorted(unknown))}; legal are {', '.join(METHODS)}")
    sides = size or [BASE.size], stride or [BASE.stride], batch or [BASE.batch]
    points = [Point(*numbers) for numbers in product(*sides)]
    with tempfile.TemporaryDirectory() as scratch:
        cases = make_cases(method or METHODS, points, Path(scratch))
        rows = measure(cases, turns)
        console = Console(stderr=True)
        for case, row in track([*zip(cases, rows, strict=True)], "Memory", console=console, transient=True):
            memory = peak_memory_of(case.memory_args) if case.memory_args else None
            row["memory_mb"] = round(memory / 1e6) if memory else None
    output.mkdir(parents=True, exist_ok=True)
    with (output / "runtimes.jsonl").open("a", encoding="utf-8") as lines:
        lines.writelines(json.dumps(row) + "\n" for row in rows)
    replace_file(output / "runtimes.md", f"{_head(rows[0], turns)}\n\n{as_markdown(rows)}\n".encode())
    Console(width=180).print(as_markdown(rows), markup=False, highlight=False)


def make_cases(methods: Sequence[str], points: Sequence[Point], folder: Path) -> list[Case]:
    """The presets at all points, a loop for each size and stride; the peers at their size; and the limits."""
    makers = list[Callable[[], Iterable[Case]]]()
    single = dict.fromkeys(replace(point, batch=1) for point in points)
    for name in filter(PRESETS.__contains__, methods):
        makers += [partial(loop_cases, [name], point) for point in single]
        makers += [partial(our_cases, name, folder, point) for point in points]
    for count in dict.fromkeys(point.batch for point in points if point.size == SIZE):
        makers += [partial(peer_cases, [name], folder, count) for name in methods if name in PEER_NETWORKS]
    makers += [partial(machine_limits, cpu_threads(), precisions())]
    console = Console(stderr=True)
    return [case for make in track(makers, "Verifying", console=console, transient=True) for case in make()]


def measure(cases: Sequence[Case], turns: int) -> list[dict[str, Any]]:
    """Time all cases in turn and return one row per case, with the environment."""
    measurements, recorded = run_interleaved(cases, turns), environment()
    rows = []
    for case, measurement in zip(cases, measurements, strict=True):
        roofline, images = roofline_seconds(cases, measurements, case), case.point.batch
        ms = [seconds * 1e3 / images for seconds in measurement.seconds]
        p50, p95, p99 = (round(float(value) * images, 2) for value in np.percentile(ms, (50, 95, 99)))
        bandwidth = round(median(memory_bandwidth(cases, measurements)) / 1e9, 1) if roofline else None
        rows.append(
            {
                "method": case.method,
                "runtime": case.runtime,
                "precision": case.precision,
                "starts_at": case.starts_at,
                "ends_at": case.ends_at,
                "size": case.point.size,
                "stride": case.point.stride,
                "batch": images,
                "ms": round(median(ms), 2),
                "low": round(min(ms), 2),
                "high": round(max(ms), 2),
                "p50_ms": p50,
                "p95_ms": p95,
                "p99_ms": p99,
                "images_per_second": round(1e3 / mean(ms), 2),
                "loop_speedup": _loop_speedup(cases, measurements, case, measurement),
                "gmac": round(case.macs / 1e9, 4),
                "streamed_mb": round(case.streamed_bytes / 1e6, 1),
                "roofline_ms": round(median(roofline) * 1e3 / images, 2) if roofline else None,
                "roofline_share": roofline_share(roofline, measurement),
                "joules": round(mean(measurement.joules) / images, 3) if measurement.joules else None,
                "memory_gb_per_second": bandwidth,
                "turns_ms": [round(value, 2) for value in ms],
                **recorded,
            }
        )
    return rows


def _loop_speedup(
    cases: Sequence[Case], measurements: Sequence[Measurement], case: Case, measurement: Measurement
) -> float | None:
    """Time of an image by the method's loop over the case's, the median over the turns; None without a loop."""
    key = (case.method, case.point.size, case.point.stride)
    for loop, timed in zip(cases, measurements, strict=True):
        if loop.runtime.startswith("loop") and (loop.method, loop.point.size, loop.point.stride) == key:
            ratios = [case.point.batch * a / b for a, b in zip(timed.seconds, measurement.seconds, strict=True)]
            return round(median(ratios), 2)
    return None


def _head(row: dict[str, Any], turns: int) -> str:
    """The last run's environment, and what a case includes."""
    names = ("date", "processor", "processor_model", "flags", "cores", "threads", "load", "python", "torch", "openvino",
             "onnxruntime", "commit")  # fmt: skip
    described = "; ".join(f"{name} {row[name]}" for name in names if name in row)
    return (
        f"Medians of {turns} turns. Ours: `Engine.score`, from uint8 pixels to the anomaly map. Peers: from float32 "
        f"pixels to the anomaly map. The loop: Global-Net alone. {described}."
    )


def as_markdown(rows: list[dict[str, Any]]) -> str:
    """One line per case."""
    head = ("method", "runtime", "precision", "size", "stride", "batch", "ms per image", "from", "to", "p50", "p95",
            "p99", "images per second", "loop over it", "GMAC", "roofline ms", "of roofline", "MB", "J")  # fmt: skip
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        ratio = f"{row['loop_speedup']:.0f}×" if row["loop_speedup"] else ""
        limit = f"{row['roofline_ms']:.1f} | {row['roofline_share']:.0%}" if row["roofline_share"] else " | "
        costs = " | ".join("" if row.get(name) is None else f"{row[name]:g}" for name in ("memory_mb", "joules"))
        names = ("ms", "low", "high", "p50_ms", "p95_ms", "p99_ms", "images_per_second")
        figures = " | ".join(f"{row[name]:.1f}" for name in names)
        case = " | ".join(str(row[name]) for name in ("method", "runtime", "precision", "size", "stride", "batch"))
        lines.append(f"| {case} | {figures} | {ratio} | {row['gmac']:.2f} | {limit} | {costs} |")
    return "\n".join(lines)


if __name__ == "__main__":
    use_all_cores()
    typer.run(main)
