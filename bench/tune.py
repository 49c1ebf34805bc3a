"""Find the fastest configurations of the kernels on this GPU: `python -m bench.tune`. Not yet run on one.

For each layer of a preset, and for its heads, it times the configurations below on the layer's shapes, each after its
result was compared with that of the default configuration, and adds the fastest to `kernels/gpu/configurations.json`:
the device, the kernel, the channels and the dtype, with both times and the gain. A layer's entries are timed with its
base, which they start from. A convolution fused with its pooling is compared with the two launches, and used where the
table has a row for it.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import track
from torch import Tensor

from glance_fast.backends.tolerances import relative_error, tolerance
from glance_fast.config import ModelConfig
from glance_fast.dense.triton_heads import head_weights
from glance_fast.dense.triton_pass import CONV_POOL_KERNEL, level_tables, pack_conv
from glance_fast.errors import GlanceError
from glance_fast.kernels.gpu import configurations, ops
from glance_fast.kernels.gpu.configurations import TuningKey, tuned_options, tuned_tile_size, tuning_key
from glance_fast.kernels.gpu.tables import ENTRY_TILE
from glance_fast.models.model import GlanceModel
from glance_fast.plan.patches import IMAGE
from glance_fast.plan.step import Step
from glance_fast.presets import DEFAULT, PRESETS
from glance_fast.storage.atomic_write import replace_file

# Values of each kernel's options; all combinations are timed.
CHOICES: dict[str, dict[str, tuple[int, ...]]] = {
    "base_kernel": {"BLOCK_M": (64, 128), "BLOCK_N": (32, 64), "BLOCK_K": (16, 32, 64), "num_warps": (4, 8, 16)},
    "entries_kernel": {"BLOCK_M": (64, 128), "BLOCK_N": (32, 64), "BLOCK_K": (16, 32), "num_warps": (4, 8, 16)},
    "pooled_entries_kernel": {"BLOCK_M": (32, 64), "BLOCK_N": (32, 64), "BLOCK_K": (16, 32), "num_warps": (4, 8)},
    "pool_kernel": {"BLOCK_M": (32, 64), "BLOCK_N": (16, 32, 64), "num_warps": (2, 4, 8)},
    "score_kernel": {"BLOCK_K": (16, 32), "num_warps": (2, 4, 8), "num_stages": (1, 2, 3)},
}
# Less is noise and not worth a row.
MIN_GAIN = 1.03
# Milliseconds of a run.
Clock = Callable[[Callable[[], object]], float]


@dataclass(frozen=True)
class TuneJob:
    """A launch to be tuned; `run(tile_size)` computes it with tiles of `tile_size` entries and returns its result.

    `tf32`: its float32 products are computed in tf32, which another order of sums changes by more than rounding.
    """

    key: TuningKey
    run: Callable[[int], Tensor]
    tf32: bool = False

    @property
    def tolerance(self) -> float:
        """Largest allowed difference of two configurations, relative to the largest value."""
        precision = {"float16": "fp16", "bfloat16": "bf16"}.get(self.key.dtype, "tf32" if self.tf32 else "fp32")
        return tolerance("kernel", precision)


def main(
    output: Annotated[Path, typer.Option("--output", "-o", help="The table to add to.")] = configurations.FILE,
    preset: Annotated[str, typer.Option(help="The preset whose layers are tuned.")] = DEFAULT,
    batch: Annotated[int, typer.Option(help="Images per launch.", min=1)] = 1,
    precision: Annotated[str, typer.Option(help="fp16, bf16 or fp32.")] = "fp16",
) -> None:
    """Tune one preset's kernels and add the faster configurations to the table."""
    if not torch.cuda.is_available():
        raise SystemExit("bench.tune needs a CUDA device and there is none")
    from triton.testing import do_bench

    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}[precision]
    model = GlanceModel(ModelConfig.model_validate(PRESETS[preset]["model"])).eval()
    console = Console(stderr=True)
    rows = tune(
        track(list(tune_jobs(model, batch, dtype, "cuda")), "Kernels", console=console, transient=True), do_bench
    )
    for row in rows:
        print(json.dumps(row))
    merge(output, rows)


def tune_jobs(model: GlanceModel, batch: int, dtype: torch.dtype, device: str) -> Iterator[TuneJob]:
    """Every kind of launch of a model that the table may have a row for, once; random values, the model's shapes."""
    by_key: dict[TuningKey, TuneJob] = {}
    steps, convs = model.compile_plan().steps, iter(model.global_net.convs)
    weights = [pack_conv(next(convs), device, dtype) if step.layer.kind == "conv" else () for step in steps]
    fused: list[TuneJob] = []
    for i, step in enumerate(steps):
        base, below = _values(step, batch, dtype, device)
        if not weights[i]:
            jobs = [*_pool_jobs(step, base, below)]
        # A first layer on pixels has a kernel of its own.
        elif i or model.local_net.feature_map_spec != IMAGE:
            jobs = [*_conv_jobs(step, weights[i], base, below)]
            # The first layer is never fused.
            fused += _fused_jobs(steps[i:], weights[i], base, below) if i else []
        else:
            jobs = []
        by_key = {job.key: job for job in jobs} | by_key
    yield from by_key.values()
    yield _score_job(model, batch, device, "ieee" if dtype == torch.float32 else "tf32")
    # Last, so that the two launches which they are compared with are tuned by then.
    yield from {job.key: job for job in reversed(fused)}.values()


def tune(jobs: Iterable[TuneJob], clock: Clock) -> list[dict[str, Any]]:
    """The rows of all launches; a launch's fastest configuration is in use while the next launches are tuned."""
    rows = []
    with ExitStack() as in_use:
        for job in jobs:
            for row in tuned(job, clock):
                in_use.enter_context(configurations.override_options(job.key, row["options"]))
                rows.append(row)
    return rows


def tuned(job: TuneJob, clock: Clock) -> list[dict[str, Any]]:
    """The row of a launch's fastest configuration; empty where the default one is as fast."""
    with configurations.override_options(job.key, {}):
        expected, default_ms = job.run(ENTRY_TILE), clock(partial(job.run, ENTRY_TILE))
    best: tuple[float, dict[str, int]] = (default_ms, {})
    for options in candidates(job.key.kernel):
        with configurations.override_options(job.key, options):
            tile_size = options.get("BLOCK_M", ENTRY_TILE)
            if not _runs(job, tile_size, expected):
                continue
            best = min(best, (clock(partial(job.run, tile_size)), options), key=lambda timed: timed[0])
    gain = default_ms / best[0]
    if gain < MIN_GAIN:
        return []
    key = asdict(job.key) | {"channels": list(job.key.channels), "options": best[1]}
    return [{**key, "ms": round(best[0], 5), "default_ms": round(default_ms, 5), "gain": round(gain, 3)}]


def candidates(kernel: str) -> Iterator[dict[str, int]]:
    """All configurations of a kernel that are timed."""
    names, values = zip(*CHOICES[kernel].items(), strict=True)
    for combination in itertools.product(*values):
        yield dict(zip(names, combination, strict=True))


def merge(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Add rows to a table; a row replaces the one with the same key."""

    def key_of(row: Mapping[str, Any]) -> tuple[Any, ...]:
        return row["device"], row["kernel"], *row["channels"], row["dtype"]

    existing = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    merged = {key_of(row): row for row in [*existing, *rows]}
    lines = ",\n".join(json.dumps(merged[key]) for key in sorted(merged))
    text = f"[\n{lines}\n]\n" if lines else "[]\n"
    configurations.parse(text)
    replace_file(path, text.encode())


def _runs(job: TuneJob, tile_size: int, expected: Tensor) -> bool:
    """Whether a configuration compiles, fits the device and gives the expected result except for rounding."""
    try:
        return relative_error(job.run(tile_size), expected) <= job.tolerance
    except (RuntimeError, GlanceError):  # Triton: too much shared memory, too many registers
        return False


def _conv_jobs(step: Step, weights: tuple[Tensor, ...], base: Tensor, below: Tensor) -> Iterator[TuneJob]:
    tables = cache(partial(level_tables, step, base.device))

    def run(tile_size: int, entries: int) -> tuple[Tensor, Tensor]:
        table = tables(tile_size)
        outputs = ops.partial_conv(base, below, *weights, table.tensors(), entries, table.tile_size, True, "ieee")
        return outputs[0], outputs[1]

    # The base has no tables, so `tile_size` does not matter to it; without entries it runs alone.
    yield TuneJob(
        tuning_key("base_kernel", step.channels, base.device, base.dtype), lambda tile_size: run(ENTRY_TILE, 0)[0]
    )
    if step.table.entries:
        key = tuning_key("entries_kernel", step.channels, base.device, base.dtype)
        yield TuneJob(key, lambda tile_size: run(tile_size, step.table.entries)[1])


def _fused_jobs(steps: Sequence[Step], weights: tuple[Tensor, ...], base: Tensor, below: Tensor) -> Iterator[TuneJob]:
    """A convolution and its pooling: two launches where the table has no row for them, one where it has one."""
    if [step.layer.kind for step in steps[:2]] != ["conv", "pool"] or not steps[1].table.entries:
        return
    key = tuning_key(CONV_POOL_KERNEL, steps[0].channels, base.device, base.dtype)
    of_conv, of_pool = (cache(partial(level_tables, step, base.device)) for step in steps[:2])
    size = steps[1].layer.kernel

    def tile_size_for(kernel: str, step: Step) -> int:
        return tuned_tile_size(tuning_key(kernel, step.channels, base.device, base.dtype), ENTRY_TILE)

    def run(tile_size: int) -> Tensor:
        if tuned_options(key):
            conv, pool = of_conv(ENTRY_TILE), of_pool(tile_size)
            outputs = ops.conv_pool(
                base, below, *weights, conv.tensors(), size, pool.tensors(), pool.entries, pool.tile_size, True, "ieee",
            )  # fmt: skip
        else:
            conv = of_conv(tile_size_for("entries_kernel", steps[0]))
            pool = of_pool(tile_size_for("pool_kernel", steps[1]))
            levels = ops.partial_conv(
                base, below, *weights, conv.tensors(), conv.entries, conv.tile_size, False, "ieee"
            )
            outputs = ops.max_pool(*levels, size, pool.tensors(), pool.entries, pool.tile_size, True)
        entries: Tensor = outputs[1]
        return entries

    yield TuneJob(key, run)


def _pool_jobs(step: Step, base: Tensor, below: Tensor) -> Iterator[TuneJob]:
    tables = cache(partial(level_tables, step, base.device))

    def run(tile_size: int) -> Tensor:
        table = tables(tile_size)
        outputs = ops.max_pool(base, below, step.layer.kernel, table.tensors(), table.entries, table.tile_size, True)
        entries: Tensor = outputs[1]
        return entries

    if step.table.entries:
        yield TuneJob(tuning_key("pool_kernel", step.channels, base.device, base.dtype), run)


def _score_job(model: GlanceModel, batch: int, device: str, precision: str) -> TuneJob:
    rows, cols = model.grid
    n, total = model.config.features, model.config.features + model.config.context_features
    z_local, z_global = (torch.randn(batch, len(rows) * len(cols), size, device=device) for size in (total, n))
    weights = head_weights(model, device).tensors()
    key = tuning_key("score_kernel", (total, model.config.dad_width), device, z_local.dtype)
    return TuneJob(key, lambda tile_size: ops.score(z_local, z_global, weights, precision), precision == "tf32")


def _values(step: Step, batch: int, dtype: torch.dtype, device: str) -> tuple[Tensor, Tensor]:
    """Random values of the level below: its base and its entries."""
    shape = (batch, *step.below.base_shape, step.channels_in)
    entries = (batch, step.below.entries, step.channels_in)
    return torch.randn(shape, device=device).to(dtype), torch.randn(entries, device=device).to(dtype)


if __name__ == "__main__":
    typer.run(main)
