"""Multiply-adds and bytes that each kernel launch needs: `python -m bench.kernel_roofline --preset fast`.

Bytes are what a launch reads and writes once if nothing is read twice: the level below, weights, tables, its results.
A launch's roofline is the longer of what its products take at a GPU's pace and its bytes at its memory's; by default
an H100 SXM's published ones. What stays in the L2 cache between launches moves faster than that.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated

import typer

from glance_fast.config import ModelConfig
from glance_fast.dense.triton_pipeline import first_convolution
from glance_fast.models.model import GlanceModel
from glance_fast.plan.patches import IMAGE
from glance_fast.plan.step import Step
from glance_fast.presets import DEFAULT, PRESETS

# https://www.nvidia.com/en-us/data-center/h100/: float16 without sparsity, and HBM3.
H100_FLOPS, H100_BYTES = 989e12, 3.35e12
WIDE = 4  # bytes of a float32 and of an int32


@dataclass(frozen=True)
class Need:
    """One launch for a batch of images; `kernel` where it is one that `bench.tune` tries."""

    launch: str
    macs: float
    bytes: float
    kernel: str | None = None
    channels: tuple[int, int] | None = None

    def seconds(self, flops: float, bandwidth: float) -> float:
        """Its roofline, at so many floating-point operations and bytes a second."""
        return max(2 * self.macs / flops, self.bytes / bandwidth)


def main(
    preset: Annotated[str, typer.Option(help="Whose layers.")] = DEFAULT,
    batch: Annotated[int, typer.Option(help="Images a launch.", min=1)] = 1,
    flops: Annotated[float, typer.Option(help="Floating-point operations a second.")] = H100_FLOPS,
    bandwidth: Annotated[float, typer.Option(help="Bytes a second.")] = H100_BYTES,
) -> None:
    """Print a Markdown table of a preset in half floats."""
    model = GlanceModel(ModelConfig.model_validate(PRESETS[preset]["model"]))
    rows, plan = list(needs(model, batch)), model.compile_plan()
    print(f"| `{preset}`, batch {batch} | multiply-adds | MB | roofline | bound by |\n|---|---|---|---|---|")
    for row in rows:
        bound = "products" if 2 * row.macs / flops > row.bytes / bandwidth else "memory"
        took = f"{row.seconds(flops, bandwidth) * 1e6:.2f} µs"
        print(f"| {row.launch} | {row.macs / 1e6:,.1f} M | {row.bytes / 1e6:.2f} | {took} | {bound} |")
    macs, moved = sum(row.macs for row in rows), sum(row.bytes for row in rows)
    total = sum(row.seconds(flops, bandwidth) for row in rows)
    print(f"| all | {macs / 1e6:,.0f} M | {moved / 1e6:.1f} | {total * 1e6:.1f} µs | |")
    print("\n| with its pooling | multiply-adds, in one launch and in two | MB | roofline |\n|---|---|---|---|")
    for conv, pool in pairwise(plan.steps[1:]):  # the first layer is launched alone
        if (conv.layer.kind, pool.layer.kind) == ("conv", "pool") and pool.table.entries:
            one = joined(conv, pool, batch)
            _, entries = _conv("", conv, batch, (2, 2))
            two = [entries, *_pool("", pool, batch, 2)]
            macs, moved = (sum(getattr(need, what) for need in two) / 1e6 for what in ("macs", "bytes"))
            times = one.seconds(flops, bandwidth), sum(need.seconds(flops, bandwidth) for need in two)
            figures = f"{one.macs / 1e6:,.0f}, {macs:,.0f} M | {one.bytes / 1e6:.1f}, {moved:.1f}"
            print(f"| {one.launch} | {figures} | {times[0] * 1e6:.1f}, {times[1] * 1e6:.1f} µs |")


def needs(model: GlanceModel, batch: int, width: int = 2) -> Iterator[Need]:
    """The launches of an image's way through `glance_fast.dense.triton_pipeline`, networks in floats of `width` bytes.

    Local-Net behind its first convolution is PyTorch's and one row; its bytes are its weights'.
    """
    plan, size = model.compile_plan(), model.config.image_size
    conv, stride, overhang, _ = first_convolution(model)
    high, wide = ((side + 2 * overhang - conv.kernel_size[0]) // stride + 1 for side in size)
    pixels, cells = math.prod(size) * conv.in_channels, high * wide
    macs = cells * conv.weight.numel()
    yield Need("first convolution", batch * macs, batch * (pixels + cells * conv.out_channels * width))
    local = model.local_macs - macs
    weights = sum(weight.numel() for weight in model.local_net.parameters())
    yield Need("Local-Net, PyTorch", batch * local, weights * width)
    for i, step in enumerate(plan.steps):
        name = f"{i} {step.layer.kind} {step.channels_in}→{step.layer.channels}"
        # The first level reads uint8 pixels where Global-Net reads pixels at all.
        read = 1 if i == 0 and model.local_net.feature_map_spec == IMAGE else width
        of_step = name, step, batch
        yield from _conv(*of_step, (read, width)) if step.layer.kind == "conv" else _pool(*of_step, width)
    yield _score(model, plan.locations, batch)


def _conv(name: str, step: Step, batch: int, widths: tuple[int, int]) -> Iterator[Need]:
    before, after, table = step.channels_in, step.layer.channels, step.table
    read, width = widths
    product, weights = before * after, step.layer.kernel**2 * before * after * width
    on_base = step.layer.kernel**2 * table.base * product
    moved = table.base * (before * read + after * (width + WIDE))
    yield Need(f"{name}, base", batch * on_base, batch * moved + weights, "base_kernel", step.channels)
    if table.entries:
        moved = (step.below.entries + step.below.base) * before * read
        moved += table.base * after * WIDE + table.entries * after * width
        macs, moved = batch * (step.macs - on_base), batch * moved + weights + _tables(step)
        yield Need(f"{name}, entries", macs, moved, "entries_kernel", step.channels)


def _pool(name: str, step: Step, batch: int, width: int) -> Iterator[Need]:
    moved = (step.below.entries + step.below.base + step.table.entries + step.table.base) * step.layer.channels * width
    yield Need(name, 0, batch * moved + _tables(step), "pool_kernel", step.channels)


def joined(conv: Step, pool: Step, batch: int, width: int = 2) -> Need:
    """A convolution's entries and their pooling in one launch: none is written, some are computed again and again."""
    table, (before, after) = conv.table, conv.channels
    read = sum(int(((block.sources >= table.base) & (block.sources < table.zero)).sum()) for block in pool.blocks())
    taps = conv.layer.kernel**2
    moved = (conv.below.entries + conv.below.base) * before * width + table.base * after * (WIDE + width)
    moved += (pool.table.entries + pool.table.base) * after * width
    weights = taps * before * after * width + _tables(conv) + _tables(pool)
    return Need(f"{before}→{after}", batch * read * taps * before * after, batch * moved + weights)


def _tables(step: Step) -> int:
    """Bytes of the two axes' tables: what each tap reads, and what a key's own cell is."""
    keys = len(step.table.rows.cell) + len(step.table.cols.cell)
    return keys * (step.layer.kernel * 5 + 3) * WIDE


def _score(model: GlanceModel, locations: int, batch: int) -> Need:
    """The heads, with what is read out and projected before them; float32, half of each location's matrix."""
    c = model.config
    total, inputs = c.features + c.context_features, (2 if model.whitening else 3) * c.features
    read = c.readout**2 * c.global_channels[-1]
    triangle = total * (total + 1) // 2 if model.whitening else 0
    head = inputs * c.dad_width + c.dad_width**2 + c.dad_width
    macs = locations * (read * c.features + triangle + head)
    moved = locations * (read + total + 2 * c.features + 1) * WIDE
    weights = (locations * (triangle + total) + head + read * c.features) * WIDE
    return Need("heads", batch * macs, batch * moved + weights, "score_kernel", (total, c.dad_width))


if __name__ == "__main__":
    typer.run(main)
