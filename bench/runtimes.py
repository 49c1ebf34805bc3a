"""Our presets in every runtime beside the peers, in one run: `python -m bench.runtimes --output bench/results`.

Networks of random weights, at one point or at all of several sizes, strides and batches (`--size 256 --size 512
--batch 1 --batch 8`). Cases take turns, so that a machine that slows down slows them all; milliseconds an image are the
median of a case's turns, a ratio that of the turns' ratios, and latencies (p50, p95, p99) are of a whole batch. Nothing
is timed before every case has given the reference's numbers (`bench.harness.cases`).

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
import onnxruntime
import openvino
import torch
import typer
from rich.console import Console
from rich.progress import track

from bench.harness.cases import loops, ours, peers
from bench.harness.environment import machine
from bench.harness.interleaved import Case, Taken, take_turns
from bench.harness.peak_memory import held
from bench.harness.roofline import bytes_a_second, limits, of_limit, rooflines
from bench.harness.runners import BASE, Point, precisions
from bench.peers.networks import FORWARD, SIZE
from glance_fast.presets import PRESETS
from glance_fast.storage.atomic_write import replace_file

METHODS = (*PRESETS, *FORWARD)


def main(
    output: Annotated[Path, typer.Option("--output", "-o", help="For runtimes.jsonl, appended to, and runtimes.md.")],
    method: Annotated[list[str] | None, typer.Option(help=f"Of {', '.join(METHODS)}; all if none.")] = None,
    size: Annotated[list[int] | None, typer.Option(help="Side of the square images; may be repeated.")] = None,
    stride: Annotated[list[int] | None, typer.Option(help="Pixels between patches; may be repeated.")] = None,
    batch: Annotated[list[int] | None, typer.Option(help="Images a run; may be repeated.")] = None,
    turns: int = 15,
) -> None:
    """Time all cases in turn, print and write the table, and append its rows with the machine they are of."""
    if unknown := set(method or ()) - set(METHODS):
        raise SystemExit(f"unknown method {', '.join(sorted(unknown))}; legal are {', '.join(METHODS)}")
    points = [Point(*one) for one in product(size or [BASE.size], stride or [BASE.stride], batch or [BASE.batch])]
    with tempfile.TemporaryDirectory() as place:
        cases = every(method or METHODS, points, Path(place))
        rows = measure(cases, turns)
        console = Console(stderr=True)
        for case, row in track([*zip(cases, rows, strict=True)], "Memory", console=console, transient=True):
            memory = held(case.alone) if case.alone else None
            row["memory_mb"] = round(memory / 1e6) if memory else None
    output.mkdir(parents=True, exist_ok=True)
    with (output / "runtimes.jsonl").open("a", encoding="utf-8") as lines:
        lines.writelines(json.dumps(row) + "\n" for row in rows)
    replace_file(output / "runtimes.md", f"{_head(rows[0], turns)}\n\n{as_markdown(rows)}\n".encode())
    Console(width=180).print(as_markdown(rows), markup=False, highlight=False)


def every(methods: Sequence[str], points: Sequence[Point], keep: Path) -> list[Case]:
    """The presets at all points, a loop for each size and stride; the peers at their size; and the limits."""
    threads, todo = torch.get_num_threads(), list[Callable[[], Iterable[Case]]]()
    single = dict.fromkeys(replace(point, batch=1) for point in points)
    for name in filter(PRESETS.__contains__, methods):
        todo += [partial(loops, [name], point) for point in single]
        todo += [partial(ours, name, threads, point, keep) for point in points]
    for count in dict.fromkeys(point.batch for point in points if point.size == SIZE):
        todo += [partial(peers, threads, [name], count, keep) for name in methods if name in FORWARD]
    todo += [partial(limits, threads, precisions())]
    console = Console(stderr=True)
    return [case for make in track(todo, "Checking", console=console, transient=True) for case in make()]


def measure(cases: Sequence[Case], turns: int) -> list[dict[str, Any]]:
    """Run all cases in turn and give a row each, with the machine they were measured on."""
    taken = take_turns(cases, turns)
    facts = {"openvino": openvino.__version__, "onnxruntime": onnxruntime.__version__, **machine()}
    rows = []
    for case, mine in zip(cases, taken, strict=True):
        roofline, images = rooflines(cases, taken, case), case.point.batch
        ms = [seconds * 1e3 / images for seconds in mine.seconds]
        p50, p95, p99 = (round(float(one) * images, 2) for one in np.percentile(ms, (50, 95, 99)))
        rows.append(
            {
                "method": case.method,
                "runtime": case.runtime,
                "precision": case.precision,
                "size": case.point.size,
                "stride": case.point.stride,
                "batch": images,
                "ms": round(median(ms), 2),
                "low": round(min(ms), 2),
                "high": round(max(ms), 2),
                "p50_ms": p50,
                "p95_ms": p95,
                "p99_ms": p99,
                "images_a_second": round(1e3 / mean(ms), 2),
                "loop_over_it": _over_loop(cases, taken, case, mine),
                "gmac": round(case.macs / 1e9, 4),
                "streamed_mb": round(case.streamed / 1e6, 1),
                "roofline_ms": round(median(roofline) * 1e3 / images, 2) if roofline else None,
                "of_limit": of_limit(roofline, mine),
                "joules": round(mean(mine.joules) / images, 3) if mine.joules else None,
                "memory_gb_a_second": round(median(bytes_a_second(cases, taken)) / 1e9, 1) if roofline else None,
                "turns_ms": [round(one, 2) for one in ms],
                **facts,
            }
        )
    return rows


def _over_loop(cases: Sequence[Case], taken: Sequence[Taken], case: Case, mine: Taken) -> float | None:
    """How many times as long an image takes its method's loop, the median over the turns; None where there is none."""
    where = (case.method, case.point.size, case.point.stride)
    for other, times in zip(cases, taken, strict=True):
        if other.runtime.startswith("loop") and (other.method, other.point.size, other.point.stride) == where:
            ratios = [case.point.batch * a / b for a, b in zip(times.seconds, mine.seconds, strict=True)]
            return round(median(ratios), 2)
    return None


def _head(row: dict[str, Any], turns: int) -> str:
    """What the last run was, and on what."""
    names = ("date", "processor", "flags", "cores", "threads", "load", "python", "torch", "openvino", "onnxruntime",
             "commit")  # fmt: skip
    return f"Medians of {turns} turns. " + "; ".join(f"{name} {row[name]}" for name in names) + "."


def as_markdown(rows: list[dict[str, Any]]) -> str:
    """One line a case."""
    head = ("method", "runtime", "precision", "size", "stride", "batch", "ms an image", "from", "to", "p50", "p95",
            "p99", "images a second", "the loop takes", "GMAC", "roofline ms", "of the limit", "MB", "J")  # fmt: skip
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        ratio = f"{row['loop_over_it']:.0f}×" if row["loop_over_it"] else ""
        limit = f"{row['roofline_ms']:.1f} | {row['of_limit']:.0%}" if row["of_limit"] else " | "
        costs = " | ".join("" if row.get(name) is None else f"{row[name]:g}" for name in ("memory_mb", "joules"))
        names = ("ms", "low", "high", "p50_ms", "p95_ms", "p99_ms", "images_a_second")
        figures = " | ".join(f"{row[name]:.1f}" for name in names)
        case = " | ".join(str(row[name]) for name in ("method", "runtime", "precision", "size", "stride", "batch"))
        lines.append(f"| {case} | {figures} | {ratio} | {row['gmac']:.2f} | {limit} | {costs} |")
    return "\n".join(lines)


if __name__ == "__main__":
    typer.run(main)
