"""The dense pass as a graph: what `glance_fast.dense` does, for a batch of any size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import nn

from glance_fast.axis import Band
from glance_fast.export.graph import Array, Graph
from glance_fast.export.tables import Rows, base_scale, changed_sources, entry_scale, value_sources
from glance_fast.nets.global_net import GlobalNet
from glance_fast.plan import Plan, Step

# What the products of the entries' blocks are called, `…/blocks/…`: they alone are worth computing in 8 bits.
BLOCKS = "blocks"


@dataclass(frozen=True)
class Level:
    """A level's values: base [B, C, H, W], entries [B, entries, C] (None where there are none)."""

    base: str
    entries: str | None
    rows: Rows


def dense_pass(graph: Graph, net: GlobalNet, plan: Plan, image: str) -> str:
    """`z_g` [B, locations, n] of what Global-Net reads, [B, C, H, W]."""
    level = Level(image, None, Rows(graph, plan.steps[0].below))
    convs = iter(net.convs)
    for step in plan.steps:
        level = _pool(graph, step, level) if step.layer.kind == "pool" else _conv(graph, step, level, next(convs))
    cells = graph.op("Gather", _values(graph, level), graph.const(plan.readout.astype(np.int32)), axis=1)
    return linear(graph, graph.reshape(cells, 0, plan.locations, -1), net.project)


def linear(graph: Graph, value: str, layer: nn.Module) -> str:
    """A linear layer on the last axis."""
    assert isinstance(layer, nn.Linear)
    product = graph.op("MatMul", value, graph.const(array(layer.weight.T)))
    return graph.op("Add", product, graph.const(array(layer.bias)))


def array(tensor: object) -> Array:
    """A weight as float32."""
    return np.asarray(tensor.detach().cpu().float().numpy())  # type: ignore[attr-defined]


def _pool(graph: Graph, step: Step, below: Level) -> Level:
    rows, size = Rows(graph, step.table), step.layer.kernel
    base = graph.op("MaxPool", below.base, kernel_shape=[size, size], strides=[size, size])
    if not step.table.entries:
        return Level(base, None, rows)
    values, numbers, pooled = _values(graph, below), below.rows.values(), []
    for row, col in step.table.bands:
        sources = value_sources(below.rows, numbers, _reads(step, row, col))
        sources = graph.reshape(sources, len(row) * len(col), size**2)
        # One gather a tap and a maximum of them: OpenVINO's ReduceMax takes four times as long.
        taps = [graph.reshape(graph.slice(sources, 1, tap, tap + 1), -1) for tap in range(size**2)]
        pooled.append(graph.op("Max", *(graph.op("Gather", values, tap, axis=1) for tap in taps)))
    return Level(base, graph.concat(pooled, 1), rows)


def _conv(graph: Graph, step: Step, below: Level, conv: nn.Module) -> Level:
    assert isinstance(conv, nn.Conv2d)
    rows, weight, bias, pad = Rows(graph, step.table), graph.const(array(conv.weight)), array(conv.bias), step.layer.pad
    sums = graph.op("Conv", below.base, weight, pads=[pad] * 4)
    base = _finished(graph, sums, base_scale(graph, step), bias[:, None, None])
    if not step.table.entries:
        return Level(base, None, rows)
    # What no block reads is not made: it would be nodes that lead nowhere.
    kinds = {step.taps(row, col)[1] for row, col in step.table.bands}
    tables = {
        whole: (_values(graph, below), below.rows.values()) if whole else (_changes(graph, below), below.rows.changes())
        for whole in kinds
    }
    added = []
    taps, matrices = graph.op("Transpose", weight, perm=[2, 3, 1, 0]), {}
    for row, col in step.table.bands:
        (high, wide), whole = step.taps(row, col)
        some = (high.start, high.stop, wide.start, wide.stop)
        if some not in matrices:
            part = graph.slice(graph.slice(taps, 0, *some[:2]), 1, *some[2:])
            matrices[some] = graph.reshape(part, -1, step.layer.channels)
        table, numbers = tables[whole]
        find = value_sources if whole else changed_sources
        sources = find(below.rows, numbers, _reads(step, row, col))
        cells = graph.op("Gather", table, graph.reshape(sources, len(row) * len(col), -1), axis=1)
        taps_read = (high.stop - high.start) * (wide.stop - wide.start)
        windows = graph.reshape(cells, 0, len(row) * len(col), taps_read * step.channels_in)
        with graph.scope(BLOCKS):
            added.append(graph.op("MatMul", windows, matrices[some]))
    flat = _as_rows(graph, sums, step.table.base)
    shared = graph.op("Gather", graph.concat([flat, nothing(graph, flat)], 1), rows.partial_homes(step), axis=1)
    total = graph.op("Add", shared, graph.concat(added, 1))
    return Level(base, _finished(graph, total, entry_scale(rows, step), bias), rows)


def _finished(graph: Graph, sums: str, scale: str, bias: Array) -> str:
    return graph.op("Relu", graph.op("Add", graph.op("Mul", sums, scale), graph.const(bias)))


def _reads(step: Step, row: Band, col: Band) -> tuple:  # type: ignore[type-arg]
    taps, _ = step.taps(row, col)
    return step.rows.keys.part(row.keys, taps[0]), step.cols.keys.part(col.keys, taps[1])


def _as_rows(graph: Graph, image: str, cells: int) -> str:
    """An image [B, C, H, W] of H * W cells as rows [B, cells, C]."""
    return graph.reshape(graph.op("Transpose", image, perm=[0, 2, 3, 1]), 0, cells, -1)


def nothing(graph: Graph, rows: str) -> str:
    """A zero row [B, 1, C] that a batch of any size has."""
    first = graph.slice(rows, 1, 0, 1)
    return graph.op("Sub", first, first)


def _values(graph: Graph, level: Level) -> str:
    """`base | entries | zero` of a level, [B, rows, C]."""
    base = _as_rows(graph, level.base, level.rows.table.base)
    entries = [level.entries] if level.entries is not None else []
    return graph.concat([base, *entries, nothing(graph, base)], 1)


def _changes(graph: Graph, level: Level) -> str:
    """`entries − base | −base | zero` of a level, [B, rows, C]."""
    base = _as_rows(graph, level.base, level.rows.table.base)
    parts = [graph.op("Neg", base), nothing(graph, base)]
    if level.entries is not None:
        homes = graph.op("Gather", base, level.rows.homes(), axis=1)
        parts.insert(0, graph.op("Sub", level.entries, homes))
    return graph.concat(parts, 1)
