"""Has anything become slower? `make bench-check`, or `python -m bench.check`; `--update` makes what it compares with.

What can be counted must be exactly what `bench/results/expected.json` says: multiply-adds, entries, bytes and graph
nodes of the presets, and the registers, spills and shared memory of the compiled kernels. What is timed is compared
as ratios of things that took turns in one run, never as seconds, and a ratio fails when it has lost more than the noise
that `--update` saw between its runs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from bench.compile_kernels import SAMPLES, compile_part
from bench.harness.cases import CALIBRATION, PLUGINS, loops, ours, peers
from bench.harness.environment import machine
from bench.harness.interleaved import Case
from bench.harness.runners import precisions
from bench.runtimes import measure
from glance_fast.config import ModelConfig
from glance_fast.export.graph.pipeline import export_onnx
from glance_fast.models.model import GlanceModel
from glance_fast.presets import PRESETS
from glance_fast.storage.atomic_write import replace_file

EXPECTED = Path(__file__).resolve().parent / "results" / "expected.json"
# Slower and faster thing of each ratio, by method, runtime and precision.
Which = tuple[str, str, str]
RATIOS: dict[str, tuple[Which, Which]] = {
    f"{preset}: {slow[0] or preset}, {slow[1]} {slow[2]} over {runtime} {precision}": (
        (slow[0] or preset, slow[1], slow[2]),
        (preset, runtime, precision),
    )
    for preset, runtime, precision, slow in (
        ("fast", "OpenVINO", "fp32", ("", "loop, PyTorch", "fp32")),
        ("paper", "OpenVINO", "fp32", ("", "loop, PyTorch", "fp32")),
        ("paper", "OpenVINO", "fp32", ("", "PyTorch", "fp32")),
        ("paper", "OpenVINO", "bf16", ("", "OpenVINO", "fp32")),
        ("fast", "OpenVINO", "fp32", ("PaDiM ResNet-18", "OpenVINO", "fp32")),
        ("fast", "OpenVINO", "fp32", ("STFPM ResNet-18", "OpenVINO", "fp32")),
        ("fast", "OpenVINO", "bf16", ("", "OpenVINO", "fp32")),
        ("fast", "OpenVINO", "bf16", ("PaDiM ResNet-18", "OpenVINO", "bf16")),
        ("fast", "OpenVINO", "bf16", ("STFPM ResNet-18", "OpenVINO", "bf16")),
        ("accurate", "OpenVINO", "fp32", ("EfficientAD-S", "OpenVINO", "fp32")),
        ("paper", PLUGINS, "fp32", ("", "loop, PyTorch", "fp32")),
        ("paper", PLUGINS, "fp32", ("", "OpenVINO", "fp32")),
        ("paper", PLUGINS, "bf16", ("", PLUGINS, "fp32")),
        ("fast", PLUGINS, "fp32", ("", "OpenVINO", "fp32")),
        ("fast", PLUGINS, "bf16", ("", PLUGINS, "fp32")),
    )
}
TARGET = 90
# Runs of `--update`, and the noise that is allowed even where they agreed better.
RUNS, LEAST_NOISE = 3, 0.1


def main(
    update: Annotated[bool, typer.Option("--update", help="Write what later runs are compared with.")] = False,
    turns: int = 7,
) -> None:
    """Print each figure beside the expected one; exit status 1 if one is worse."""
    console = Console(width=130)
    exact = counts() | resources()
    if update:
        seen = [ratios(turns) for _ in range(RUNS)]
        kept = {name: _with_noise([one[name] for one in seen]) for name in seen[0]}
        text = json.dumps({"exact": exact, "ratios": kept, "machine": machine()}, indent=1)
        replace_file(EXPECTED, f"{text}\n".encode())
        console.print(f"written: {EXPECTED}")
        return
    expected = json.loads(EXPECTED.read_text(encoding="utf-8"))
    worse = [*changed(exact, expected["exact"]), *slower(ratios(turns), expected["ratios"], console)]
    for line in worse:
        console.print(line, style="red", markup=False, highlight=False)
    if worse:
        raise typer.Exit(1)
    console.print("nothing is slower, and everything that is counted is as expected")


def counts() -> dict[str, int]:
    """What is counted of every preset."""
    found: dict[str, int] = {}
    for name, tables in PRESETS.items():
        model = GlanceModel(ModelConfig.model_validate(tables["model"]))
        plan = model.compile_plan()
        found |= {
            f"{name}: multiply-adds of the plan": plan.macs,
            f"{name}: entries": sum(table.entries for table in plan.tables),
            f"{name}: bytes that the plan moves": plan.bytes,
            f"{name}: nodes of the graph": len(export_onnx(model, CALIBRATION).graph.node),
        }
    return found


def resources() -> dict[str, int]:
    """What some of the kernels take on one GPU generation."""
    return {
        f"{row.kernel} {row.before}→{row.after} on sm_{TARGET}: {what}": getattr(row, what)
        for part in SAMPLES
        for row in compile_part(part, "fp16", TARGET)
        for what in ("registers", "spilled_bytes", "shared_bytes")
    }


def ratios(turns: int) -> dict[str, float]:
    """The ratios of one run, at the precisions that this CPU computes in."""
    threads, here = torch.get_num_threads(), set(precisions())
    asked = {name: pair for name, pair in RATIOS.items() if {which[2] for which in pair} <= here}
    wanted = {which for pair in asked.values() for which in pair}
    compared = sorted({method for method, _, _ in wanted} - set(PRESETS))
    every = [*loops(PRESETS), *(case for name in PRESETS for case in ours(name, threads)), *peers(threads, compared)]
    rows = measure([case for case in every if _which(case) in wanted], turns)
    ms = {(row["method"], row["runtime"], row["precision"]): row["turns_ms"] for row in rows}
    return {
        name: median(a / b for a, b in zip(ms[slow], ms[fast], strict=True)) for name, (slow, fast) in asked.items()
    }


def _which(case: Case) -> Which:
    return case.method, case.runtime, case.precision


def _with_noise(seen: list[float]) -> dict[str, float]:
    middle = median(seen)
    return {"ratio": round(middle, 3), "noise": round(max(LEAST_NOISE, (max(seen) - min(seen)) / middle), 3)}


def changed(found: Mapping[str, int], expected: Mapping[str, int]) -> list[str]:
    """A line for each count that is not as expected."""
    names = sorted({*found, *expected})
    return [
        f"{name}: {found.get(name)} instead of {expected.get(name)}; if that is meant, run with --update"
        for name in names
        if found.get(name) != expected.get(name)
    ]


def slower(found: Mapping[str, float], expected: Mapping[str, Any], console: Console) -> list[str]:
    """A line for each ratio that has lost more than its noise; all are printed as a table."""
    table = Table("ratio", "now", "expected", "noise")
    lines = []
    for name, ratio in found.items():
        if name not in expected:
            lines.append(f"{name}: nothing to compare with; run with --update")
            continue
        wanted, noise = expected[name]["ratio"], expected[name]["noise"]
        table.add_row(name, f"{ratio:.2f}", f"{wanted:.2f}", f"{noise:.0%}")
        if ratio < wanted * (1 - noise):
            lines.append(f"{name}: {ratio:.2f}, which is {1 - ratio / wanted:.0%} less than {wanted:.2f}")
    for name in sorted(expected.keys() - found.keys()):
        table.add_row(name, "not here", f"{expected[name]['ratio']:.2f}", "")
    console.print(table)
    return lines


if __name__ == "__main__":
    typer.run(main)
