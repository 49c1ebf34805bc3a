"""Multiply-adds and bytes of each kernel launch of a model, and the roofline of each.

Bytes are counted as if nothing were read twice: the level below, weights, tables and results. The roofline of a launch
is the longer of the time of its multiply-adds at a GPU's peak rate and that of its bytes at its memory bandwidth. Data
that stays in the L2 cache between launches moves faster than that.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from glance_fast.dense.triton_pipeline import first_convolution
from glance_fast.kernels.gpu.pixel_conv import conv_size
from glance_fast.kernels.gpu.tables import KEY_FIELDS, TAP_FIELDS
from glance_fast.models.model import GlanceModel
from glance_fast.plan.patches import IMAGE
from glance_fast.plan.step import Step

# https://www.nvidia.com/en-us/data-center/h100/: float16 without sparsity, and HBM3.
H100_FLOPS, H100_BYTES = 989e12, 3.35e12
# Bytes of a float32 and of an int32.
WORD = 4


@dataclass(frozen=True)
class LaunchCost:
    """Multiply-adds and bytes of one launch for a batch; `kernel` and `channels` where `bench.tune` tunes it."""

    launch: str
    macs: float
    bytes: float
    kernel: str | None = None
    channels: tuple[int, int] | None = None

    def seconds(self, flops: float, bandwidth: float) -> float:
        """The roofline, at these rates: floating-point operations per second and bytes per second."""
        return max(2 * self.macs / flops, self.bytes / bandwidth)


@dataclass(frozen=True)
class FloatWidths:
    """Bytes of a number of the level below a convolution, and of its own level."""

    below: int
    above: int


def launch_costs(model: GlanceModel, batch: int, width: int = 2) -> Iterator[LaunchCost]:
    """The launches of `glance_fast.dense.triton_pipeline` for a batch, networks in floats of `width` bytes.

    PyTorch computes Local-Net after its first convolution: one row, whose bytes are those of the weights.
    """
    plan, size = model.compile_plan(), model.config.image_size
    conv, geometry = first_convolution(model)
    rows, cols = (conv_size(side, conv.kernel_size[0], geometry) for side in size)
    pixels, cells = math.prod(size) * conv.in_channels, rows * cols
    macs = cells * conv.weight.numel()
    yield LaunchCost("first convolution", batch * macs, batch * (pixels + cells * conv.out_channels * width))
    local = model.local_macs - macs
    weights = sum(weight.numel() for weight in model.local_net.parameters())
    yield LaunchCost("Local-Net, PyTorch", batch * local, weights * width)
    for i, step in enumerate(plan.steps):
        name = f"{i} {step.layer.kind} {step.channels_in}→{step.layer.channels}"
        # The first level reads uint8 pixels where Global-Net's input is the image.
        width_below = 1 if i == 0 and model.local_net.feature_map_spec == IMAGE else width
        if step.layer.kind == "conv":
            yield from conv_costs(name, step, batch, FloatWidths(width_below, width))
        else:
            yield pool_cost(name, step, batch, width)
    yield _score(model, plan.locations, batch)


def conv_costs(name: str, step: Step, batch: int, widths: FloatWidths) -> Iterator[LaunchCost]:
    """A convolution's launches: its base, and its entries where the table has entries."""
    before, after, table = step.channels_in, step.layer.channels, step.table
    width_below, width = widths.below, widths.above
    product, weights = before * after, step.layer.kernel**2 * before * after * width
    on_base = step.layer.kernel**2 * table.base * product
    moved = table.base * (before * width_below + after * (width + WORD))
    yield LaunchCost(f"{name}, base", batch * on_base, batch * moved + weights, "base_kernel", step.channels)
    if table.entries:
        moved = (step.below.entries + step.below.base) * before * width_below
        moved += table.base * after * WORD + table.entries * after * width
        macs, moved = batch * (step.macs - on_base), batch * moved + weights + _tables(step)
        yield LaunchCost(f"{name}, entries", macs, moved, "entries_kernel", step.channels)


def pool_cost(name: str, step: Step, batch: int, width: int) -> LaunchCost:
    """A pooling's launch."""
    moved = (step.below.entries + step.below.base + step.table.entries + step.table.base) * step.layer.channels * width
    return LaunchCost(name, 0, batch * moved + _tables(step), "pool_kernel", step.channels)


def fused_cost(conv: Step, pool: Step, batch: int, width: int = 2) -> LaunchCost:
    """A convolution's entries and their pooling in one launch: none is written, some are computed several times."""
    table, (before, after) = conv.table, conv.channels
    reads = sum(int(((block.sources >= table.base) & (block.sources < table.zero)).sum()) for block in pool.blocks())
    taps = conv.layer.kernel**2
    moved = (conv.below.entries + conv.below.base) * before * width + table.base * after * (WORD + width)
    moved += (pool.table.entries + pool.table.base) * after * width
    weights = taps * before * after * width + _tables(conv) + _tables(pool)
    return LaunchCost(f"{before}→{after}", batch * reads * taps * before * after, batch * moved + weights)


def _tables(step: Step) -> int:
    """Bytes of both axes' tables: the taps of each key, and the key's own cell."""
    keys = len(step.table.rows.cell) + len(step.table.cols.cell)
    return keys * (step.layer.kernel * TAP_FIELDS + KEY_FIELDS) * WORD


def _score(model: GlanceModel, locations: int, batch: int) -> LaunchCost:
    """The heads, with Global-Net's read-out and projection; float32, half of each location's symmetric matrix."""
    c = model.config
    total, inputs = c.features + c.context_features, (2 if model.whitening else 3) * c.features
    read = c.readout**2 * c.global_channels[-1]
    triangle = total * (total + 1) // 2 if model.whitening else 0
    head = inputs * c.dad_width + c.dad_width**2 + c.dad_width
    macs = locations * (read * c.features + triangle + head)
    moved = locations * (read + total + 2 * c.features + 1) * WORD
    weights = (locations * (triangle + total) + head + read * c.features) * WORD
    return LaunchCost("heads", batch * macs, batch * moved + weights, "score_kernel", (total, c.dad_width))
