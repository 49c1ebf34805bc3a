"""The dense pass as a single node `DensePass`, which OpenVINO runs by our extension, `kernels/cpu`."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch import nn

from glance_fast.export.graph.builder import Array, Graph
from glance_fast.export.graph.dense_pass import array, linear
from glance_fast.kernels.reference.partial_conv import tap_weights
from glance_fast.models.global_net import GlobalNet
from glance_fast.plan.layer import Ints
from glance_fast.plan.plan import Plan, refine_bands
from glance_fast.plan.step import Step

# Minimum keys of a refined band. Lower than for other backends: a block costs these kernels next to nothing.
MIN_KEYS = 5


def dense_pass_node(graph: Graph, net: GlobalNet, plan: Plan, image: str, bfloat16: bool) -> str:
    """`z_g` [B, locations, n] of Global-Net's input, float32 [B, C, H, W]; `bfloat16` is the type of its products."""
    plan = refine_bands(plan, MIN_KEYS)
    width = plan.readout.shape[1] * plan.steps[-1].layer.channels
    inputs = [image, graph.const(serialize_plan(plan)), graph.const(serialize_weights(net))]
    settings = {"locations": plan.locations, "width": width, "bfloat16": int(bfloat16)}
    return linear(graph, graph.custom_op("DensePass", inputs, **settings)[0], net.project)


def serialize_plan(plan: Plan) -> Array:
    """The plan in the layout that `kernels/cpu/plan.hpp` reads, int32 [n]."""
    first = plan.steps[0]
    parts = [np.array([first.channels_in, *first.below.base_shape, len(plan.steps)])]
    for step in plan.steps:
        parts += _step(step)
    parts += [np.array([*plan.readout.shape]), plan.readout]
    return np.concatenate([np.ravel(part) for part in parts]).astype(np.int32)


def _step(step: Step) -> Iterator[Ints]:
    layer, blocks = step.layer, step.blocks()
    yield np.array([layer.kind == "conv", layer.kernel, layer.channels, step.table.entries])
    yield step.table.base_index()
    if layer.kind == "conv":
        yield step.valid_counts()
    yield np.array([len(blocks)])
    for block in blocks:
        yield np.array([len(block), block.recompute, len(block.taps), *block.taps])
        yield block.sources


def serialize_weights(net: GlobalNet) -> Array:
    """Each convolution's weights [k², C, C'] followed by its bias [C'], flat, float32 [n]."""
    return np.concatenate([part for conv in net.convs for part in _weights(conv)])


def _weights(conv: nn.Module) -> tuple[Array, Array]:
    assert isinstance(conv, nn.Conv2d) and conv.bias is not None
    return array(tap_weights(conv.weight)).ravel(), array(conv.bias)
