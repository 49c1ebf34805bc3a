"""Everything that needs a GPU, in one command: `python -m bench.gpu --output bench/results`. Not yet run on one.

First the tests that run on a GPU, and compute-sanitizer over a small case where it is installed; if they fail, nothing
is timed. Then, interleaved, from uint8 pixels on the device to scores on the device: the CUDA engine at batches 1 and
32 and at stride 4, the same networks' dense pass in PyTorch compiled, EfficientAD-S compiled (to its map), and the
loop. A large matrix product and a large copy are the limits, from which the roofline of each engine follows by the
costs of its launches (`bench.harness.launch_costs`). The kernels are also timed alone, each with its share of its
roofline and of the matrix product's rate. The results are one JSON file, named by the device.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import triton
import typer
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

from bench.harness.environment import environment
from bench.harness.launch_costs import LaunchCost, launch_costs
from bench.peers.networks import PEER_NETWORKS
from bench.tune import TuneJob, tune_jobs
from glance_fast.backends.cuda_backend import DTYPES, CudaBackend
from glance_fast.config import ModelConfig
from glance_fast.dense.loop import LoopPass
from glance_fast.dense.torch_pass import DensePass
from glance_fast.dense.triton_pass import CONV_POOL_KERNEL
from glance_fast.kernels.gpu import conv_pool as triton_conv_pool
from glance_fast.kernels.gpu.configurations import override_options, tuned_tile_size
from glance_fast.kernels.gpu.tables import ENTRY_TILE
from glance_fast.models.model import GlanceModel
from glance_fast.presets import PRESETS
from glance_fast.storage.atomic_write import replace_file

TESTS = ("tests/dense/test_triton_pass.py", "tests/dense/test_triton_pipeline.py", "tests/bench/test_tune.py")
SANITIZERS = ("memcheck", "racecheck")
SIDE = 256
PRODUCT, COPY = "limit: matrix product, fp16, multiply-adds", "limit: copy, bytes read and written"


def main(
    output: Annotated[Path, typer.Option("--output", "-o", help="The JSON file goes there.")],
    turns: int = 50,
    small: Annotated[bool, typer.Option(help="A small case alone, for compute-sanitizer.")] = False,
) -> None:
    """Test, time, write."""
    if not torch.cuda.is_available():
        raise SystemExit("bench.gpu needs a CUDA device and there is none; on a CPU use bench.runtimes")
    if small:
        _small()
        return
    checks = {"tests": _tests(), **{tool: _sanitized(tool) for tool in SANITIZERS}}
    failed = [name for name, status in checks.items() if status == "failed"]
    if failed:
        raise SystemExit(f"{', '.join(failed)} failed on this GPU; nothing was timed")
    rows = measure(make_cases(), turns)
    device = torch.cuda.get_device_properties(0)
    recorded = {
        "device": device.name,
        "capability": f"{device.major}.{device.minor}",
        "memory": device.total_memory,
        "driver": _driver(),
        "cuda": torch.version.cuda,
        "triton": triton.__version__,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        **environment(),
    }
    name = device.name.lower().replace(" ", "-")
    path = output / f"gpu-{name}.json"
    replace_file(path, (json.dumps({**recorded, "checks": checks, "rows": rows}, indent=1) + "\n").encode())
    console = Console(width=120)
    for row in rows:
        figures = f"{row['p50_ms']:>10.3f} ms{row['per_second']:>12,.0f} per second"
        console.print(f"{row['name']:<60}{figures}", highlight=False)
    console.print(f"written: {path}")


@dataclass(frozen=True)
class GpuCase:
    """A run, its number of images (of a limit: multiply-adds or bytes), and the costs of its launches."""

    run: Callable[[], object]
    count: float
    costs: tuple[LaunchCost, ...] = ()


def make_cases() -> dict[str, GpuCase]:
    """All cases by name."""
    cases: dict[str, GpuCase] = {}
    for preset, batch, precision, stride in (
        *((preset, batch, precision, 8) for preset in PRESETS for batch in (1, 32) for precision in ("fp16", "fp32")),
        ("paper", 32, "fp16", 4),
    ):
        config = ModelConfig.model_validate({**PRESETS[preset]["model"], "stride": stride})
        net = _model(config)
        engine = CudaBackend(net, torch.device("cuda"), precision)
        costs = tuple(launch_costs(net, batch, DTYPES[precision].itemsize))
        name = f"{preset}, stride {stride}, CUDA engine, {precision}, batch {batch}"
        cases[name] = GpuCase(_engine(engine, batch), batch, costs)
    for preset in PRESETS:
        cases |= launches(preset, _model(ModelConfig.model_validate(PRESETS[preset]["model"])), 32)
    model = _model(ModelConfig())
    cases["paper, Global-Net, PyTorch compiled, fp16, batch 1"] = GpuCase(_compiled_dense(model), 1)
    cases["paper, Global-Net, the loop, fp16"] = _loop(model)
    for batch in (1, 32):
        cases[f"EfficientAD-S, PyTorch compiled, fp16, batch {batch}"] = GpuCase(_peer(batch), batch)
    square = torch.randn(8192, 8192, device="cuda", dtype=torch.float16)
    cases[PRODUCT] = GpuCase(lambda: square @ square, float(8192**3))
    long = torch.empty(1 << 28, device="cuda", dtype=torch.float32)
    there = torch.empty_like(long)
    cases[COPY] = GpuCase(lambda: there.copy_(long), 2.0 * long.numel() * 4)
    return cases


def launches(preset: str, model: GlanceModel, batch: int) -> dict[str, GpuCase]:
    """The kernels alone in float16, on a model's shapes; a layer's entries with the base that they start from.

    A convolution with its pooling is timed both in two launches and in one.
    """
    cases, device = dict[str, GpuCase](), str(next(model.parameters()).device)
    costs = {(cost.kernel, cost.channels): cost for cost in reversed(list(launch_costs(model, batch)))}
    for job in tune_jobs(model, batch, torch.float16, device):
        kernel, channels = job.key.kernel, job.key.channels
        name = "{}, {} {}→{}, fp16, batch {}".format(preset, kernel, *channels, batch)
        if kernel == CONV_POOL_KERNEL:
            cases[f"{name}, in two launches"] = GpuCase(partial(_configured, job, {}, ENTRY_TILE), batch)
            options = {"BLOCK_M": triton_conv_pool.POOLED_TILE}
            cases[f"{name}, in one"] = GpuCase(partial(_configured, job, options, triton_conv_pool.POOLED_TILE), batch)
        else:
            base = [costs["base_kernel", channels]] if kernel == "entries_kernel" else []
            tile_size = tuned_tile_size(job.key, ENTRY_TILE)
            cases[name] = GpuCase(partial(job.run, tile_size), batch, (*base, costs[kernel, channels]))
    return cases


def _configured(job: TuneJob, options: dict[str, int], tile_size: int) -> Tensor:
    with override_options(job.key, options):
        return job.run(tile_size)


def measure(cases: dict[str, GpuCase], turns: int) -> list[dict[str, Any]]:
    """Time all cases in turn by the device's clock; rows of cases with costs have their roofline by the two limits."""
    times: dict[str, list[float]] = {name: [] for name in cases}
    for turn in track(range(-3, turns), "Turns", console=Console(stderr=True), transient=True):
        for name, case in cases.items():
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            torch.cuda.synchronize()
            start.record()
            case.run()
            end.record()
            end.synchronize()
            if turn >= 0:
                times[name].append(start.elapsed_time(end))
    rows: list[dict[str, Any]] = []
    for name, case in cases.items():
        p50, p95 = (float(value) for value in np.percentile(times[name], [50, 95]))
        rows.append({"name": name, "p50_ms": p50, "p95_ms": p95, "per_second": case.count / p50 * 1e3, "turns": turns})
    rates = {row["name"]: row["per_second"] for row in rows}
    for row, case in zip(rows, cases.values(), strict=True):
        if case.costs:
            seconds = sum(cost.seconds(2 * rates[PRODUCT], rates[COPY]) for cost in case.costs)
            row |= {"roofline_ms": seconds * 1e3, "roofline_share": seconds * 1e3 / row["p50_ms"]}
            macs = sum(cost.macs for cost in case.costs)
            row["product_share"] = macs / row["p50_ms"] * 1e3 / rates[PRODUCT]
    return rows


def _model(config: ModelConfig) -> GlanceModel:
    torch.manual_seed(0)
    return GlanceModel(config).eval().requires_grad_(False).cuda()


def _pixels(batch: int) -> Tensor:
    return torch.randint(0, 256, (batch, SIDE, SIDE, 3), dtype=torch.uint8, device="cuda")


def _engine(engine: CudaBackend, batch: int) -> Callable[[], object]:
    images = list(_pixels(batch))
    return lambda: engine.grids(images)


def _compiled_dense(model: GlanceModel) -> Callable[[], object]:
    dense = DensePass(model.compile_plan(), "cuda", torch.float16)
    net = model.global_net.half()
    images = model.from_uint8(_pixels(1)).half().contiguous(memory_format=torch.channels_last)
    compiled = torch.compile(lambda batch: dense(net, batch))

    @torch.inference_mode()
    def run() -> object:
        return compiled(images)

    return run


def _loop(model: GlanceModel) -> GpuCase:
    """Sixteen of the locations, one per run of Global-Net; counted as a fraction of an image."""
    starts = [model.grid[0][i] for i in (0, 9, 18, 28)]
    rows = [model.grid[0].index(start) for start in starts]
    loop, net = LoopPass(model.compile_plan(rows, rows)), model.global_net.half()
    images = model.from_uint8(_pixels(1)).half().contiguous(memory_format=torch.channels_last)

    @torch.inference_mode()
    def run() -> object:
        return loop(net, images)

    return GpuCase(run, loop.plan.locations / model.compile_plan().locations)


def _peer(batch: int) -> Callable[[], object]:
    network: nn.Module = PEER_NETWORKS["EfficientAD-S"]().eval().half().cuda().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = torch.rand(batch, 3, SIDE, SIDE, device="cuda", dtype=torch.float16)
    images = images.contiguous(memory_format=torch.channels_last)
    compiled = torch.compile(network)

    @torch.inference_mode()
    def run() -> object:
        return compiled(images)

    return run


def _small() -> None:
    config = ModelConfig(image_size=(64, 72), patch=16, stride=8, global_channels=(8, 12, 16), features=16)
    for precision in DTYPES:
        engine = CudaBackend(_model(config), torch.device("cuda"), precision)
        engine.grids([torch.zeros(64, 72, 3, dtype=torch.uint8, device="cuda")])
    torch.cuda.synchronize()


def _tests() -> str:
    # Warnings of other versions of the libraries are no errors there.
    options = ("-q", "--benchmark-disable", "-W", "default")
    done = subprocess.run([sys.executable, "-m", "pytest", *options, *TESTS], check=False)
    return "failed" if done.returncode else "passed"


def _sanitized(tool: str) -> str:
    """compute-sanitizer over the small case; it exits with status 9 on an error."""
    program = shutil.which("compute-sanitizer")
    if program is None:
        return "not installed"
    small = [sys.executable, "-m", "bench.gpu", "--output", ".", "--small"]
    done = subprocess.run([program, "--tool", tool, "--error-exitcode", "9", *small], check=False)
    return "failed" if done.returncode else "passed"


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip().splitlines()[0]


if __name__ == "__main__":
    typer.run(main)
