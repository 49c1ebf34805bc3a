"""Our presets in every runtime beside the peers, in one run: `python -m bench.runtimes --output bench/results`.

Each case is a network of random weights on one 256x256 image, from uint8 pixels to the map for ours and from float
pixels to the map for the peers, whose resizing and normalising is left out. Cases take turns, so that a machine that
slows down slows them all; a case is the median of its turns, a ratio that of the turns' ratios. Ours are timed only
after they have given the loop's numbers at some locations (float32) or come near them (bfloat16).

The limit stands beside them (`bench.limits`): each case tells how much of its time its roofline is. So do the most
memory that a process holds which runs nothing else (`bench.alone`), and joules where the machine tells them.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Sequence
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
from torch.utils.flop_counter import FlopCounterMode

from bench.alone import held
from bench.forward import FORWARD, SIZE
from bench.launch import (
    Run,
    as_onnx,
    as_openvino,
    in_onnxruntime,
    in_openvino,
    in_torch,
    our_model,
    ours_in_torch,
)
from bench.limits import bytes_a_second, limits, of_limit, rooflines
from bench.machine import machine
from bench.turns import Case, Taken, take_turns
from glance_fast.calibration import Calibration
from glance_fast.dense import DensePass
from glance_fast.export.pipeline import export_onnx
from glance_fast.loop import loop_global
from glance_fast.nets.model import GlanceModel
from glance_fast.presets import PRESETS

TOLERANCES = {"fp32": 1e-5, "bf16": 5e-2}
# Of the peers between runtimes; of bfloat16 nothing is asked, as their weights are random.
PEER_TOLERANCE = 1e-3
# What a peer reads once an image, for one product each.
STREAMED = {"PaDiM ResNet-18": ("mean", "inverse")}
# Locations of the loop that are run, spread over the grid; each costs the same.
LOOP_SIDE = 3
CALIBRATION = Calibration(
    scores=(0.0,), false_alarm_rate=0.5, threshold=0.0, pixel_false_alarm_rate=0.5, pixel_threshold=0.0
)


def main(
    output: Annotated[Path, typer.Option("--output", "-o", help="Rows are appended to runtimes.jsonl there.")],
    preset: Annotated[list[str] | None, typer.Option(help=f"Of {', '.join(PRESETS)}; all if none.")] = None,
    turns: int = 15,
) -> None:
    """Time all cases in turn, print the table, and append its rows with the machine they were measured on."""
    threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as place:
        mine = [case for name in preset or list(PRESETS) for case in ours(name, threads, Path(place))]
        cases = [*mine, *peers(threads, keep=Path(place)), *limits(threads, [*TOLERANCES])]
        rows = measure(cases, turns)
        console = Console(stderr=True)
        for case, row in track([*zip(cases, rows, strict=True)], "Memory", console=console, transient=True):
            memory = held(case.alone) if case.alone else None
            row["memory_mb"] = round(memory / 1e6) if memory else None
    output.mkdir(parents=True, exist_ok=True)
    with (output / "runtimes.jsonl").open("a", encoding="utf-8") as lines:
        lines.writelines(json.dumps(row) + "\n" for row in rows)
    Console(width=160).print(as_markdown(rows), markup=False, highlight=False)


def measure(cases: Sequence[Case], turns: int) -> list[dict[str, Any]]:
    """Run all cases in turn and give a row each, with the machine they were measured on."""
    taken = take_turns(cases, turns)
    facts = {"openvino": openvino.__version__, "onnxruntime": onnxruntime.__version__, **machine()}
    rows = []
    for case, mine in zip(cases, taken, strict=True):
        roofline = rooflines(cases, taken, case)
        ms = [seconds * 1e3 for seconds in mine.seconds]
        rows.append(
            {
                "method": case.method,
                "runtime": case.runtime,
                "precision": case.precision,
                "ms": round(median(ms), 2),
                "low": round(min(ms), 2),
                "high": round(max(ms), 2),
                "loop_over_it": _over_loop(cases, taken, case.method, mine),
                "gmac": round(case.macs / 1e9, 3),
                "streamed_mb": round(case.streamed / 1e6, 1),
                "roofline_ms": round(median(roofline) * 1e3, 2) if roofline else None,
                "of_limit": of_limit(roofline, mine),
                "joules": round(mean(mine.joules), 3) if mine.joules else None,
                "memory_gb_a_second": round(median(bytes_a_second(cases, taken)) / 1e9, 1) if roofline else None,
                "turns_ms": [round(one, 2) for one in ms],
                **facts,
            }
        )
    return rows


def ours(preset: str, threads: int, keep: Path | None = None) -> list[Case]:
    """The loop, the dense pass, and both runtimes of one preset; raises SystemExit where their numbers differ.

    With a folder to `keep` its files in, the cases can be run alone.
    """
    model = our_model(preset)
    image = torch.randint(0, 256, (1, *model.config.image_size, 3), dtype=torch.uint8)
    dense = DensePass(model.plan())
    seen = model.from_uint8(image)
    by_torch = ours_in_torch(model, dense, image)
    expected = by_torch()
    with torch.inference_mode():
        _check_loop(model, dense, seen)
    graph = export_onnx(model, CALIBRATION).SerializeToString()
    height, width = (side + 2 * model.config.overhang for side in model.config.image_size)
    macs = model.local_net.macs((height, width), model.config.stride) + dense.plan.macs
    pixels, grid = image.numpy(), "anomaly_grid"
    runs: dict[tuple[str, str], Run] = {("ONNX Runtime", "fp32"): in_onnxruntime(graph, pixels, threads, grid)}
    for precision in TOLERANCES:
        runs["OpenVINO", precision] = in_openvino(openvino.Core().read_model(graph), pixels, precision, threads, grid)
    for (runtime, precision), run in runs.items():
        difference = np.abs(np.ravel(run()) - expected.ravel()).max() / np.abs(expected).max()
        if difference > TOLERANCES[precision]:
            raise SystemExit(f"{preset} in {runtime} at {precision} differs by {difference:.1e}; nothing was timed")
    alone = _kept(keep, preset, threads, (graph, openvino.Core().read_model(graph))) if keep else {}
    streamed = 0 if model.norm is None else 4 * model.norm.lower().numel() / 2
    runs = {("PyTorch", "fp32"): by_torch, **runs}
    return [
        _loop(preset, model, seen, dense.plan.loop_macs),
        *(
            Case(preset, runtime, precision, run, macs, streamed, alone=alone.get((runtime, precision)))
            for (runtime, precision), run in runs.items()
        ),
    ]


def _kept(keep: Path, method: str, threads: int, graphs: tuple[bytes, Any]) -> dict[tuple[str, str], tuple[str, ...]]:
    """Write a method's ONNX file and OpenVINO graph; give what runs it alone in each runtime."""
    name = method.replace(" ", "-")
    file, graph = keep / f"{name}.onnx", keep / f"{name}.xml"
    file.write_bytes(graphs[0])
    openvino.save_model(graphs[1], graph, compress_to_fp16=False)
    alone: dict[tuple[str, str], tuple[str, ...]] = {
        ("OpenVINO", one): ("openvino", str(graph), one, str(threads)) for one in TOLERANCES
    }
    alone["ONNX Runtime", "fp32"] = ("onnxruntime", str(file), "fp32", str(threads))
    alone["PyTorch", "fp32"] = ("torch", method, "fp32", str(threads))
    return alone


def _loop(preset: str, model: GlanceModel, seen: torch.Tensor, macs: int) -> Case:
    """Global-Net at some locations, one masked map a run in channels-last: the loop's best form (`bench.speed`).

    What Global-Net reads is computed once and not for each location, which favours the loop where a teacher's map is
    read.
    """
    some = _some(model)
    read = model.cropped(model.local_net.read(model.padded(seen)))
    net = model.global_net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.inference_mode()
    def run() -> object:
        return loop_global(net, read, some)

    return Case(preset, "loop, PyTorch", "fp32", run, macs, times=model.plan().locations / some.locations)


def _some(model: GlanceModel) -> Any:
    rows, cols = (
        [i * (len(starts) - 1) // (LOOP_SIDE - 1) for i in range(LOOP_SIDE)] for starts in model.grid
    )
    return model.plan(rows, cols)


def _check_loop(model: GlanceModel, dense: DensePass, seen: torch.Tensor) -> None:
    read = model.cropped(model.local_net.read(model.padded(seen)))
    some = _some(model)
    loop, pass_ = loop_global(model.global_net, read, some), DensePass(some)(model.global_net, read)
    if (loop - pass_).abs().max() > TOLERANCES["fp32"] * loop.abs().max():
        raise SystemExit("the dense pass differs from the loop; nothing was timed")


def peers(threads: int, names: Iterable[str] | None = None, keep: Path | None = None) -> list[Case]:
    """The peers, all or those of these names, in every runtime; raises SystemExit where their numbers differ."""
    cases = []
    for name in FORWARD if names is None else names:
        network, image = FORWARD[name]().eval(), torch.rand(1, 3, SIZE, SIZE)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            expected = network(image).numpy()
        file, graph, pixels = as_onnx(network, image), as_openvino(network, image), image.numpy()
        alone = _kept(keep, name, threads, (file, graph)) if keep else {}
        runs = {("ONNX Runtime", "fp32"): in_onnxruntime(file, pixels, threads)}
        runs |= {("OpenVINO", one): in_openvino(graph, pixels, one, threads) for one in TOLERANCES}
        runs["PyTorch", "fp32"] = in_torch(network, image)
        streamed = 4.0 * sum(network.get_buffer(one).numel() for one in STREAMED.get(name, ()))
        for (runtime, precision), run in runs.items():
            difference = np.abs(run() - expected).max() / np.abs(expected).max()
            if precision == "fp32" and difference > PEER_TOLERANCE:
                raise SystemExit(f"{name} in {runtime} differs by {difference:.1e} from PyTorch; nothing was timed")
            macs = counter.get_total_flops() / 2
            cases.append(Case(name, runtime, precision, run, macs, streamed, alone=alone.get((runtime, precision))))
    return cases


def _over_loop(cases: Sequence[Case], taken: Sequence[Taken], method: str, mine: Taken) -> float | None:
    """How many times as long the method's loop takes, the median over the turns; None where there is none."""
    of_method = ((case, times) for case, times in zip(cases, taken, strict=True) if case.method == method)
    loops = [times.seconds for case, times in of_method if case.runtime.startswith("loop")]
    return round(median(a / b for a, b in zip(loops[0], mine.seconds, strict=True)), 2) if loops else None


def as_markdown(rows: list[dict[str, Any]]) -> str:
    """One line a case."""
    head = ("method", "runtime", "precision", "ms an image", "from", "to", "the loop takes", "GMAC", "roofline ms",
            "of the limit", "MB", "J")  # fmt: skip
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        ratio = f"{row['loop_over_it']:.0f}×" if row["loop_over_it"] else ""
        limit = f"{row['roofline_ms']:.1f} | {row['of_limit']:.0%}" if row["of_limit"] else " | "
        costs = " | ".join("" if row.get(name) is None else f"{row[name]:g}" for name in ("memory_mb", "joules"))
        figures = " | ".join(f"{row[name]:.1f}" for name in ("ms", "low", "high"))
        name = f"{row['method']} | {row['runtime']} | {row['precision']}"
        lines.append(f"| {name} | {figures} | {ratio} | {row['gmac']:.2f} | {limit} | {costs} |")
    return "\n".join(lines)


if __name__ == "__main__":
    typer.run(main)
