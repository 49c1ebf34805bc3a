"""The dense pass as ONNX operators: the same as `glance_fast.dense.torch_pass`, for a batch of any size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

import numpy as np
from torch import nn

from glance_fast.export.graph.builder import Array, Graph
from glance_fast.export.graph.levels import Level, Part, entry_range
from glance_fast.export.graph.tables import Rows, Windows, base_scale, entry_scale
from glance_fast.models.global_net import GlobalNet
from glance_fast.plan.plan import Plan
from glance_fast.plan.step import MatmulBlock, Step

# The scope of the blocks' products, `…/blocks/…`: they alone are worth computing in 8 bits.
BLOCK_SCOPE = "blocks"

# Minimum elements of consecutive recomputed blocks to get an epilogue (scale, bias, ReLU) per block: for fewer elements
# the additional nodes cost more than they save. OpenVINO, 2 cores, all presets: the time at 20,000, 200,000 and 400,000
# is within 2% of that at 65,536, and no two presets agree on the better value.
MIN_OWN_EPILOGUE = 65_536
# Elements from which a shared epilogue takes no further block, as many as stay in a core's cache; half and twice
# as many were within the same 2%.
FULL_SHARED_EPILOGUE = 262_144
# Maximum elements of windows that a single Gather reads for consecutive blocks; more would leave the caches before use.
# OpenVINO takes 0.98 to 1.00 of the time of a Gather per block.
MAX_GATHER = 400_000

Taps = tuple[int, ...]


def dense_pass(graph: Graph, net: GlobalNet, plan: Plan, image: str) -> str:
    """`z_g` [B, locations, n] of Global-Net's input, [B, C, H, W]."""
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
    # The maximum of one tensor per tap: OpenVINO's ReduceMax takes four times as long.
    parts = [Part(graph.op("Max", *taps), count) for count, taps in _pooled(step, below, rows)] if rows.order else []
    return Level(base, rows, parts)


def _pooled(step: Step, below: Level, rows: Rows) -> Iterator[tuple[int, list[str]]]:
    """Per pair of bands the number n of its entries, and their values [B, n, C] at every tap that is not all dead.

    Consecutive entries of the level below are read as views of the convolution's output; others are gathered.
    """
    graph, table, windows = below.graph, below.table, Windows(step, below.rows, rows)
    (block,) = step.blocks()
    reads, spans = block.sources, step.table.spans
    pieces = below.pieces(run for span in spans for read in reads[span].T if (run := entry_range(read, table)))
    for span in spans:
        count, views, others = span.stop - span.start, list[str](), list[str]()
        for tap, read in enumerate(reads[span].T):
            if (run := entry_range(read, table)) in pieces:
                views.append(pieces[run])
            elif (read != table.zero).any():
                others.append(graph.reshape(windows.part(span, (tap,), recompute=True), -1))
        if others:
            gathered = graph.op("Gather", below.values, graph.concat(others, 0), axis=1)
            views += graph.split(gathered, 1, [count] * len(others))
        yield count, views


@dataclass
class EpilogueGroup:
    """Consecutive blocks that share an epilogue, or with `per_block` have one each; its length is in entries."""

    blocks: list[MatmulBlock]
    per_block: bool = False

    def __len__(self) -> int:
        return sum(map(len, self.blocks))


class _Conv:
    """A convolution layer: its base is a convolution, its entries are products of gathered windows, block by block."""

    def __init__(self, step: Step, below: Level, conv: nn.Module) -> None:
        assert isinstance(conv, nn.Conv2d)
        self.step, self.below, self.graph = step, below, below.graph
        self.blocks, self.valid = step.blocks(), step.valid_counts()[step.table.base :]
        weight, self.bias = self.graph.const(array(conv.weight)), array(conv.bias)
        by_tap = self.graph.op("Transpose", weight, perm=[2, 3, 1, 0])
        self.taps = self.graph.reshape(by_tap, step.layer.kernel**2, *step.channels)
        rows = Rows(self.graph, step.table)
        self.reads = Windows(step, below.rows, rows)
        # The convolution's sums without a hole.
        self.sums = Level(self.graph.op("Conv", below.base, weight, pads=[step.layer.pad] * 4), rows)
        self._matrices: dict[tuple[Taps, float], str] = {}

    def level(self) -> Level:
        """The layer's values: convolved, renormalised, rectified."""
        base = self._epilogue(self.sums.base, base_scale(self.graph, self.step), self.bias[:, None, None])
        parts = list[Part]()
        for group in self._epilogues():
            if group.per_block:
                parts += [Part(self._recomputed(block), len(block)) for block in group.blocks]
            else:
                parts.append(Part(self._added(group.blocks), len(group)))
        return Level(base, self.sums.rows, parts)

    def _epilogues(self) -> list[EpilogueGroup]:
        """The blocks, in order, in groups of consecutive blocks."""
        channels, groups = self.step.layer.channels, list[EpilogueGroup]()
        for recompute, group in groupby(self.blocks, key=lambda block: block.recompute):
            blocks = list(group)
            if recompute and sum(map(len, blocks)) * channels >= MIN_OWN_EPILOGUE:
                groups.append(EpilogueGroup(blocks, per_block=True))
                continue
            for block in blocks:
                if not groups or groups[-1].per_block or len(groups[-1]) * channels >= FULL_SHARED_EPILOGUE:
                    groups.append(EpilogueGroup([]))
                groups[-1].blocks.append(block)
        return groups

    def _recomputed(self, block: MatmulBlock) -> str:
        """Entries whose windows are summed completely, with their epilogue."""
        valid = self.valid[block.entries]
        if (valid != valid[0]).any():
            return self._renormalised(self._product(block), block.entries)
        # A scale that all entries share is multiplied into the weights; runtimes fuse the rest with the product.
        product = self._product(block, self.step.layer.kernel**2 / int(valid[0]))
        return self.graph.op("Relu", self.graph.op("Add", product, self.graph.const(self.bias)))

    def _added(self, blocks: list[MatmulBlock]) -> str:
        """Entries as the base's sum plus the holes' changes; recomputed blocks start from the zero row."""
        graph, table, entries = self.graph, self.step.table, slice(blocks[0].entries.start, blocks[-1].entries.stop)
        base_rows = [
            graph.op("Expand", graph.const(np.array([table.base], np.int32)), graph.ints(len(block)))
            if block.recompute
            else graph.slice(self.sums.rows.base_index, 0, block.entries.start, block.entries.stop)
            for block in blocks
        ]
        shared = graph.op("Gather", self.sums.values, graph.concat(base_rows, 0), axis=1)
        products = graph.concat([self._product(block) for block in blocks], 1)
        return self._renormalised(graph.op("Add", shared, products), entries)

    def _product(self, block: MatmulBlock, scale: float = 1) -> str:
        """The product of a block's windows and their taps' weights times `scale`: [B, n, C']."""
        graph, taps, matrices = self.graph, block.taps, self._matrices
        if (taps, scale) not in matrices:
            weights = graph.op("Gather", self.taps, graph.const(np.array(taps, np.int32)), axis=0)
            matrix = graph.reshape(weights, -1, self.step.layer.channels)
            scaled = graph.op("Mul", matrix, graph.const(np.array(scale, np.float32))) if scale != 1 else matrix
            matrices[taps, scale] = scaled
        windows = graph.reshape(self._cells[block.entries.start], 0, len(block), len(taps) * self.step.channels_in)
        with graph.scope(BLOCK_SCOPE):
            return graph.op("MatMul", windows, matrices[taps, scale])

    @cached_property
    def _cells(self) -> dict[int, str]:
        """The rows that each block's windows read, [B, entries * taps, C], by the block's first entry."""
        graph, cells_of = self.graph, dict[int, str]()
        for blocks in self._gathered_together():
            read = [self.reads.part(block.entries, block.taps, block.recompute) for block in blocks]
            table = self.below.values if blocks[0].recompute else self.below.changes
            cells = graph.op("Gather", table, graph.concat([graph.reshape(rows, -1) for rows in read], 0), axis=1)
            pieces = graph.split(cells, 1, [block.sources.size for block in blocks])
            cells_of |= {block.entries.start: piece for block, piece in zip(blocks, pieces, strict=True)}
        return cells_of

    def _gathered_together(self) -> Iterator[list[MatmulBlock]]:
        """Consecutive blocks that a single Gather reads: of the same table, and of at most MAX_GATHER elements."""
        blocks = list[MatmulBlock]()
        for block in self.blocks:
            elements = sum(gathered.sources.size for gathered in (*blocks, block)) * self.step.channels_in
            if blocks and (block.recompute != blocks[0].recompute or elements > MAX_GATHER):
                yield blocks
                blocks = []
            blocks.append(block)
        yield blocks

    def _renormalised(self, sums: str, entries: slice) -> str:
        return self._epilogue(sums, self.graph.slice(self._scale, 0, entries.start, entries.stop), self.bias)

    @cached_property
    def _scale(self) -> str:
        return entry_scale(self.sums.rows, self.step)

    def _epilogue(self, sums: str, scale: str, bias: Array) -> str:
        graph = self.graph
        return graph.op("Relu", graph.op("Add", graph.op("Mul", sums, scale), graph.const(bias)))
