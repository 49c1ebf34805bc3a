"""The dense pass and the heads as nodes of the TensorRT plugins in `glance_fast.export.tensorrt.plugins`.

The nodes are the launches of `glance_fast.dense.triton_pass`. The attribute `sm` of each is the compute capability that
its kernel is compiled for (90 is 9.0).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import nn

from glance_fast.dense.triton_heads import head_weights
from glance_fast.dense.triton_pass import level_tables
from glance_fast.export.graph.builder import FLOAT, Graph
from glance_fast.export.graph.dense_pass import array, linear
from glance_fast.export.graph.levels import zero_row
from glance_fast.export.graph.target import Target
from glance_fast.kernels.reference.partial_conv import tap_weights
from glance_fast.models.global_net import GlobalNet
from glance_fast.models.model import GlanceModel
from glance_fast.plan.plan import Plan
from glance_fast.plan.step import Step


@dataclass(frozen=True)
class LevelValues:
    """A level's values by name in the graph: `base` [B, H, W, C] and `entries` [B, n, C], "" without entries."""

    base: str
    entries: str = ""

    @property
    def read_entries(self) -> str:
        """The entries as a plugin's input; without entries any tensor, as no row of it is read."""
        return self.entries or self.base


def plugin_scores(graph: Graph, target: Target, model: GlanceModel, z_local: str, feature_map: str) -> str:
    """`s` of every location, written as plugin nodes: see `PluginNodes.scores`."""
    return PluginNodes(graph, target).scores(model, z_local, feature_map)


class PluginNodes:
    """Writes plugin nodes into `graph`; at fp16 the dense pass is in float16, and the heads' products are in tf32."""

    def __init__(self, graph: Graph, target: Target) -> None:
        self._graph, self._sm, self._half = graph, target.sm, target.half

    def scores(self, model: GlanceModel, z_local: str, feature_map: str) -> str:
        """`s` of every location, [B, locations], before smoothing.

        `z_local` is float32 [B, locations, n]; `feature_map` is Global-Net's input, [B, C, H, W] in the dense pass's
        type.
        """
        z_global = self.dense_pass(model.global_net, model.compile_plan(), feature_map)
        weights = [tensor.numpy() for tensor in head_weights(model, "cpu").tensors()]
        # Without whitening two are empty, which no tensor of TensorRT may be; their replacements are not read.
        constants = [self._graph.const(weight if weight.size else np.zeros(1, np.float32)) for weight in weights]
        settings = {"whitened": int(model.whitening is not None), "tf32": int(self._half), "sm": self._sm}
        return self._graph.plugin("score", [z_local, z_global, *constants], **settings)[0]

    def dense_pass(self, net: GlobalNet, plan: Plan, image: str) -> str:
        """`z_g` float32 [B, locations, n] of Global-Net's input, [B, C, H, W]."""
        graph, convs = self._graph, iter(net.convs)
        level = LevelValues(graph.op("Transpose", image, perm=[0, 2, 3, 1]))
        for i, step in enumerate(plan.steps):
            as_changes = int([later.layer.kind for later in plan.steps[i + 1 : i + 2]] == ["conv"])
            if step.layer.kind == "conv":
                level = self._conv(next(convs), step, level, as_changes)
            else:
                level = self._pool(step, level, as_changes)
        rows = graph.reshape(level.base, 0, plan.steps[-1].table.base, -1)
        table = graph.concat([rows, *([level.entries] if level.entries else []), zero_row(graph, rows)], 1)
        cells = graph.op("Gather", table, graph.const(plan.readout.astype(np.int32)), axis=1)
        read = graph.reshape(cells, 0, plan.locations, -1)
        return linear(graph, graph.op("Cast", read, to=FLOAT) if self._half else read, net.project)

    def _conv(self, conv: nn.Module, step: Step, below: LevelValues, as_changes: int) -> LevelValues:
        assert isinstance(conv, nn.Conv2d)
        weight = array(tap_weights(conv.weight)).astype(np.float16 if self._half else np.float32)
        weights = [self._graph.const(weight), self._graph.const(array(conv.bias))]
        sums, base = self._graph.plugin("partial_conv_base", [below.base, *weights], 2, sm=self._sm)
        inputs = [below.read_entries, below.base, sums, base, *weights]
        return LevelValues(base, self._entries("partial_conv_entries", step, inputs, as_changes=as_changes))

    def _pool(self, step: Step, below: LevelValues, as_changes: int) -> LevelValues:
        graph, size = self._graph, step.layer.kernel
        image = graph.op("Transpose", below.base, perm=[0, 3, 1, 2])
        pooled = graph.op("MaxPool", image, kernel_shape=[size, size], strides=[size, size])
        base = graph.op("Transpose", pooled, perm=[0, 2, 3, 1])
        inputs = [below.read_entries, below.base, base]
        return LevelValues(base, self._entries("max_pool_entries", step, inputs, as_changes=as_changes, size=size))

    def _entries(self, kind: str, step: Step, inputs: list[str], **settings: int) -> str:
        if not step.table.entries:
            return ""
        tables = [self._graph.const(table.numpy()) for table in level_tables(step, "cpu").tensors()]
        return self._graph.plugin(kind, [*inputs, *tables], entries=step.table.entries, sm=self._sm, **settings)[0]
