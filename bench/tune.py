"""Which configurations of the kernels are fastest on this GPU: `python -m bench.tune`. No GPU was at hand: not yet run.

For each layer of a preset, and for its heads, it tries the configurations below on the layer's own shapes, each only
once it gave what the one that fits everywhere gives, and adds the fastest to `kernels/configurations.json`: the device,
the kernel, the channels and the dtype, with both times and the gain. A layer's entries are timed with its base, which
they start from.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import track
from torch import Tensor

from glance_fast.config import ModelConfig
from glance_fast.dense_triton import BLOCK, level_tables, packed
from glance_fast.errors import GlanceError
from glance_fast.files import replace_file
from glance_fast.heads_triton import head_weights
from glance_fast.kernels import configurations, ops
from glance_fast.kernels.configurations import Place, place_of
from glance_fast.nets.model import GlanceModel
from glance_fast.plan import Step
from glance_fast.presets import DEFAULT, PRESETS

# What is tried of each kernel: all combinations.
CHOICES: dict[str, dict[str, tuple[int, ...]]] = {
    "base_kernel": {"BLOCK_M": (64, 128), "BLOCK_N": (32, 64), "BLOCK_K": (16, 32, 64), "num_warps": (4, 8)},
    "entries_kernel": {"BLOCK_M": (64, 128), "BLOCK_N": (32, 64), "BLOCK_K": (16, 32), "num_warps": (4, 8)},
    "pool_kernel": {"BLOCK_M": (32, 64), "BLOCK_N": (16, 32, 64), "num_warps": (2, 4, 8)},
    "score_kernel": {"BLOCK_K": (16, 32), "num_warps": (2, 4, 8), "num_stages": (1, 2, 3)},
}
# Less is noise and not worth a row.
LEAST_GAIN = 1.03
Clock = Callable[[Callable[[], object]], float]


@dataclass(frozen=True)
class Job:
    """A launch to be tuned: what runs it, with tiles of so many entries, and gives what it computed."""

    place: Place
    run: Callable[[int], Tensor]


def main(
    output: Annotated[Path, typer.Option("--output", "-o", help="The table to add to.")] = configurations.FILE,
    preset: Annotated[str, typer.Option(help="Whose layers.")] = DEFAULT,
    batch: Annotated[int, typer.Option(help="Images a launch.", min=1)] = 1,
    precision: Annotated[str, typer.Option(help="fp16, bf16 or fp32.")] = "fp16",
) -> None:
    """Tune one preset's kernels and add what is faster to the table."""
    if not torch.cuda.is_available():
        raise SystemExit("bench.tune needs a CUDA device and there is none")
    from triton.testing import do_bench

    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}[precision]
    model = GlanceModel(ModelConfig.model_validate(PRESETS[preset]["model"])).eval()
    console = Console(stderr=True)
    rows = []
    for job in track(list(jobs(model, batch, dtype, "cuda")), "Kernels", console=console, transient=True):
        rows += tuned(job, do_bench)
    for row in rows:
        print(json.dumps(row))
    merge(output, rows)


def jobs(model: GlanceModel, batch: int, dtype: torch.dtype, device: str) -> Iterator[Job]:
    """Every kind of launch of a model, once; random values, the model's own shapes."""
    seen: set[Place] = set()
    convs = iter(model.global_net.convs)
    for step in model.plan().steps:
        base, below = _values(step, batch, dtype, device)
        conv = next(convs) if step.layer.kind == "conv" else None
        for job in _pool_jobs(step, base, below) if conv is None else _conv_jobs(step, conv, base, below):
            if job.place not in seen:
                seen.add(job.place)
                yield job
    yield _score_job(model, batch, device, "ieee" if dtype == torch.float32 else "tf32")


def tuned(job: Job, clock: Clock) -> list[dict[str, Any]]:
    """The row of a launch's fastest configuration; none where that which fits everywhere is as fast."""
    with configurations.trying(job.place, {}):
        expected, default_ms = job.run(BLOCK), clock(partial(job.run, BLOCK))
    best: tuple[float, dict[str, int]] = (default_ms, {})
    for options in candidates(job.place.kernel):
        with configurations.trying(job.place, options):
            block = options.get("BLOCK_M", BLOCK)
            if not _runs(job, block, expected):
                continue
            best = min(best, (clock(partial(job.run, block)), options), key=lambda one: one[0])
    gain = default_ms / best[0]
    if gain < LEAST_GAIN:
        return []
    where = asdict(job.place) | {"channels": list(job.place.channels), "options": best[1]}
    return [{**where, "ms": round(best[0], 5), "default_ms": round(default_ms, 5), "gain": round(gain, 3)}]


def candidates(kernel: str) -> Iterator[dict[str, int]]:
    """All configurations that are tried of a kernel."""
    names, values = zip(*CHOICES[kernel].items(), strict=True)
    for chosen in itertools.product(*values):
        yield dict(zip(names, chosen, strict=True))


def merge(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Add rows to a table; a row for the same place takes the other's."""

    def place(row: Mapping[str, Any]) -> tuple[Any, ...]:
        return row["device"], row["kernel"], *row["channels"], row["dtype"]

    held = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    kept = {place(row): row for row in [*held, *rows]}
    lines = ",\n".join(json.dumps(kept[key]) for key in sorted(kept))
    text = f"[\n{lines}\n]\n" if lines else "[]\n"
    configurations.read(text)
    replace_file(path, text.encode())


def _runs(job: Job, block: int, expected: Tensor) -> bool:
    """Whether a configuration compiles, fits the device and gives the same but for rounding."""
    try:
        found = job.run(block)
    except (RuntimeError, GlanceError):  # Triton: too much shared memory, too many registers
        return False
    apart = (found.float() - expected.float()).abs().max() / expected.float().abs().max().clamp(min=1e-6)
    return bool(apart <= (2e-2 if expected.dtype != torch.float32 else 1e-3))


def _conv_jobs(step: Step, conv: torch.nn.Module, base: Tensor, below: Tensor) -> Iterator[Job]:
    weights, tables = packed(conv, base.device, base.dtype), cache(partial(level_tables, step, base.device))
    of_layer = (step.channels_in, step.layer.channels), base.device, base.dtype

    def run(block: int, entries: int) -> tuple[Tensor, Tensor]:
        table = tables(block)
        made = ops.partial_conv(base, below, *weights, table.tensors(), entries, table.block, True, "ieee")
        return made[0], made[1]

    # The base has no tables: what it takes at a time is the kernel's own affair, and without entries it runs alone.
    yield Job(place_of("base_kernel", *of_layer), lambda block: run(BLOCK, 0)[0])
    if step.table.entries:
        yield Job(place_of("entries_kernel", *of_layer), lambda block: run(block, step.table.entries)[1])


def _pool_jobs(step: Step, base: Tensor, below: Tensor) -> Iterator[Job]:
    tables = cache(partial(level_tables, step, base.device))

    def run(block: int) -> Tensor:
        table = tables(block)
        of_level = table.tensors(), table.entries, table.block
        made: Tensor = ops.max_pool(base, below, step.layer.kernel, *of_level, True)[1]
        return made

    if step.table.entries:
        yield Job(place_of("pool_kernel", (step.channels_in, step.layer.channels), base.device, base.dtype), run)


def _score_job(model: GlanceModel, batch: int, device: str, precision: str) -> Job:
    rows, cols = model.grid
    n, total = model.config.features, model.config.features + model.config.wide
    z_local, z_global = (torch.randn(batch, len(rows) * len(cols), size, device=device) for size in (total, n))
    weights = head_weights(model, device).tensors()
    place = place_of("score_kernel", (total, model.config.dad_width), device, z_local.dtype)
    return Job(place, lambda block: ops.score(z_local, z_global, weights, precision))


def _values(step: Step, batch: int, dtype: torch.dtype, device: str) -> tuple[Tensor, Tensor]:
    """Random values of the level below: its base, and its entries."""
    shape = (batch, *step.below.base_shape, step.channels_in)
    entries = (batch, step.below.entries, step.channels_in)
    return torch.randn(shape, device=device).to(dtype), torch.randn(entries, device=device).to(dtype)


if __name__ == "__main__":
    typer.run(main)
