"""Which configurations of the kernels are fastest on this GPU: `python -m bench.tune`. No GPU was at hand: not yet run.

For each layer of a preset, and for its heads, it tries the configurations below on the layer's own shapes, each only
once it gave what the one that fits everywhere gives, and adds the fastest to `kernels/configurations.json`: the device,
the kernel, the channels and the dtype, with both times and the gain. A layer's entries are timed with its base, which
they start from. A convolution with its pooling in one launch is tried against the two launches, and chosen where there
is a row for it.
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

from glance_fast.config import ModelConfig
from glance_fast.dense.triton_heads import head_weights
from glance_fast.dense.triton_pass import JOINED, level_tables, packed
from glance_fast.errors import GlanceError
from glance_fast.evaluation.tolerances import relative_error, tolerance
from glance_fast.kernels.gpu import configurations, ops
from glance_fast.kernels.gpu.configurations import Place, block_of, configured, place_of
from glance_fast.kernels.gpu.tables import BLOCK
from glance_fast.models.model import GlanceModel
from glance_fast.plan.patches import IMAGE
from glance_fast.plan.step import Step
from glance_fast.presets import DEFAULT, PRESETS
from glance_fast.storage.atomic_write import replace_file

# What is tried of each kernel: all combinations.
CHOICES: dict[str, dict[str, tuple[int, ...]]] = {
    "base_kernel": {"BLOCK_M": (64, 128), "BLOCK_N": (32, 64), "BLOCK_K": (16, 32, 64), "num_warps": (4, 8, 16)},
    "entries_kernel": {"BLOCK_M": (64, 128), "BLOCK_N": (32, 64), "BLOCK_K": (16, 32), "num_warps": (4, 8, 16)},
    "pooled_entries_kernel": {"BLOCK_M": (32, 64), "BLOCK_N": (32, 64), "BLOCK_K": (16, 32), "num_warps": (4, 8)},
    "pool_kernel": {"BLOCK_M": (32, 64), "BLOCK_N": (16, 32, 64), "num_warps": (2, 4, 8)},
    "score_kernel": {"BLOCK_K": (16, 32), "num_warps": (2, 4, 8), "num_stages": (1, 2, 3)},
}
# Less is noise and not worth a row.
LEAST_GAIN = 1.03
Clock = Callable[[Callable[[], object]], float]


@dataclass(frozen=True)
class Job:
    """A launch to be tuned: what runs it, with tiles of so many entries, and gives what it computed.

    `tf32`: its float32 products are taken in tf32, which another order of them moves by more than rounding.
    """

    place: Place
    run: Callable[[int], Tensor]
    tf32: bool = False

    @property
    def tolerance(self) -> float:
        """How far apart two configurations may be, of the largest value."""
        precision = {"float16": "fp16", "bfloat16": "bf16"}.get(self.place.dtype, "tf32" if self.tf32 else "fp32")
        return tolerance("kernel", precision)


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
    rows = tune(track(list(jobs(model, batch, dtype, "cuda")), "Kernels", console=console, transient=True), do_bench)
    for row in rows:
        print(json.dumps(row))
    merge(output, rows)


def jobs(model: GlanceModel, batch: int, dtype: torch.dtype, device: str) -> Iterator[Job]:
    """Every kind of launch of a model that the table may speak of, once; random values, the model's own shapes."""
    found: dict[Place, Job] = {}
    steps, convs = model.compile_plan().steps, iter(model.global_net.convs)
    weights = [packed(next(convs), device, dtype) if step.layer.kind == "conv" else () for step in steps]
    joined: list[Job] = []
    for i, step in enumerate(steps):
        base, below = _values(step, batch, dtype, device)
        if not weights[i]:
            made = [*_pool_jobs(step, base, below)]
        # Pixels have a kernel of their own.
        elif i or model.local_net.feature_map_spec != IMAGE:
            made = [*_conv_jobs(step, weights[i], base, below)]
            # The first layer is launched alone.
            joined += _joined_jobs(steps[i:], weights[i], base, below) if i else []
        else:
            made = []
        found = {job.place: job for job in made} | found
    yield from found.values()
    yield _score_job(model, batch, device, "ieee" if dtype == torch.float32 else "tf32")
    # Against the two launches as they are by then.
    yield from {job.place: job for job in reversed(joined)}.values()


def tune(todo: Iterable[Job], clock: Clock) -> list[dict[str, Any]]:
    """The rows of all launches; what was found of one stands while the next are tried."""
    rows = []
    with ExitStack() as found:
        for job in todo:
            for row in tuned(job, clock):
                found.enter_context(configurations.trying(job.place, row["options"]))
                rows.append(row)
    return rows


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
        return relative_error(job.run(block), expected) <= job.tolerance
    except (RuntimeError, GlanceError):  # Triton: too much shared memory, too many registers
        return False


def _conv_jobs(step: Step, weights: tuple[Tensor, ...], base: Tensor, below: Tensor) -> Iterator[Job]:
    tables = cache(partial(level_tables, step, base.device))

    def run(block: int, entries: int) -> tuple[Tensor, Tensor]:
        table = tables(block)
        made = ops.partial_conv(base, below, *weights, table.tensors(), entries, table.block, True, "ieee")
        return made[0], made[1]

    # The base has no tables: what it takes at a time is the kernel's own affair, and without entries it runs alone.
    yield Job(place_of("base_kernel", step.channels, base.device, base.dtype), lambda block: run(BLOCK, 0)[0])
    if step.table.entries:
        place = place_of("entries_kernel", step.channels, base.device, base.dtype)
        yield Job(place, lambda block: run(block, step.table.entries)[1])


def _joined_jobs(steps: Sequence[Step], weights: tuple[Tensor, ...], base: Tensor, below: Tensor) -> Iterator[Job]:
    """A convolution and its pooling: two launches where the table has no row for them, one where it has."""
    if [step.layer.kind for step in steps[:2]] != ["conv", "pool"] or not steps[1].table.entries:
        return
    place = place_of(JOINED, steps[0].channels, base.device, base.dtype)
    of_conv, of_pool = (cache(partial(level_tables, step, base.device)) for step in steps[:2])
    size = steps[1].layer.kernel

    def usual(kernel: str, step: Step) -> int:
        return block_of(place_of(kernel, step.channels, base.device, base.dtype), BLOCK)

    def run(block: int) -> Tensor:
        if configured(place):
            conv, pool = of_conv(BLOCK), of_pool(block)
            level = pool.tensors(), pool.entries, pool.block, True
            made = ops.conv_pool(base, below, *weights, conv.tensors(), size, *level, "ieee")
        else:
            conv, pool = of_conv(usual("entries_kernel", steps[0])), of_pool(usual("pool_kernel", steps[1]))
            between = ops.partial_conv(base, below, *weights, conv.tensors(), conv.entries, conv.block, False, "ieee")
            made = ops.max_pool(*between, size, pool.tensors(), pool.entries, pool.block, True)
        entries: Tensor = made[1]
        return entries

    yield Job(place, run)


def _pool_jobs(step: Step, base: Tensor, below: Tensor) -> Iterator[Job]:
    tables = cache(partial(level_tables, step, base.device))

    def run(block: int) -> Tensor:
        table = tables(block)
        of_level = table.tensors(), table.entries, table.block
        made: Tensor = ops.max_pool(base, below, step.layer.kernel, *of_level, True)[1]
        return made

    if step.table.entries:
        yield Job(place_of("pool_kernel", step.channels, base.device, base.dtype), run)


def _score_job(model: GlanceModel, batch: int, device: str, precision: str) -> Job:
    rows, cols = model.grid
    n, total = model.config.features, model.config.features + model.config.context_features
    z_local, z_global = (torch.randn(batch, len(rows) * len(cols), size, device=device) for size in (total, n))
    weights = head_weights(model, device).tensors()
    place = place_of("score_kernel", (total, model.config.dad_width), device, z_local.dtype)
    return Job(place, lambda block: ops.score(z_local, z_global, weights, precision), precision == "tf32")


def _values(step: Step, batch: int, dtype: torch.dtype, device: str) -> tuple[Tensor, Tensor]:
    """Random values of the level below: its base, and its entries."""
    shape = (batch, *step.below.base_shape, step.channels_in)
    entries = (batch, step.below.entries, step.channels_in)
    return torch.randn(shape, device=device).to(dtype), torch.randn(entries, device=device).to(dtype)


if __name__ == "__main__":
    typer.run(main)
