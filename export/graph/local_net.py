"""Both Local-Nets as graphs: `z_l` of every patch of an image, and the map that Global-Net reads."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from torch import nn

from glance_fast.errors import BackendError
from glance_fast.export.graph.builder import Graph
from glance_fast.export.graph.dense_pass import array
from glance_fast.models.backbone_local_net import (
    LOCAL_NET_BLOCKS,
    RELU6_MAX,
    STEM_STRIDE,
    TAPS,
    PretrainedLocalNet,
    middle,
)
from glance_fast.models.context_net import ContextNet, subsample, upsampling_weights
from glance_fast.models.inverted_bottleneck import InvertedBottleneck
from glance_fast.models.local_net import DistilledLocalNet
from glance_fast.models.patch_encoder import PatchEncoder


def local_net(graph: Graph, net: PatchEncoder, image: str, step: int, grid: tuple[int, int]) -> tuple[str, str]:
    """`z_l` [B, locations, n] of padded normalised images [B, 3, H, W], and the map that Global-Net reads.

    Raises BackendError for a Local-Net without a builder.
    """
    builder = BUILDERS.get(type(net))
    if builder is None:
        legal = " and ".join(kind.__name__ for kind in BUILDERS)
        raise BackendError(f"{type(net).__name__} has no graph; {legal} have one: add its builder to BUILDERS")
    features, feature_map = builder(graph, net, image, step, grid)
    flat = graph.reshape(features, 0, -1, grid[0] * grid[1])
    return graph.op("Transpose", flat, perm=[0, 2, 1]), feature_map


def _distilled(graph: Graph, net: DistilledLocalNet, image: str, step: int, grid: tuple[int, int]) -> tuple[str, str]:
    x = image
    for conv, (stride, dilation) in zip(net.convs, net.sampling(step), strict=True):
        x = graph.op("Relu", _conv(graph, x, conv, stride, dilation))
    return _conv(graph, x, net.project), image


def _pretrained(graph: Graph, net: PretrainedLocalNet, image: str, step: int, grid: tuple[int, int]) -> tuple[str, str]:
    x, maps = _relu6(graph, _conv(graph, image, net.stem_conv, STEM_STRIDE)), []
    sampling = net.sampling(step)
    for block, sampled in zip(net.blocks, sampling, strict=True):
        assert isinstance(block, InvertedBottleneck)
        x = _block(graph, x, block, sampled.stride, sampled.dilation)
        maps.append(x)
    taps = []
    for tap in TAPS:
        middle_cells = middle(sampling[tap.block].spacing, tap, step)
        first, dilation, stride = middle_cells.first, middle_cells.dilation, middle_cells.stride
        cells = maps[tap.block]
        if first:
            ends = graph.const(np.array([2**31 - 1] * 2, np.int64))
            cells = graph.op("Slice", cells, graph.ints(first, first), ends, graph.ints(2, 3))
        channels, shape = LOCAL_NET_BLOCKS[tap.block].after, [tap.cells, tap.cells]
        if dilation == 1:
            mean = graph.op("AveragePool", cells, kernel_shape=shape, strides=[stride] * 2)
        else:
            weight = np.full((channels, 1, *shape), 1 / tap.cells**2, np.float32)
            mean = graph.op(
                "Conv", cells, graph.const(weight), strides=[stride] * 2, dilations=[dilation] * 2, group=channels
            )
        taps.append(graph.slice(graph.slice(mean, 2, 0, grid[0]), 3, 0, grid[1]))
    centred = graph.op("Sub", maps[net.feature_block], graph.const(array(net.feature_map_mean)))
    feature_map = graph.op("Div", centred, graph.const(array(net.feature_map_std)))
    z_local = _conv(graph, graph.concat(taps, 1), net.project)
    if net.context_net is None:
        return z_local, feature_map
    return graph.concat([z_local, _context(graph, net.context_net, taps[0], step, grid)], 1), feature_map


def _context(graph: Graph, net: ContextNet, cells: str, step: int, grid: tuple[int, int]) -> str:
    ends, strides = graph.const(np.array([2**31 - 1] * 2, np.int64)), graph.ints(subsample(step), subsample(step))
    x = graph.op("Slice", cells, graph.ints(0, 0), ends, graph.ints(2, 3), strides)
    for block in net.blocks:
        assert isinstance(block, InvertedBottleneck)
        x = _block(graph, x, block)
    rows, cols = (array(upsampling_weights(side, step, net.project.weight)) for side in grid)
    upsampled = graph.op("MatMul", graph.const(rows), _conv(graph, x, net.project))
    return graph.op("MatMul", upsampled, graph.const(cols.T))


def _block(graph: Graph, x: str, block: InvertedBottleneck, stride: int = 1, dilation: int = 1) -> str:
    y = x if block.expand is None else _relu6(graph, _conv(graph, x, block.expand))
    depthwise = _conv(graph, y, block.depthwise, stride, dilation, block.padding * dilation)
    y = _conv(graph, _relu6(graph, depthwise), block.project)
    if block.shortcut:
        edge = (block.reach - block.padding) * dilation
        if edge:
            x = graph.op("Slice", x, graph.ints(edge, edge), graph.ints(-edge, -edge), graph.ints(2, 3))
        y = graph.op("Add", y, x)
    return y


def _conv(graph: Graph, x: str, conv: nn.Module, stride: int = 1, dilation: int = 1, edge: int = 0) -> str:
    assert isinstance(conv, nn.Conv2d) and conv.bias is not None
    weight, bias = graph.const(array(conv.weight)), graph.const(array(conv.bias))
    spread = {"strides": [stride] * 2, "dilations": [dilation] * 2, "pads": [edge] * 4}
    return graph.op("Conv", x, weight, bias, **spread, group=conv.groups)


def _relu6(graph: Graph, x: str) -> str:
    return graph.op("Clip", x, *(graph.const(np.array(end, np.float32)) for end in (0, RELU6_MAX)))


# The graph of each Local-Net, by its class and not by a method of it: models must not import ONNX. A new subclass of
# PatchEncoder needs a builder here.
BUILDERS: dict[type[PatchEncoder], Callable[..., tuple[str, str]]] = {
    DistilledLocalNet: _distilled,
    PretrainedLocalNet: _pretrained,
}
