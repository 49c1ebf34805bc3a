"""The dense pass and the heads as nodes that TensorRT takes from the plugins in `glance_fast.export.tensorrt.plugins`.

The nodes are what `glance_fast.dense.triton_pass` launches. The attribute `sm` of each is the compute capability that
its kernel is compiled for (90 is 9.0).
"""

from __future__ import annotations

import numpy as np
from torch import nn

from glance_fast.dense.triton_heads import head_weights
from glance_fast.dense.triton_pass import level_tables
from glance_fast.export.graph.builder import FLOAT, Graph
from glance_fast.export.graph.dense_pass import array, linear
from glance_fast.export.graph.levels import nothing
from glance_fast.kernels.reference.partial_conv import tap_weights
from glance_fast.models.global_net import GlobalNet
from glance_fast.models.model import GlanceModel
from glance_fast.plan.plan import Plan
from glance_fast.plan.step import Step


class Plugins:
    """Writes into `graph`, for compute capability `sm`; with `half` the dense pass is in float16, products in tf32."""

    def __init__(self, graph: Graph, sm: int, half: bool) -> None:
        self._graph, self._sm, self._half = graph, sm, half

    def scores(self, model: GlanceModel, z_local: str, read: str) -> str:
        """`s` of every location, [B, locations], before it is smoothed.

        z_local float32 [B, locations, n]; of what Global-Net reads, [B, C, H, W] of the dense pass's type.
        """
        z_global = self.dense_pass(model.global_net, model.compile_plan(), read)
        weights = [tensor.numpy() for tensor in head_weights(model, "cpu").tensors()]
        # Where nothing is whitened two are empty, as no tensor of TensorRT may be; what stands for them is not read.
        given = [self._graph.const(weight if weight.size else np.zeros(1, np.float32)) for weight in weights]
        settings = {"whitened": int(model.whitening is not None), "tf32": int(self._half), "sm": self._sm}
        return self._graph.plugin("score", [z_local, z_global, *given], **settings)[0]

    def dense_pass(self, net: GlobalNet, plan: Plan, image: str) -> str:
        """`z_g` float32 [B, locations, n] of what Global-Net reads."""
        graph, convs = self._graph, iter(net.convs)
        base, entries = graph.op("Transpose", image, perm=[0, 2, 3, 1]), ""
        for i, step in enumerate(plan.steps):
            as_changes = int([later.layer.kind for later in plan.steps[i + 1 : i + 2]] == ["conv"])
            # No entry is read where there is none below, so anything may stand for them.
            given = step, (base, entries or base), as_changes
            base, entries = self._conv(next(convs), *given) if step.layer.kind == "conv" else self._pool(*given)
        rows = graph.reshape(base, 0, plan.steps[-1].table.base, -1)
        table = graph.concat([rows, *([entries] if entries else []), nothing(graph, rows)], 1)
        cells = graph.op("Gather", table, graph.const(plan.readout.astype(np.int32)), axis=1)
        seen = graph.reshape(cells, 0, plan.locations, -1)
        return linear(graph, graph.op("Cast", seen, to=FLOAT) if self._half else seen, net.project)

    def _conv(self, conv: nn.Module, step: Step, below: tuple[str, str], as_changes: int) -> tuple[str, str]:
        assert isinstance(conv, nn.Conv2d)
        weight = array(tap_weights(conv.weight)).astype(np.float16 if self._half else np.float32)
        weights = [self._graph.const(weight), self._graph.const(array(conv.bias))]
        sums, base = self._graph.plugin("partial_conv_base", [below[0], *weights], 2, sm=self._sm)
        given = [below[1], below[0], sums, base, *weights]
        return base, self._entries("partial_conv_entries", step, given, as_changes=as_changes)

    def _pool(self, step: Step, below: tuple[str, str], as_changes: int) -> tuple[str, str]:
        graph, size = self._graph, step.layer.kernel
        image = graph.op("Transpose", below[0], perm=[0, 3, 1, 2])
        pooled = graph.op("MaxPool", image, kernel_shape=[size, size], strides=[size, size])
        base = graph.op("Transpose", pooled, perm=[0, 2, 3, 1])
        given = [below[1], below[0], base]
        return base, self._entries("max_pool_entries", step, given, as_changes=as_changes, size=size)

    def _entries(self, kind: str, step: Step, given: list[str], **settings: int) -> str:
        if not step.table.entries:
            return ""
        tables = [self._graph.const(table.numpy()) for table in level_tables(step, "cpu").tensors()]
        return self._graph.plugin(kind, [*given, *tables], entries=step.table.entries, sm=self._sm, **settings)[0]
