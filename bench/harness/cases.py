"""What `bench.runtimes` times: our presets and the peers, in every runtime, at a point; each only once it is right.

Ours run from uint8 pixels to the locations' scores, after the dense pass has given the loop's numbers at some locations
and every runtime the dense pass's at all of them, within the tolerances. The peers run from float pixels to the map,
after the other runtimes have given PyTorch's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import torch
from torch.utils.flop_counter import FlopCounterMode

from bench.harness.interleaved import Case
from bench.harness.runners import (
    BASE,
    PRECISIONS,
    Point,
    Run,
    as_onnx,
    as_openvino,
    in_onnxruntime,
    in_openvino,
    in_torch,
    our_model,
    ours_in_torch,
    precisions,
    with_plugins,
)
from bench.peers.networks import FORWARD, SIZE
from glance_fast.backends.torch_backend import TorchBackend
from glance_fast.dense.loop import LoopPass
from glance_fast.evaluation.tolerances import relative_error, tolerance
from glance_fast.export.graph.dense_pass_node import LEAST
from glance_fast.export.graph.pipeline import export_onnx
from glance_fast.models.model import GlanceModel
from glance_fast.plan.plan import refine_bands
from glance_fast.postprocessing.calibration import Calibration

# OpenVINO with our kernels as its dense pass.
PLUGINS = "OpenVINO, plugins"
WIDTHS = {"fp32": 4, "bf16": 2}
# What a peer reads once a run, for one product each.
STREAMED = {"PaDiM ResNet-18": ("mean", "inverse")}
# Locations of the loop that are run, spread over the grid; each costs the same.
LOOP_SIDE = 3
CALIBRATION = Calibration(
    scores=(0.0,), false_alarm_rate=0.5, threshold=0.0, pixel_false_alarm_rate=0.5, pixel_threshold=0.0
)

Key = tuple[str, str]


def ours(preset: str, threads: int, point: Point = BASE, keep: Path | None = None) -> list[Case]:
    """The dense pass and both other runtimes of one preset; raises SystemExit where their numbers differ.

    With a folder to `keep` its files in, the cases can be run alone.
    """
    model = our_model(preset, point)
    backend = TorchBackend(model)
    check_loop(backend)
    pixels = np.random.default_rng(0).integers(0, 256, (point.batch, *model.config.image_size, 3), np.uint8)
    by_torch = ours_in_torch(backend, pixels)
    expected = by_torch()
    graph, core = export_onnx(model, CALIBRATION).SerializeToString(), with_plugins()
    runs: dict[Key, Run] = {("ONNX Runtime", "fp32"): in_onnxruntime(graph, pixels, threads, "anomaly_grid")}
    own, own_graphs = dict[Key, Run](), dict[str, bytes]()
    for precision in precisions():
        read = openvino.Core().read_model(graph)
        runs["OpenVINO", precision] = in_openvino(read, pixels, precision, threads, "anomaly_grid")
        own_graphs[precision] = export_onnx(model, CALIBRATION, openvino=precision).SerializeToString()
        read = core.read_model(own_graphs[precision])
        own[PLUGINS, precision] = in_openvino(read, pixels, precision, threads, "anomaly_grid", core)
    for (runtime, precision), run in (runs | own).items():
        difference = relative_error(run(), expected)
        if difference > tolerance("output", precision):
            raise SystemExit(
                f"{preset} in {runtime} at {precision}, {point}, differs by {difference:.1e}; nothing was timed"
            )
    alone = _kept(keep, preset, threads, point, (graph, openvino.Core().read_model(graph))) if keep else {}
    if keep:
        alone |= _kept_with_plugins(keep, preset, threads, point, own_graphs)
    streamed = 0 if model.whitening is None else model.whitening.lower().numel() // 2
    costs = [
        (plan.macs + model.local_macs, streamed)
        for plan in (backend.dense.plan, refine_bands(model.compile_plan(), LEAST))
    ]
    every = {("PyTorch", "fp32"): by_torch, **runs}
    return [*_cases(preset, every, costs[0], point, alone), *_cases(preset, own, costs[1], point, alone)]


def _cases(
    method: str, runs: Mapping[Key, Run], costs: tuple[float, int], point: Point, alone: Mapping[Key, tuple[str, ...]]
) -> list[Case]:
    """A case a run; `costs` are an image's multiply-adds, and the numbers that a run streams from memory."""
    macs, streamed = costs
    return [
        Case(method, *key, run, macs, WIDTHS[key[1]] * streamed, point=point, alone=alone.get(key))
        for key, run in runs.items()
    ]


def _kept(keep: Path, method: str, threads: int, point: Point, graphs: tuple[bytes, Any]) -> dict[Key, tuple[str, ...]]:
    """Write a method's ONNX file and OpenVINO graph; give what runs it alone in each runtime."""
    name = "-".join(map(str, (method.replace(" ", "-"), point.size, point.stride, point.batch)))
    file, graph = keep / f"{name}.onnx", keep / f"{name}.xml"
    file.write_bytes(graphs[0])
    openvino.save_model(graphs[1], graph, compress_to_fp16=False)
    last = (str(threads), str(point.batch))
    alone: dict[Key, tuple[str, ...]] = {("OpenVINO", one): ("openvino", str(graph), one, *last) for one in PRECISIONS}
    alone["ONNX Runtime", "fp32"] = ("onnxruntime", str(file), "fp32", *last)
    alone["PyTorch", "fp32"] = ("torch", f"{method},{point.size},{point.stride}", "fp32", *last)
    return alone


def _kept_with_plugins(
    keep: Path, preset: str, threads: int, point: Point, graphs: Mapping[str, bytes]
) -> dict[Key, tuple[str, ...]]:
    """Write the graphs whose dense pass is our kernels; give what runs each alone."""
    alone = dict[Key, tuple[str, ...]]()
    for precision, graph in graphs.items():
        file = keep / f"{preset}-{point.size}-{point.stride}-{point.batch}-{precision}.onnx"
        file.write_bytes(graph)
        last = (precision, str(threads), str(point.batch))
        alone[PLUGINS, precision] = ("openvino-plugins", str(file), *last)
    return alone


def loops(presets: Iterable[str], point: Point = BASE) -> list[Case]:
    """Global-Net at some locations of one image, a masked map a run in channels-last: the loop's best (`bench.speed`).

    What Global-Net reads is computed once and not for each location, which favours the loop where a teacher's map is
    read.
    """
    return [_loop(preset, replace(point, batch=1)) for preset in presets]


def _loop(preset: str, point: Point) -> Case:
    model = our_model(preset, point)
    plan, loop = model.compile_plan(), LoopPass(model.compile_plan(*spread(model, LOOP_SIDE)))
    with torch.inference_mode():
        read = _read(model, _image(model))
    net = model.global_net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.inference_mode()
    def run() -> object:
        return loop(net, read)

    times = plan.locations / loop.plan.locations
    return Case(preset, "loop, PyTorch", "fp32", run, plan.loop_macs, times=times, point=point)


@torch.inference_mode()
def check_loop(backend: TorchBackend, side: int = LOOP_SIDE) -> None:
    """Raises SystemExit where the dense pass is not the loop at `side` times `side` locations of an image."""
    model, image = backend.model, _image(backend.model)
    rows, cols = spread(model, side)
    where = np.add.outer(np.array(rows) * len(model.grid[1]), cols).ravel()
    dense = backend.dense.features(model, image)[1][:, where]
    loop = LoopPass(model.compile_plan(rows, cols))
    difference = relative_error(dense, loop(model.global_net, _read(model, image)))
    if difference > tolerance("output", "fp32"):
        raise SystemExit(f"the dense pass differs from the loop by {difference:.1e}; nothing was timed")


def _image(model: GlanceModel) -> torch.Tensor:
    """A random image as the networks see it."""
    return model.from_uint8(torch.randint(0, 256, (1, *model.config.image_size, 3), dtype=torch.uint8))


def _read(model: GlanceModel, image: torch.Tensor) -> torch.Tensor:
    """What Global-Net reads of an image."""
    return model.cropped(model.local_net.feature_map(model.padded(image)))


def spread(model: GlanceModel, side: int) -> tuple[list[int], list[int]]:
    """`side` rows and columns of the grid, by number, the first and the last among them."""
    rows, cols = ([i * (len(starts) - 1) // (side - 1) for i in range(side)] for starts in model.grid)
    return rows, cols


def peers(threads: int, names: Iterable[str], batch: int = 1, keep: Path | None = None) -> list[Case]:
    """The peers of these names in every runtime; raises SystemExit where their numbers differ.

    They are published for images of one size.
    """
    cases, point = [], Point(SIZE, batch=batch)
    for name in names:
        network, images = FORWARD[name]().eval(), torch.rand(batch, 3, SIZE, SIZE)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            expected = network(images).numpy()
        file, graph, pixels = as_onnx(network, images), as_openvino(network, images), images.numpy()
        alone = _kept(keep, name, threads, point, (file, graph)) if keep else {}
        runs = {("ONNX Runtime", "fp32"): in_onnxruntime(file, pixels, threads)}
        runs |= {("OpenVINO", one): in_openvino(graph, pixels, one, threads) for one in precisions()}
        runs["PyTorch", "fp32"] = in_torch(network, images)
        for (runtime, precision), run in runs.items():
            difference = relative_error(run(), expected)
            # Of bfloat16 nothing is asked, as the weights are random.
            if precision == "fp32" and difference > tolerance("peer map", "fp32"):
                raise SystemExit(f"{name} in {runtime} differs by {difference:.1e} from PyTorch; nothing was timed")
        streamed = sum(network.get_buffer(one).numel() for one in STREAMED.get(name, ()))
        cases += _cases(name, runs, (counter.get_total_flops() / 2 / batch, streamed), point, alone)
    return cases
