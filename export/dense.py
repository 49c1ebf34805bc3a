"""The dense pass as a graph: what `glance_fast.dense` does, for a batch of any size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby, pairwise

import numpy as np
from torch import nn

from glance_fast.axis import Band
from glance_fast.export.graph import Array, Graph
from glance_fast.export.levels import Level, run_of
from glance_fast.export.tables import base_scale, changed_sources, entry_scale, value_sources
from glance_fast.nets.global_net import GlobalNet
from glance_fast.plan import Plan, Step

# What the products of the entries' blocks are called, `…/blocks/…`: they alone are worth computing in 8 bits.
BLOCKS = "blocks"

# Numbers that whole blocks side by side must have to be finished apart: a node for fewer costs more than it saves.
APART = 65_536
# Numbers from which on other blocks are not finished together with the next: as many stay in a core's cache.
TOGETHER = 262_144

Pair = tuple[Band, Band]
Taps = tuple[int, ...]


def dense_pass(graph: Graph, net: GlobalNet, plan: Plan, image: str) -> str:
    """`z_g` [B, locations, n] of what Global-Net reads, [B, C, H, W]."""
    level = Level(graph, image, plan.steps[0].below)
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
    graph, size = below.graph, step.layer.kernel
    base = graph.op("MaxPool", below.base, kernel_shape=[size, size], strides=[size, size])
    # One value a tap and a maximum of them: OpenVINO's ReduceMax takes four times as long.
    parts = [(graph.op("Max", *taps), _size(pair)) for pair, taps in _pooled(step, below)] if step.table.entries else []
    return Level(graph, base, step.table, parts)


def _pooled(step: Step, below: Level) -> Iterator[tuple[Pair, list[str]]]:
    """What each pair of bands reads: a value [B, n, C] for each tap that is not dead in all of its windows.

    Entries one after the other are a view of what the convolution gave; others are gathered.
    """
    graph, table = below.graph, below.table
    reads = np.concatenate([block.sources for block in step.blocks()])
    ends = np.cumsum([0, *map(_size, step.table.bands)]).tolist()
    blocks = [reads[start:stop].T for start, stop in pairwise(ends)]
    pieces = below.pieces(run for block in blocks for read in block if (run := run_of(read, table)))
    for pair, block in zip(step.table.bands, blocks, strict=True):
        taps = []
        for tap, read in enumerate(block):
            run = run_of(read, table)
            if run in pieces:
                taps.append(pieces[run])
            elif (read != table.zero).any():
                rows = graph.reshape(_sources(step, below, pair, (tap,), whole=True), -1)
                taps.append(graph.op("Gather", below.values, rows, axis=1))
        yield pair, taps


@dataclass(frozen=True)
class _Block:
    """A block as `Step.blocks` has it, by the pairs of bands that it is made of."""

    pairs: list[Pair]
    taps: Taps
    whole: bool
    entries: slice

    def __len__(self) -> int:
        return int(self.entries.stop - self.entries.start)


class _Conv:
    """A convolution: its base is one, its entries are products of gathered windows, block by block."""

    def __init__(self, step: Step, below: Level, conv: nn.Module) -> None:
        assert isinstance(conv, nn.Conv2d)
        self.step, self.below, self.graph = step, below, below.graph
        weight, self.bias = self.graph.const(array(conv.weight)), array(conv.bias)
        by_tap = self.graph.op("Transpose", weight, perm=[2, 3, 1, 0])
        self.taps = self.graph.reshape(by_tap, step.layer.kernel**2, *step.channels)
        # What windows sum to without a hole.
        self.sums = Level(self.graph, self.graph.op("Conv", below.base, weight, pads=[step.layer.pad] * 4), step.table)
        self._matrices: dict[tuple[Taps, float], str] = {}

    def level(self) -> Level:
        base = self._finished(self.sums.base, base_scale(self.graph, self.step), self.bias[:, None, None])
        parts = list[tuple[str, int]]()
        for apart, blocks in self._runs():
            if apart:
                parts += [(self._anew(block), len(block)) for block in blocks]
            else:
                parts.append((self._added(blocks), _length(blocks)))
        return Level(self.graph, base, self.step.table, parts)

    def _runs(self) -> list[tuple[bool, list[_Block]]]:
        """The blocks in their order, in runs: whole ones that are finished apart, and others, finished together."""
        wide, runs = self.step.layer.channels, list[tuple[bool, list[_Block]]]()
        for whole, group in groupby(self._blocks(), key=lambda block: block.whole):
            blocks = list(group)
            if whole and _length(blocks) * wide >= APART:
                runs.append((True, blocks))
                continue
            for block in blocks:
                if not runs or runs[-1][0] or _length(runs[-1][1]) * wide >= TOGETHER:
                    runs.append((False, []))
                runs[-1][1].append(block)
        return runs

    def _blocks(self) -> Iterator[_Block]:
        start = 0
        for (taps, whole), group in groupby(self.step.table.bands, key=lambda pair: self.step.taps(*pair)):
            pairs = list(group)
            entries = slice(start, start + sum(map(_size, pairs)))
            yield _Block(pairs, taps, whole, entries)
            start = entries.stop

    def _anew(self, block: _Block) -> str:
        """Entries that are summed anew."""
        valid = self.step.valid()[self.step.table.base :][block.entries]
        if (valid != valid[0]).any():
            return self._renormalised(self._product(block), block.entries)
        # One scale for all of them is the weights'; a runtime does the rest with the product.
        product = self._product(block, self.step.layer.kernel**2 / int(valid[0]))
        return self.graph.op("Relu", self.graph.op("Add", product, self.graph.const(self.bias)))

    def _added(self, blocks: list[_Block]) -> str:
        """Entries that are what holes change, added to what their windows sum to without; whole ones to nothing."""
        graph, table, entries = self.graph, self.step.table, slice(blocks[0].entries.start, blocks[-1].entries.stop)
        nothing = graph.const(np.array([table.base], np.int32))
        homes = [
            graph.op("Expand", nothing, graph.ints(len(block)))
            if block.whole
            else graph.slice(self.sums.rows.homes, 0, block.entries.start, block.entries.stop)
            for block in blocks
        ]
        shared = graph.op("Gather", self.sums.values, graph.concat(homes, 0), axis=1)
        products = graph.concat([self._product(block) for block in blocks], 1)
        return self._renormalised(graph.op("Add", shared, products), entries)

    def _product(self, block: _Block, scale: float = 1) -> str:
        """What a block's windows read, times the weights of their taps, times `scale`: [B, n, C']."""
        graph, taps, known = self.graph, block.taps, self._matrices
        if (taps, scale) not in known:
            some = graph.op("Gather", self.taps, graph.const(np.array(taps, np.int32)), axis=0)
            matrix = graph.reshape(some, -1, self.step.layer.channels)
            scaled = graph.op("Mul", matrix, graph.const(np.array(scale, np.float32))) if scale != 1 else matrix
            known[taps, scale] = scaled
        rows = [_sources(self.step, self.below, pair, taps, block.whole) for pair in block.pairs]
        table = self.below.values if block.whole else self.below.changes
        cells = graph.op("Gather", table, graph.concat(rows, 0), axis=1)
        windows = graph.reshape(cells, 0, len(block), len(taps) * self.step.channels_in)
        with graph.scope(BLOCKS):
            return graph.op("MatMul", windows, known[taps, scale])

    def _renormalised(self, sums: str, entries: slice) -> str:
        return self._finished(sums, self.graph.slice(self._scale, 0, entries.start, entries.stop), self.bias)

    @cached_property
    def _scale(self) -> str:
        return entry_scale(self.sums.rows, self.step)

    def _finished(self, sums: str, scale: str, bias: Array) -> str:
        graph = self.graph
        return graph.op("Relu", graph.op("Add", graph.op("Mul", sums, scale), graph.const(bias)))


def _sources(step: Step, below: Level, pair: Pair, taps: Taps, whole: bool) -> str:
    """Rows of the level below that the windows of a pair of bands read at some taps, int32 [n, taps]."""
    graph, (row, col) = below.graph, pair
    reads = step.rows.keys.part(row.keys), step.cols.keys.part(col.keys)
    found = value_sources(below.rows, reads) if whole else changed_sources(below.rows, reads)
    windows = graph.reshape(found, _size(pair), -1)
    if len(taps) == step.layer.kernel**2:
        return windows
    return graph.op("Gather", windows, graph.const(np.array(taps, np.int32)), axis=1)


def _length(blocks: list[_Block]) -> int:
    """Entries of some blocks."""
    return sum(map(len, blocks))


def _size(pair: Pair) -> int:
    """Entries of a pair of bands."""
    return len(pair[0]) * len(pair[1])
