"""One point of `bench.scaling` in a process of its own, so that its memory is its own; it prints JSON.

    python -m bench.harness.scaling_point pytorch SIDE STRIDE PATCH BATCH THREADS RUNS FOLDER
    python -m bench.harness.scaling_point export  SIDE STRIDE PATCH BATCH THREADS RUNS FOLDER
    python -m bench.harness.scaling_point openvino SIDE STRIDE PATCH BATCH THREADS RUNS FOLDER

`pytorch` writes the model to FOLDER and times `Engine.score` with the dense pass; `export` writes the model, its export
and PyTorch's maps; `openvino`, which imports no PyTorch, times `Engine.score` with the export. The first two also print
the plan's figures. Nothing is printed where the dense pass differs from the loop, or the export's maps from the dense
pass: that is checked last, as the loop holds more memory.
"""

from __future__ import annotations

import json
import os
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
    from glance_fast.engine import Engine

# Beyond this side the loop is run at fewer locations, as each takes seconds.
LARGE = 1024


@dataclass(frozen=True)
class Setting:
    """A point: sides and distances in pixels, images per run, and how often it is run."""

    side: int
    stride: int
    patch: int
    batch: int
    threads: int
    runs: int

    @property
    def images(self) -> NDArray[np.uint8]:
        return np.random.default_rng(0).integers(0, 256, (self.batch, self.side, self.side, 3), np.uint8)


def pytorch(setting: Setting, folder: Path) -> dict[str, Any]:
    """Seconds per image and bytes of the dense pass, in strips where an image is large; and its plans' figures."""
    from bench.harness.cases import check_against_loop

    model = _model(setting, folder)
    before = peak_rss()
    engine, backend = _torch_engine(model, folder)
    timing = _timing(lambda: engine.score([*setting.images]), setting, before)
    check_against_loop(backend, 2 if setting.side > LARGE else 3)
    return {**timing, **_plan_figures(backend, [*backend.dense.plans])}


def export(setting: Setting, folder: Path) -> dict[str, Any]:
    """Write the model, its export and PyTorch's maps of the images; return the plan's figures."""
    from bench.harness.cases import check_against_loop
    from glance_fast.export.export import export as export_model

    model = _model(setting, folder)
    engine, backend = _torch_engine(model, folder)
    check_against_loop(backend)
    np.save(_maps_file(folder), np.stack([result.map for result in engine.score([*setting.images])]))
    export_model(folder, "openvino")
    return _plan_figures(backend, [model.compile_plan()])


def openvino(setting: Setting, folder: Path) -> dict[str, Any]:
    """Seconds per image and bytes of the exported model."""
    from glance_fast.backends.tolerances import relative_error, tolerance
    from glance_fast.engine import Engine

    expected, before = np.load(_maps_file(folder), allow_pickle=False), peak_rss()
    engine = Engine.load(folder, "openvino")
    timing = _timing(lambda: engine.score([*setting.images]), setting, before)
    maps = np.stack([result.map for result in engine.score([*setting.images])])
    if (difference := relative_error(maps, expected)) > tolerance("output", "fp32"):
        raise SystemExit(f"the graph differs from the dense pass by {difference:.1e}; nothing was timed")
    return timing


def _model(setting: Setting, folder: Path) -> Any:
    """The preset `paper` with random weights, also written to `folder`."""
    import torch

    from bench.harness.runners import save_model
    from glance_fast.config import ModelConfig
    from glance_fast.models.model import GlanceModel

    torch.set_num_threads(setting.threads)
    torch.manual_seed(0)
    sides = (setting.side, setting.side)
    config = ModelConfig(image_size=sides, stride=setting.stride, patch=setting.patch)
    model = GlanceModel(config).eval().requires_grad_(False)
    save_model(model, folder)
    return model


def _torch_engine(model: Any, folder: Path) -> tuple[Engine, TorchBackend]:
    from glance_fast.backends.torch_backend import TorchBackend
    from glance_fast.engine import Engine
    from glance_fast.storage.model_folder import read_model

    backend = TorchBackend(model)
    return Engine(read_model(folder), backend), backend


def _maps_file(folder: Path) -> Path:
    return folder.with_suffix(".npy")


def _timing(run: Callable[[], object], setting: Setting, before: int | None) -> dict[str, Any]:
    """Seconds per image of each run after the first, and the bytes held beyond `before`."""
    seconds = []
    for turn in range(setting.runs + 1):
        start = time.perf_counter()
        run()
        if turn:
            seconds.append((time.perf_counter() - start) / setting.batch)
    return {"seconds": seconds, "memory": (peak_rss() or 0) - (before or 0)}


def _plan_figures(backend: TorchBackend, plans: list[Any]) -> dict[str, int]:
    from glance_fast.plan.plan import refine_bands

    model, whole = backend.model, backend.dense.plan
    # Both runtimes run plans that are refined for a CPU.
    macs = sum(refine_bands(plan).macs for plan in plans) + model.local_macs
    peaks = {"plan_peak": max(plan.peak_bytes for plan in plans), "whole_peak": whole.peak_bytes}
    return {"locations": whole.locations, "macs": macs, **peaks, "strips": len(plans)}


def _pin(threads: int) -> None:
    """Leave this process as many cores as it may have threads: the product's backends take one thread per core."""
    if sys.platform == "linux":
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


MODES = {"pytorch": pytorch, "export": export, "openvino": openvino}


def main(mode: str, *arguments: str) -> None:
    """Run the point and print its figures."""
    setting = Setting(*map(int, arguments[:6]))
    print(json.dumps(MODES[mode](setting, Path(arguments[6]))))


if __name__ == "__main__":
    _pin(int(sys.argv[6]))
    main(*sys.argv[1:])
