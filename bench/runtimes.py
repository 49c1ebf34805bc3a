"""Our presets in every runtime beside the peers, in one run: `python -m bench.runtimes --output bench/results`.

Each case is a network of random weights on one 256x256 image, from uint8 pixels to the map for ours and from float
pixels to the map for the peers, whose resizing and normalising is left out. Cases take turns, so that a machine that
slows down slows them all; a case is the median of its turns, a ratio that of the turns' ratios. Ours are timed only
after they have given the loop's numbers at some locations (float32) or come near them (bfloat16).

The limit stands beside them: a large matrix product and a large convolution, in OpenVINO at both precisions, take turns
with the rest, and each case tells how near its multiply-adds a second come to the better one's.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import onnxruntime
import openvino
import torch
import typer
from openvino import opset13 as opset
from rich.console import Console
from rich.progress import track
from torch.utils.flop_counter import FlopCounterMode

from bench.forward import FORWARD
from bench.launch import Run, as_onnx, as_openvino, in_onnxruntime, in_openvino, in_torch
from bench.machine import machine
from glance_fast.calibration import Calibration
from glance_fast.config import ModelConfig
from glance_fast.dense import DensePass, dense_features
from glance_fast.export.pipeline import export_onnx
from glance_fast.loop import loop_global
from glance_fast.nets.model import GlanceModel
from glance_fast.presets import PRESETS

TOLERANCES = {"fp32": 1e-5, "bf16": 5e-2}
# Of the peers between runtimes; of bfloat16 nothing is asked, as their weights are random.
PEER_TOLERANCE = 1e-3
LIMITS = ("matrix product", "convolution")
# Seconds before each run, in which the threads of the case before it stop waiting actively.
REST = 0.05
# Locations of the loop that are run, spread over the grid; each costs the same.
LOOP_SIDE = 3
CALIBRATION = Calibration(
    scores=(0.0,), false_alarm_rate=0.5, threshold=0.0, pixel_false_alarm_rate=0.5, pixel_threshold=0.0
)


@dataclass(frozen=True)
class Case:
    """One line of the table: a method in a runtime at a precision; `times` of its runs cost what one image does.

    `macs` are the multiply-adds of an image, of what is multiplied in large pieces.
    """

    method: str
    runtime: str
    precision: str
    run: Callable[[], object]
    macs: float
    times: float = 1.0


def main(
    output: Annotated[Path, typer.Option("--output", "-o", help="Rows are appended to runtimes.jsonl there.")],
    preset: Annotated[list[str] | None, typer.Option(help=f"Of {', '.join(PRESETS)}; all if none.")] = None,
    turns: int = 15,
) -> None:
    """Time all cases in turn, print the table, and append its rows with the machine they were measured on."""
    threads = torch.get_num_threads()
    mine = [case for name in preset or list(PRESETS) for case in ours(name, threads)]
    rows = measure([*mine, *peers(threads), *limits(threads)], turns)
    output.mkdir(parents=True, exist_ok=True)
    with (output / "runtimes.jsonl").open("a", encoding="utf-8") as lines:
        lines.writelines(json.dumps(row) + "\n" for row in rows)
    Console(width=140).print(as_markdown(rows), markup=False, highlight=False)


def measure(cases: Sequence[Case], turns: int) -> list[dict[str, Any]]:
    """Run all cases in turn and give a row each, with the machine they were measured on."""
    seconds: list[list[float]] = [[] for _ in cases]
    for turn in track(range(turns + 1), "Turns", console=Console(stderr=True), transient=True):
        for case, taken in zip(cases, seconds, strict=True):
            time.sleep(REST)
            start = time.perf_counter()
            case.run()
            if turn:  # the first is not counted
                taken.append((time.perf_counter() - start) * case.times)
    return [
        {
            "method": case.method,
            "runtime": case.runtime,
            "precision": case.precision,
            "ms": round(median(taken) * 1e3, 2),
            "low": round(min(taken) * 1e3, 2),
            "high": round(max(taken) * 1e3, 2),
            "loop_over_it": _over_loop(cases, seconds, case.method, taken),
            "gmac": round(case.macs / 1e9, 3),
            "of_limit": _of_limit(cases, seconds, case, taken),
            "turns_ms": [round(one * 1e3, 2) for one in taken],
            "openvino": openvino.__version__,
            "onnxruntime": onnxruntime.__version__,
            **machine(),
        }
        for case, taken in zip(cases, seconds, strict=True)
    ]


def ours(preset: str, threads: int) -> list[Case]:
    """The loop, the dense pass, and both runtimes of one preset; raises SystemExit where their numbers differ."""
    torch.manual_seed(0)
    model = GlanceModel(ModelConfig.model_validate(PRESETS[preset]["model"])).eval().requires_grad_(False)
    torch.nn.init.normal_(model.global_net.project.weight, std=0.1)
    image = torch.randint(0, 256, (1, *model.config.image_size, 3), dtype=torch.uint8)
    dense = DensePass(model.plan())
    seen = model.from_uint8(image)
    with torch.inference_mode():
        expected = model.score(*dense_features(model, dense, seen)).numpy()
        _check_loop(model, dense, seen)
    graph = export_onnx(model, CALIBRATION).SerializeToString()
    height, width = (side + 2 * model.config.overhang for side in model.config.image_size)
    local = model.local_net.macs((height, width), model.config.stride)
    macs = local + dense.plan.macs
    pixels = image.numpy()
    grid = "anomaly_grid"
    runs: dict[tuple[str, str], Run] = {("ONNX Runtime", "fp32"): in_onnxruntime(graph, pixels, threads, grid)}
    for precision in TOLERANCES:
        runs["OpenVINO", precision] = in_openvino(openvino.Core().read_model(graph), pixels, precision, threads, grid)
    for (runtime, precision), run in runs.items():
        difference = np.abs(np.ravel(run()) - expected.ravel()).max() / np.abs(expected).max()
        if difference > TOLERANCES[precision]:
            raise SystemExit(f"{preset} in {runtime} at {precision} differs by {difference:.1e}; nothing was timed")

    @torch.inference_mode()
    def torch_dense() -> object:
        return model.score(*dense_features(model, dense, model.from_uint8(image)))

    return [
        _loop(preset, model, seen, dense.plan.loop_macs),
        Case(preset, "PyTorch", "fp32", torch_dense, macs),
        *(Case(preset, runtime, precision, run, macs) for (runtime, precision), run in runs.items()),
    ]


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

    return Case(preset, "loop, PyTorch", "fp32", run, macs, model.plan().locations / some.locations)


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


def peers(threads: int, names: Iterable[str] | None = None) -> list[Case]:
    """The peers, all or those of these names, in every runtime; raises SystemExit where their numbers differ."""
    cases = []
    for name in FORWARD if names is None else names:
        network, image = FORWARD[name]().eval(), torch.rand(1, 3, 256, 256)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            expected = network(image).numpy()
        graph, pixels = as_openvino(network, image), image.numpy()
        runs = {("ONNX Runtime", "fp32"): in_onnxruntime(as_onnx(network, image), pixels, threads)}
        runs |= {("OpenVINO", one): in_openvino(graph, pixels, one, threads) for one in TOLERANCES}
        runs["PyTorch", "fp32"] = in_torch(network, image)
        for (runtime, precision), run in runs.items():
            difference = np.abs(run() - expected).max() / np.abs(expected).max()
            if precision == "fp32" and difference > PEER_TOLERANCE:
                raise SystemExit(f"{name} in {runtime} differs by {difference:.1e} from PyTorch; nothing was timed")
            cases.append(Case(name, runtime, precision, run, counter.get_total_flops() / 2))
    return cases


def limits(threads: int) -> list[Case]:
    """A matrix product and a convolution that nothing holds up, with constant weights, at both precisions."""
    rng, cases = np.random.default_rng(0), []
    left, right = rng.standard_normal((2, 1024, 1024), np.float32)
    image, kernel = rng.standard_normal((1, 128, 64, 64), np.float32), rng.standard_normal((128, 128, 3, 3), np.float32)
    given, seen = opset.parameter([1024, 1024], np.float32), opset.parameter([1, 128, 64, 64], np.float32)
    # With something to add, OpenVINO takes its fastest form.
    product = opset.add(opset.matmul(given, opset.constant(right), False, False), opset.constant(right[:1]))
    convolution = opset.relu(opset.convolution(seen, opset.constant(kernel), [1, 1], [1, 1], [1, 1], [1, 1]))
    for name, model, value, macs in (
        (LIMITS[0], openvino.Model([product], [given]), left, 1024.0**3),
        (LIMITS[1], openvino.Model([convolution], [seen]), image, 64.0**2 * kernel.size),
    ):
        for precision in TOLERANCES:
            cases.append(Case(name, "OpenVINO", precision, in_openvino(model, value, precision, threads), macs))
    return cases


def _over_loop(cases: Sequence[Case], seconds: list[list[float]], method: str, taken: list[float]) -> float | None:
    """How many times as long the method's loop takes, the median over the turns; None where there is none."""
    mine = ((case, times) for case, times in zip(cases, seconds, strict=True) if case.method == method)
    loops = [times for case, times in mine if case.runtime.startswith("loop")]
    return round(median(a / b for a, b in zip(loops[0], taken, strict=True)), 2) if loops else None


def _of_limit(cases: Sequence[Case], seconds: list[list[float]], case: Case, taken: list[float]) -> float | None:
    """Multiply-adds a second, as a share of the best limit's at this precision in the same turn."""
    paces = [
        [one.macs / second for second in times]
        for one, times in zip(cases, seconds, strict=True)
        if one.method in LIMITS and one.precision == case.precision
    ]
    if not paces:
        return None
    best = [max(turn) for turn in zip(*paces, strict=True)]
    return round(float(median(case.macs / second / pace for second, pace in zip(taken, best, strict=True))), 3)


def as_markdown(rows: list[dict[str, Any]]) -> str:
    """One line a case."""
    head = ("method", "runtime", "precision", "ms an image", "from", "to", "the loop takes", "GMAC", "of the limit")
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        ratio = f"{row['loop_over_it']:.0f}×" if row["loop_over_it"] else ""
        limit = f"{row['of_limit']:.0%}" if row["of_limit"] else ""
        figures = " | ".join(f"{row[name]:.1f}" for name in ("ms", "low", "high"))
        name = f"{row['method']} | {row['runtime']} | {row['precision']}"
        lines.append(f"| {name} | {figures} | {ratio} | {row['gmac']:.2f} | {limit} |")
    return "\n".join(lines)


if __name__ == "__main__":
    typer.run(main)
