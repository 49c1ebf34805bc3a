"""The dense pass as a graph: what `glance_fast.dense.torch_pass` does, for a batch of any size."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from itertools import groupby

import numpy as np
from torch import nn

from glance_fast.export.graph.builder import Array, Graph
from glance_fast.export.graph.levels import Level, run_of
from glance_fast.export.graph.tables import Rows, Windows, base_scale, entry_scale
from glance_fast.models.global_net import GlobalNet
from glance_fast.plan.plan import Plan
from glance_fast.plan.step import MatmulBlock, Step

# What the products of the entries' blocks are called, `…/blocks/…`: they alone are worth computing in 8 bits.
BLOCKS = "blocks"

# Numbers that whole blocks side by side must have to be finished apart: a node for fewer costs more than it saves.
APART = 65_536
# Numbers from which on other blocks are not finished together with the next: as many stay in a core's cache.
TOGETHER = 262_144
# Numbers of windows that one node gathers for blocks side by side; more would leave the caches before they are read.
GATHERED = 400_000

Taps = tuple[int, ...]


def dense_pass(graph: Graph, net: GlobalNet, plan: Plan, image: str) -> str:
    """`z_g` [B, locations, n] of what Global-Net reads, [B, C, H, W]."""
    level = Level(image, Rows(graph, plan.steps[0].below))
    convs = iter(net.convs)
    for step in plan.steps:
        level = _pool(step, level) if step.layer.kind == "pool" else _Conv(step, level, next(convs)).level()
    cells = graph.op("Gather", level.values, graph.const(plan.readout.astype(np.int32)), axis=1)
    return linear(graph, graph.reshape(cells, 0, plan.locations, -1), net.project)


def linear(graph: Graph, value: str, layer: nn.Module) -> str:
    """A linear layer on the last axis."""
    assert isinstance(layer, nn.Linear)
    product = graph.op("MatMul", value, graph.const(array(layer.weight.T)))
    return graph.op("Add", product, graph.const(array(layer.bias)))


def array(tensor: object) -> Array:
    """A weight as float32."""
    return np.asarray(tensor.detach().cpu().float().numpy())  # type: ignore[attr-defined]


def _pool(step: Step, below: Level) -> Level:
    graph, rows, size = below.graph, Rows(below.graph, step.table), step.layer.kernel
    base = graph.op("MaxPool", below.base, kernel_shape=[size, size], strides=[size, size])
    # One value a tap and a maximum of them: OpenVINO's ReduceMax takes four times as long.
    parts = [(graph.op("Max", *taps), count) for count, taps in _pooled(step, below, rows)] if rows.order else []
    return Level(base, rows, parts)


def _pooled(step: Step, below: Level, rows: Rows) -> Iterator[tuple[int, list[str]]]:
    """The entries of each pair of bands: how many, and what they read, [B, n, C] at each tap that is not all dead.

    Entries below that lie one after the other are a view of what the convolution gave; others are gathered.
    """
    graph, table, windows = below.graph, below.table, Windows(step, below.rows, rows)
    (every,) = step.blocks()
    reads, spans = every.sources, step.table.spans
    pieces = below.pieces(run for span in spans for read in reads[span].T if (run := run_of(read, table)))
    for span in spans:
        count, views, others = span.stop - span.start, list[str](), list[str]()
        for tap, read in enumerate(reads[span].T):
            if (run := run_of(read, table)) in pieces:
                views.append(pieces[run])
            elif (read != table.zero).any():
                others.append(graph.reshape(windows.part(span, (tap,), whole=True), -1))
        if others:
            gathered = graph.op("Gather", below.values, graph.concat(others, 0), axis=1)
            views += graph.split(gathered, 1, [count] * len(others))
        yield count, views


class _Conv:
    """A convolution: its base is one, its entries are products of gathered windows, block by block."""

    def __init__(self, step: Step, below: Level, conv: nn.Module) -> None:
        assert isinstance(conv, nn.Conv2d)
        self.step, self.below, self.graph = step, below, below.graph
        self.blocks, self.valid = step.blocks(), step.valid_counts()[step.table.base :]
        weight, self.bias = self.graph.const(array(conv.weight)), array(conv.bias)
        by_tap = self.graph.op("Transpose", weight, perm=[2, 3, 1, 0])
        self.taps = self.graph.reshape(by_tap, step.layer.kernel**2, *step.channels)
        rows = Rows(self.graph, step.table)
        self.reads = Windows(step, below.rows, rows)
        # What windows sum to without a hole.
        self.sums = Level(self.graph.op("Conv", below.base, weight, pads=[step.layer.pad] * 4), rows)
        self._matrices: dict[tuple[Taps, float], str] = {}

    def level(self) -> Level:
        base = self._finished(self.sums.base, base_scale(self.graph, self.step), self.bias[:, None, None])
        parts = list[tuple[str, int]]()
        for apart, blocks in self._runs():
            if apart:
                parts += [(self._anew(block), len(block)) for block in blocks]
            else:
                parts.append((self._added(blocks), _length(blocks)))
        return Level(base, self.sums.rows, parts)

    def _runs(self) -> list[tuple[bool, list[MatmulBlock]]]:
        """The blocks in their order, in runs: whole ones that are finished apart, and others, finished together."""
        wide, runs = self.step.layer.channels, list[tuple[bool, list[MatmulBlock]]]()
        for whole, group in groupby(self.blocks, key=lambda block: block.recompute):
            blocks = list(group)
            if whole and _length(blocks) * wide >= APART:
                runs.append((True, blocks))
                continue
            for block in blocks:
                if not runs or runs[-1][0] or _length(runs[-1][1]) * wide >= TOGETHER:
                    runs.append((False, []))
                runs[-1][1].append(block)
        return runs

    def _anew(self, block: MatmulBlock) -> str:
        """Entries that are summed anew."""
        valid = self.valid[block.entries]
        if (valid != valid[0]).any():
            return self._renormalised(self._product(block), block.entries)
        # One scale for all of them is the weights'; a runtime does the rest with the product.
        product = self._product(block, self.step.layer.kernel**2 / int(valid[0]))
        return self.graph.op("Relu", self.graph.op("Add", product, self.graph.const(self.bias)))

    def _added(self, blocks: list[MatmulBlock]) -> str:
        """Entries that are what holes change, added to what their windows sum to without; whole ones to nothing."""
        graph, table, entries = self.graph, self.step.table, slice(blocks[0].entries.start, blocks[-1].entries.stop)
        base_index = [
            graph.op("Expand", graph.const(np.array([table.base], np.int32)), graph.ints(len(block)))
            if block.recompute
            else graph.slice(self.sums.rows.base_index, 0, block.entries.start, block.entries.stop)
            for block in blocks
        ]
        shared = graph.op("Gather", self.sums.values, graph.concat(base_index, 0), axis=1)
        products = graph.concat([self._product(block) for block in blocks], 1)
        return self._renormalised(graph.op("Add", shared, products), entries)

    def _product(self, block: MatmulBlock, scale: float = 1) -> str:
        """What a block's windows read, times the weights of their taps, times `scale`: [B, n, C']."""
        graph, taps, known = self.graph, block.taps, self._matrices
        if (taps, scale) not in known:
            some = graph.op("Gather", self.taps, graph.const(np.array(taps, np.int32)), axis=0)
            matrix = graph.reshape(some, -1, self.step.layer.channels)
            scaled = graph.op("Mul", matrix, graph.const(np.array(scale, np.float32))) if scale != 1 else matrix
            known[taps, scale] = scaled
        windows = graph.reshape(self._cells[block.entries.start], 0, len(block), len(taps) * self.step.channels_in)
        with graph.scope(BLOCKS):
            return graph.op("MatMul", windows, known[taps, scale])

    @cached_property
    def _cells(self) -> dict[int, str]:
        """What the windows of each block read, [B, entries * taps, C], by its first entry."""
        graph, found = self.graph, dict[int, str]()
        for blocks in self._gathered_together():
            read = [self.reads.part(block.entries, block.taps, block.recompute) for block in blocks]
            table = self.below.values if blocks[0].recompute else self.below.changes
            cells = graph.op("Gather", table, graph.concat([graph.reshape(rows, -1) for rows in read], 0), axis=1)
            pieces = graph.split(cells, 1, [block.sources.size for block in blocks])
            found |= {block.entries.start: piece for block, piece in zip(blocks, pieces, strict=True)}
        return found

    def _gathered_together(self) -> Iterator[list[MatmulBlock]]:
        blocks = list[MatmulBlock]()
        for block in self.blocks:
            numbers = sum(one.sources.size for one in (*blocks, block)) * self.step.channels_in
            if blocks and (block.recompute != blocks[0].recompute or numbers > GATHERED):
                yield blocks
                blocks = []
            blocks.append(block)
        yield blocks

    def _renormalised(self, sums: str, entries: slice) -> str:
        return self._finished(sums, self.graph.slice(self._scale, 0, entries.start, entries.stop), self.bias)

    @cached_property
    def _scale(self) -> str:
        return entry_scale(self.sums.rows, self.step)

    def _finished(self, sums: str, scale: str, bias: Array) -> str:
        graph = self.graph
        return graph.op("Relu", graph.op("Add", graph.op("Mul", sums, scale), graph.const(bias)))


def _length(blocks: list[MatmulBlock]) -> int:
    """Entries of some blocks."""
    return sum(map(len, blocks))
