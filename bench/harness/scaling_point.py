"""One point of `bench.scaling` in a process of its own, so that its memory is its own; it prints JSON.

    python -m bench.harness.scaling_point pytorch SIDE STRIDE PATCH BATCH THREADS RUNS
    python -m bench.harness.scaling_point export  SIDE STRIDE PATCH BATCH THREADS RUNS FILE.xml
    python -m bench.harness.scaling_point openvino SIDE STRIDE PATCH BATCH THREADS RUNS FILE.xml

`pytorch` times the dense pass and tells what its plan says; `export` writes the graph, and beside it the dense pass's
scores, and tells that too; `openvino`, which imports no PyTorch, times the graph. Nothing is printed where the dense
pass is not the loop, or the graph not the dense pass: that is looked at last, as a loop holds more memory.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from glance_fast.commands.peak_memory import peak_rss

if TYPE_CHECKING:
    from glance_fast.backends.torch_backend import TorchBackend

# Beyond this side the loop is run at fewer locations, as each takes seconds.
LARGE = 1024


@dataclass(frozen=True)
class Setting:
    """What a point is: sides and distances in pixels, images a run, and how often it is run."""

    side: int
    stride: int
    patch: int
    batch: int
    threads: int
    runs: int

    @property
    def images(self) -> NDArray[np.uint8]:
        return np.random.default_rng(0).integers(0, 256, (self.batch, self.side, self.side, 3), np.uint8)


def pytorch(setting: Setting) -> dict[str, Any]:
    """Seconds an image and bytes of the dense pass, in strips where an image is large; and what its plans say."""
    from bench.harness.cases import check_loop

    model, before = _model(setting), peak_rss()
    backend = _backend(model)
    images = [*setting.images]
    told = _timed(lambda: backend.grids(images), setting, before)
    check_loop(backend, 2 if setting.side > LARGE else 3)
    return {**told, **_facts(backend, [*backend.dense.plans])}


def export(setting: Setting, graph: Path) -> dict[str, Any]:
    """Write the graph and what PyTorch says of the images; tell what the plan says."""
    import openvino

    from bench.harness.cases import CALIBRATION, check_loop
    from glance_fast.export.graph.pipeline import export_onnx

    model = _model(setting)
    backend = _backend(model)
    check_loop(backend)
    np.save(_beside(graph), np.stack([grid.numpy() for grid in backend.grids([*setting.images])]))
    read = openvino.Core().read_model(export_onnx(model, CALIBRATION).SerializeToString())
    openvino.save_model(read, graph, compress_to_fp16=False)
    return _facts(backend, [model.compile_plan()])


def in_graph(setting: Setting, graph: Path) -> dict[str, Any]:
    """Seconds an image and bytes of the graph."""
    import openvino

    from bench.harness.runners import in_openvino
    from glance_fast.evaluation.tolerances import relative_error, tolerance

    expected, before = np.load(_beside(graph), allow_pickle=False), peak_rss()
    read = openvino.Core().read_model(graph)
    run = in_openvino(read, setting.images, "fp32", setting.threads, "anomaly_grid")
    told = _timed(run, setting, before)
    if (difference := relative_error(run(), expected)) > tolerance("output", "fp32"):
        raise SystemExit(f"the graph differs from the dense pass by {difference:.1e}; nothing was timed")
    return told


def _model(setting: Setting) -> Any:
    import torch

    from glance_fast.config import ModelConfig
    from glance_fast.models.model import GlanceModel

    torch.set_num_threads(setting.threads)
    torch.manual_seed(0)
    sides = (setting.side, setting.side)
    config = ModelConfig(image_size=sides, stride=setting.stride, patch=setting.patch)
    return GlanceModel(config).eval().requires_grad_(False)


def _backend(model: Any) -> TorchBackend:
    from glance_fast.backends.torch_backend import TorchBackend

    return TorchBackend(model)


def _beside(graph: Path) -> Path:
    return graph.with_suffix(".npy")


def _timed(run: Callable[[], object], setting: Setting, before: int | None) -> dict[str, Any]:
    """Seconds an image of each run after the first, and the bytes held beyond `before`."""
    seconds = []
    for turn in range(setting.runs + 1):
        start = time.perf_counter()
        run()
        if turn:
            seconds.append((time.perf_counter() - start) / setting.batch)
    return {"seconds": seconds, "memory": (peak_rss() or 0) - (before or 0)}


def _facts(backend: TorchBackend, plans: list[Any]) -> dict[str, int]:
    from glance_fast.plan.plan import refine_bands

    model, whole = backend.model, backend.dense.plan
    # Both runtimes split what they run.
    macs = sum(refine_bands(plan).macs for plan in plans) + model.local_macs
    peaks = {"plan_peak": max(plan.peak_bytes for plan in plans), "whole_peak": whole.peak_bytes}
    return {"locations": whole.locations, "macs": macs, **peaks, "strips": len(plans)}


def main(what: str, *arguments: str) -> None:
    """Run the point and print what it tells."""
    setting = Setting(*map(int, arguments[:6]))
    if what == "pytorch":
        told = pytorch(setting)
    else:
        told = {"export": export, "openvino": in_graph}[what](setting, Path(arguments[6]))
    print(json.dumps(told))


if __name__ == "__main__":
    main(*sys.argv[1:])
