"""The cases of `bench.runtimes`: our presets and the peers in every runtime, each verified before it is timed.

Every case ends at the anomaly map. Ours are `Engine.score` of a saved and exported model: from uint8 pixels to the map,
float32 [H, W] at the model's image size. Before they are timed the dense pass must give the loop's features at some
locations, and every runtime PyTorch's map, both within the tolerances. The peers run from float32 pixels to their map,
after the other runtimes have given PyTorch's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
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
    Runner,
    as_onnx,
    as_openvino,
    engine_runner,
    onnxruntime_runner,
    openvino_runner,
    precisions,
    random_model,
    save_model,
    torch_runner,
)
from bench.peers.networks import PEER_NETWORKS, SIZE
from glance_fast.backends.base import cpu_threads
from glance_fast.backends.tolerances import relative_error, tolerance
from glance_fast.backends.torch_backend import TorchBackend
from glance_fast.dense.loop import LoopPass
from glance_fast.export.export import export
from glance_fast.export.graph.dense_pass_node import MIN_KEYS
from glance_fast.models.model import GlanceModel
from glance_fast.plan.plan import refine_bands

# OpenVINO with our kernels for the dense pass.
OPENVINO_PLUGINS = "OpenVINO, plugins"
PRECISION_BYTES = {"fp32": 4, "bf16": 2}
# Buffers that a peer reads once per run, for one product each.
STREAMED_BUFFERS = {"PaDiM ResNet-18": ("mean", "inverse")}
# Locations per axis at which the loop is run, spread over the grid; each costs the same.
LOOP_SIDE = 3
OUR_PIXELS, PEER_PIXELS, MAP = "uint8 pixels", "float32 pixels", "anomaly map"

# A runtime and a precision.
CaseKey = tuple[str, str]


@dataclass(frozen=True)
class CaseCost:
    """Multiply-adds per image, and numbers that a run streams from memory."""

    macs: float
    streamed: float


def our_cases(preset: str, folder: Path, point: Point = BASE) -> list[Case]:
    """The shipped engine with every backend; models are saved to and exported in `folder`.

    Raises SystemExit where the dense pass is not the loop or a map is not PyTorch's.
    """
    model = random_model(preset, point)
    check_against_loop(TorchBackend(model))
    plain, plugins = (folder / f"{preset}-{point.size}-{point.stride}{kind}" for kind in ("", "-plugins"))
    for path in (plain, plugins):
        if not path.exists():
            _export(model, path, path == plugins)
    images = np.random.default_rng(0).integers(0, 256, (point.batch, *model.config.image_size, 3), np.uint8)
    keys = {("PyTorch", "fp32"): (plain, "torch"), ("ONNX Runtime", "fp32"): (plain, "onnxruntime")}
    for runtime, path in (("OpenVINO", plain), (OPENVINO_PLUGINS, plugins)):
        keys |= {(runtime, precision): (path, "openvino") for precision in precisions()}
    runs = {key: engine_runner(path, backend, key[1], images) for key, (path, backend) in keys.items()}
    _check_maps(preset, point, runs)
    memory_args = {
        key: (f"our-{backend}", str(path), key[1], str(cpu_threads()), str(point.batch))
        for key, (path, backend) in keys.items()
    }
    return _as_cases(preset, point, runs, _our_costs(model), memory_args)


def _export(model: GlanceModel, path: Path, plugins: bool) -> None:
    save_model(model, path)
    for precision in precisions():
        export(path, "openvino", precision, plugins=plugins)
    if not plugins:
        export(path, "onnx")


def _check_maps(preset: str, point: Point, runs: Mapping[CaseKey, Runner]) -> None:
    """Raises SystemExit where a runtime's map is not PyTorch's."""
    expected = runs["PyTorch", "fp32"]()
    for (runtime, precision), run in runs.items():
        difference = relative_error(run(), expected)
        if difference > tolerance("output", precision):
            raise SystemExit(
                f"{preset} in {runtime} at {precision}, {point}, differs by {difference:.1e}; nothing was timed"
            )


def _our_costs(model: GlanceModel) -> dict[str, CaseCost]:
    """The cost of our model in each runtime."""
    streamed = 0 if model.whitening is None else model.whitening.lower().numel() // 2
    layer_by_layer = TorchBackend(model).dense.plan.macs + model.local_macs
    by_kernels = refine_bands(model.compile_plan(), MIN_KEYS).macs + model.local_macs
    return {
        **dict.fromkeys(("PyTorch", "ONNX Runtime", "OpenVINO"), CaseCost(layer_by_layer, streamed)),
        OPENVINO_PLUGINS: CaseCost(by_kernels, streamed),
    }


def _as_cases(
    method: str,
    point: Point,
    runs: Mapping[CaseKey, Runner],
    costs: Mapping[str, CaseCost],
    memory_args: Mapping[CaseKey, tuple[str, ...]],
) -> list[Case]:
    """One case per run; `costs` are those of each runtime."""
    cases = []
    for (runtime, precision), run in runs.items():
        cost = costs[runtime]
        cases.append(
            Case(
                method,
                runtime,
                precision,
                run,
                cost.macs,
                streamed_bytes=PRECISION_BYTES[precision] * cost.streamed,
                point=point,
                starts_at=PEER_PIXELS if method in PEER_NETWORKS else OUR_PIXELS,
                ends_at=MAP,
                memory_args=memory_args.get((runtime, precision)),
            )
        )
    return cases


def loop_cases(presets: Iterable[str], point: Point = BASE) -> list[Case]:
    """Global-Net at some locations of one image: one masked map per run, channels-last, its best form (`bench.speed`).

    Global-Net's input is computed once and not per location, which favours the loop where it is a teacher's map.
    """
    return [_loop_case(preset, replace(point, batch=1)) for preset in presets]


def _loop_case(preset: str, point: Point) -> Case:
    model = random_model(preset, point)
    plan, loop = model.compile_plan(), LoopPass(model.compile_plan(*spread_indices(model, LOOP_SIDE)))
    with torch.inference_mode():
        feature_map = _global_input(model, _random_image(model))
    net = model.global_net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.inference_mode()
    def run() -> object:
        return loop(net, feature_map)

    return Case(
        preset,
        "loop, PyTorch",
        "fp32",
        run,
        plan.loop_macs,
        repeats=plan.locations / loop.plan.locations,
        point=point,
        starts_at="Global-Net's input",
        ends_at="Global-Net's features",
    )


@torch.inference_mode()
def check_against_loop(backend: TorchBackend, side: int = LOOP_SIDE) -> None:
    """Raises SystemExit where the dense pass is not the loop at `side` times `side` locations of an image."""
    model, image = backend.model, _random_image(backend.model)
    rows, cols = spread_indices(model, side)
    locations = np.add.outer(np.array(rows) * len(model.grid[1]), cols).ravel()
    dense = backend.dense.features(model, image)[1][:, locations]
    loop = LoopPass(model.compile_plan(rows, cols))
    difference = relative_error(dense, loop(model.global_net, _global_input(model, image)))
    if difference > tolerance("output", "fp32"):
        raise SystemExit(f"the dense pass differs from the loop by {difference:.1e}; nothing was timed")


def _random_image(model: GlanceModel) -> torch.Tensor:
    """A random image in the networks' range."""
    return model.from_uint8(torch.randint(0, 256, (1, *model.config.image_size, 3), dtype=torch.uint8))


def _global_input(model: GlanceModel, image: torch.Tensor) -> torch.Tensor:
    """Global-Net's input: the image, or the teacher's feature map of it."""
    return model.cropped(model.local_net.feature_map(model.padded(image)))


def spread_indices(model: GlanceModel, side: int) -> tuple[list[int], list[int]]:
    """Indices of `side` rows and `side` columns of the grid, with the first and the last."""
    rows, cols = ([i * (len(starts) - 1) // (side - 1) for i in range(side)] for starts in model.grid)
    return rows, cols


def peer_cases(names: Iterable[str], folder: Path, batch: int = 1) -> list[Case]:
    """The peers of these names in every runtime, at the one image size that they are published for.

    Their files are written to `folder`. Raises SystemExit where a runtime's map is not PyTorch's.
    """
    cases, point, threads = [], Point(SIZE, batch=batch), cpu_threads()
    for name in names:
        network, images = PEER_NETWORKS[name]().eval(), torch.rand(batch, 3, SIZE, SIZE)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            expected = network(images).numpy()
        file, graph, pixels = as_onnx(network, images), as_openvino(network, images), images.numpy()
        runs = {("ONNX Runtime", "fp32"): onnxruntime_runner(file, pixels, threads)}
        runs |= {
            ("OpenVINO", precision): openvino_runner(graph, pixels, precision, threads) for precision in precisions()
        }
        runs["PyTorch", "fp32"] = torch_runner(network, images)
        for (runtime, precision), run in runs.items():
            difference = relative_error(run(), expected)
            # Not compared in bfloat16, as the weights are random.
            if precision == "fp32" and difference > tolerance("peer map", "fp32"):
                raise SystemExit(f"{name} in {runtime} differs by {difference:.1e} from PyTorch; nothing was timed")
        streamed = sum(network.get_buffer(buffer).numel() for buffer in STREAMED_BUFFERS.get(name, ()))
        cost = CaseCost(counter.get_total_flops() / 2 / batch, float(streamed))
        memory_args = _peer_memory_args(name, folder, batch, file, graph)
        cases += _as_cases(name, point, runs, dict.fromkeys([key[0] for key in runs], cost), memory_args)
    return cases


def _peer_memory_args(name: str, folder: Path, batch: int, file: bytes, graph: Any) -> dict[CaseKey, tuple[str, ...]]:
    """Write a peer's ONNX file and OpenVINO graph; return what runs it in a process of its own, by runtime."""
    stem = f"{name.replace(' ', '-')}-{batch}"
    onnx_file, xml_file = folder / f"{stem}.onnx", folder / f"{stem}.xml"
    onnx_file.write_bytes(file)
    openvino.save_model(graph, xml_file, compress_to_fp16=False)
    last = (str(cpu_threads()), str(batch))
    arguments: dict[CaseKey, tuple[str, ...]] = {
        ("OpenVINO", precision): ("peer-openvino", str(xml_file), precision, *last) for precision in PRECISIONS
    }
    arguments["ONNX Runtime", "fp32"] = ("peer-onnxruntime", str(onnx_file), "fp32", *last)
    arguments["PyTorch", "fp32"] = ("peer-torch", f"{name},{SIZE}", "fp32", *last)
    return arguments
