"""Guard against slower code: `make bench-check`, or `python -m bench.check`; `--update` writes the expected figures.

Counts must be exactly those of `bench/results/expected.json`: multiply-adds, entries, bytes and graph nodes of the
presets, and the registers, spills and shared memory of the compiled kernels. Times are compared as ratios of cases of
one interleaved run, never as seconds; a ratio fails when it is lower than expected by more than the noise that
`--update` observed between its runs. Ratios depend on the CPU's instruction sets, so each set has expectations of its
own, and `--update` replaces those of this CPU alone.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from bench.compile_kernels import SAMPLES, compile_part
from bench.harness.cases import OPENVINO_PLUGINS, loop_cases, our_cases, peer_cases
from bench.harness.environment import environment, use_all_cores
from bench.harness.interleaved import Case
from bench.harness.runners import CALIBRATION, precisions
from bench.runtimes import measure
from glance_fast.config import ModelConfig
from glance_fast.export.graph.pipeline import export_onnx
from glance_fast.models.model import GlanceModel
from glance_fast.presets import PRESETS
from glance_fast.storage.atomic_write import replace_file

EXPECTED = Path(__file__).resolve().parent / "results" / "expected.json"
# A case by its method, runtime and precision; the slower and the faster case of each ratio.
CaseKey = tuple[str, str, str]
RATIOS: dict[str, tuple[CaseKey, CaseKey]] = {
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
        ("paper", OPENVINO_PLUGINS, "fp32", ("", "loop, PyTorch", "fp32")),
        ("paper", OPENVINO_PLUGINS, "fp32", ("", "OpenVINO", "fp32")),
        ("paper", OPENVINO_PLUGINS, "bf16", ("", OPENVINO_PLUGINS, "fp32")),
        ("fast", OPENVINO_PLUGINS, "fp32", ("", "OpenVINO", "fp32")),
        ("fast", OPENVINO_PLUGINS, "bf16", ("", OPENVINO_PLUGINS, "fp32")),
    )
}
TARGET = 90
# Runs of `--update`, and the noise that is allowed even where they agreed better.
RUNS, MIN_NOISE = 3, 0.1


def main(
    update: Annotated[
        bool, typer.Option("--update", help="Write the figures that later runs are compared with.")
    ] = False,
    turns: int = 7,
) -> None:
    """Print each ratio and the expected one; exit status 1 if one is lower or a count differs."""
    console = Console(width=130)
    exact, flags = counts() | resources(), environment()["flags"]
    if update:
        runs = [ratios(turns) for _ in range(RUNS)]
        with_noise = {name: _with_noise([run[name] for run in runs]) for name in runs[0]}
        by_cpu = _expected()["cpus"] if EXPECTED.is_file() else {}
        by_cpu[flags] = {"machine": environment(), "ratios": with_noise}
        text = json.dumps({"exact": exact, "cpus": by_cpu}, indent=1)
        replace_file(EXPECTED, f"{text}\n".encode())
        console.print(f"written: {EXPECTED}")
        return
    expected = _expected()
    faults = changed(exact, expected["exact"])
    of_cpu = expected["cpus"].get(flags)
    if of_cpu is not None:
        faults += slower(ratios(turns), of_cpu["ratios"], console)
    for line in faults:
        console.print(line, style="red", markup=False, highlight=False)
    if faults:
        raise typer.Exit(1)
    if of_cpu is not None:
        console.print("nothing is slower, and all counts are as expected")
        return
    console.print(
        f"all counts are as expected; NO TIMES WERE COMPARED: {EXPECTED.name} has no ratios of a CPU with {flags!r}, "
        f"only of {', '.join(map(repr, expected['cpus']))}; --update measures this CPU's",
        markup=False,
        highlight=False,
    )


def _expected() -> dict[str, Any]:
    expected: dict[str, Any] = json.loads(EXPECTED.read_text(encoding="utf-8"))
    return expected


def counts() -> dict[str, int]:
    """The counts of every preset."""
    by_name: dict[str, int] = {}
    for name, tables in PRESETS.items():
        model = GlanceModel(ModelConfig.model_validate(tables["model"]))
        plan = model.compile_plan()
        by_name |= {
            f"{name}: multiply-adds of the plan": plan.macs,
            f"{name}: entries": sum(table.entries for table in plan.tables),
            f"{name}: bytes that the plan moves": plan.bytes,
            f"{name}: nodes of the graph": len(export_onnx(model, CALIBRATION).graph.node),
        }
    return by_name


def resources() -> dict[str, int]:
    """Registers, spills and shared memory of sample kernels on one GPU generation."""
    return {
        f"{row.kernel} {row.before}→{row.after} on sm_{TARGET}: {what}": getattr(row, what)
        for part in SAMPLES
        for row in compile_part(part, "fp16", TARGET)
        for what in ("registers", "spilled_bytes", "shared_bytes")
    }


def ratios(turns: int) -> dict[str, float]:
    """The ratios of one run, at the precisions that this CPU computes in."""
    supported = set(precisions())
    pairs = {name: pair for name, pair in RATIOS.items() if {key[2] for key in pair} <= supported}
    keys = {key for pair in pairs.values() for key in pair}
    compared = sorted({method for method, _, _ in keys} - set(PRESETS))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        cases = [*loop_cases(PRESETS), *(case for name in PRESETS for case in our_cases(name, folder))]
        cases += peer_cases(compared, folder)
        rows = measure([case for case in cases if _key(case) in keys], turns)
    ms = {(row["method"], row["runtime"], row["precision"]): row["turns_ms"] for row in rows}
    return {
        name: median(a / b for a, b in zip(ms[slow], ms[fast], strict=True)) for name, (slow, fast) in pairs.items()
    }


def _key(case: Case) -> CaseKey:
    return case.method, case.runtime, case.precision


def _with_noise(ratios_of_runs: list[float]) -> dict[str, float]:
    middle, spread = median(ratios_of_runs), max(ratios_of_runs) - min(ratios_of_runs)
    return {"ratio": round(middle, 3), "noise": round(max(MIN_NOISE, spread / middle), 3)}


def changed(actual: Mapping[str, int], expected: Mapping[str, int]) -> list[str]:
    """One line for each count that is not as expected."""
    names = sorted({*actual, *expected})
    return [
        f"{name}: {actual.get(name)} instead of {expected.get(name)}; if the change is intended, run with --update"
        for name in names
        if actual.get(name) != expected.get(name)
    ]


def slower(actual: Mapping[str, float], expected: Mapping[str, Any], console: Console) -> list[str]:
    """One line for each ratio that is lower than expected by more than its noise; all are printed as a table."""
    table = Table("ratio", "now", "expected", "noise")
    lines = []
    for name, ratio in actual.items():
        if name not in expected:
            lines.append(f"{name}: nothing to compare with; run with --update")
            continue
        reference, noise = expected[name]["ratio"], expected[name]["noise"]
        table.add_row(name, f"{ratio:.2f}", f"{reference:.2f}", f"{noise:.0%}")
        if ratio < reference * (1 - noise):
            lines.append(f"{name}: {ratio:.2f}, which is {1 - ratio / reference:.0%} less than {reference:.2f}")
    for name in sorted(expected.keys() - actual.keys()):
        table.add_row(name, "not on this CPU", f"{expected[name]['ratio']:.2f}", "")
    console.print(table)
    return lines


if __name__ == "__main__":
    use_all_cores()
    typer.run(main)
