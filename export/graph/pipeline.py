"""The whole pipeline as one ONNX graph: uint8 images in; map, mask, score and decision out."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import onnx

from glance_fast.errors import ConfigError
from glance_fast.export.graph.builder import BOOL, FLOAT, HALF, UINT8, Array, Graph
from glance_fast.export.graph.dense_pass import array, dense_pass, linear
from glance_fast.export.graph.dense_pass_node import dense_pass_node
from glance_fast.export.graph.local_net import local_net
from glance_fast.export.graph.target import Target
from glance_fast.models.model import GlanceModel
from glance_fast.models.whitening import LocationWhitening
from glance_fast.plan.plan import refine_bands
from glance_fast.postprocessing.anomaly_map import map_weights
from glance_fast.postprocessing.calibration import Calibration
from glance_fast.version import __version__

# 2: the settings inside have the names of model folders of format 2.
GRAPH_FORMAT = 2
# The scope of both networks' nodes, `networks/…`; whitening and the heads stay in float32.
NETWORK_SCOPE = "networks"
# Row strips of a location's whitening matrix. 3 to 6 take the same time in OpenVINO: 4.6 ms for 168 features, of which
# a single strip takes 6.5 ms.
WHITENING_STRIPS = 4
_PORTABLE = Target()

# Writes the nodes of a "tensorrt" graph: of a graph, its target, the model, z_l float32 [B, locations, n] and
# Global-Net's input [B, C, H, W] to the scores before smoothing, float32 [B, locations].
PluginScores = Callable[[Graph, Target, GlanceModel, str, str], str]


def export_onnx(
    model: GlanceModel,
    calibration: Calibration,
    target: Target = _PORTABLE,
    plugin_scores: PluginScores | None = None,
) -> onnx.ModelProto:
    """The whole pipeline of a trained model as an ONNX graph for a target.

    In: `image` uint8 [B, H, W, 3] at the model's size, B open. Out, each for all images: `pred_score` float32 [B];
    `pred_label` bool [B], the score is above the threshold or NaN; `anomaly_map` float32 [B, H, W]; `pred_mask` bool
    [B, H, W], the map is above the pixel threshold; `anomaly_grid` float32 [B, gy, gx], the locations' scores, for maps
    in another size. The initializers `threshold` and `pixel_threshold` may be changed in the file.

    `plugin_scores`: for a target of kind "tensorrt" alone, `glance_fast.export.tensorrt.nodes.plugin_scores`. Raises
    ConfigError for that target without it, and for another target with it.
    """
    if (target.kind == "tensorrt") != (plugin_scores is not None):
        raise ConfigError(
            f"plugin_scores is for graphs of kind 'tensorrt', and needed there; the kind is {target.kind!r}"
        )
    graph = Graph("glance_fast")
    image = graph.input("image", UINT8, ["batch", *model.config.image_size, 3])
    _write_outputs(graph, model, calibration, _score_grid(graph, model, image, target, plugin_scores))
    return graph.finish(metadata(model, calibration))


def _score_grid(
    graph: Graph, model: GlanceModel, image: str, target: Target, plugin_scores: PluginScores | None
) -> str:
    """The locations' scores, smoothed if the model smooths: [B, gy, gx]."""
    grid_shape = rows, cols = len(model.grid[0]), len(model.grid[1])
    normalised = _normalised(graph, model, image)
    with graph.scope(NETWORK_SCOPE, target.half):
        half_image = graph.op("Cast", normalised, to=HALF) if target.half else normalised
        z_local, feature_map = local_net(graph, model.local_net, half_image, model.config.stride, grid_shape)
        feature_map = _cropped(graph, model, feature_map)
        z_local = graph.op("Cast", z_local, to=FLOAT) if target.half else z_local
    if plugin_scores is not None:
        scores = plugin_scores(graph, target, model, z_local, feature_map)
    else:
        scores = _scores(graph, model, z_local, _global_net(graph, model, feature_map, target))
    grid = graph.reshape(scores, 0, rows, cols)
    if model.config.smoothing_sigma:
        grid = _resampled(graph, grid, array(model.blur_rows), array(model.blur_cols))
    return grid


def _global_net(graph: Graph, model: GlanceModel, feature_map: str, target: Target) -> str:
    """`z_g` float32 [B, locations, n]: the dense pass as ONNX's operators, or as the node of our CPU kernels."""
    with graph.scope(NETWORK_SCOPE, target.half):
        net, plan = model.global_net, model.compile_plan()
        if target.kind == "openvino":
            return dense_pass_node(graph, net, plan, feature_map, bfloat16=target.precision == "bf16")
        z_global = dense_pass(graph, net, refine_bands(plan), feature_map)
        return graph.op("Cast", z_global, to=FLOAT) if target.half else z_global


def _write_outputs(graph: Graph, model: GlanceModel, calibration: Calibration, grid: str) -> None:
    """Score, decision, map and mask, from the grid of scores [B, gy, gx]."""
    config, (height, width) = model.config, model.config.image_size
    rows, cols = (len(starts) for starts in model.grid)
    scores = graph.reshape(grid, 0, rows * cols)
    top = graph.const(np.array([min(config.top_k, rows * cols)], np.int64))
    score = _mean(graph, graph.op("TopK", scores, top, axis=1), axis=1)
    anomaly_map = _resampled(graph, grid, *(map_weights(patches.side, patches) for patches in config.patches))
    threshold = graph.const(np.array(calibration.threshold, np.float32), "threshold")
    pixel_threshold = graph.const(np.array(calibration.pixel_threshold, np.float32), "pixel_threshold")
    graph.output(score, "pred_score", FLOAT, ["batch"])
    # Not "Greater", which is false for a score that is NaN: what cannot be judged is not normal.
    label = graph.op("Not", graph.op("LessOrEqual", score, threshold))
    graph.output(label, "pred_label", BOOL, ["batch"])
    graph.output(anomaly_map, "anomaly_map", FLOAT, ["batch", height, width])
    graph.output(graph.op("Greater", anomaly_map, pixel_threshold), "pred_mask", BOOL, ["batch", height, width])
    graph.output(grid, "anomaly_grid", FLOAT, ["batch", rows, cols])


def metadata(model: GlanceModel, calibration: Calibration) -> dict[str, str]:
    """The metadata inside the file: format, version, configuration, calibration."""
    return {
        "glance_fast.format": str(GRAPH_FORMAT),
        "glance_fast.version": __version__,
        "glance_fast.model": json.dumps(model.config.model_dump(mode="json")),
        "glance_fast.calibration": calibration.model_dump_json(),
    }


def _normalised(graph: Graph, model: GlanceModel, image: str) -> str:
    """Normalised images with the border padding around them: float32 [B, 3, H', W']."""
    mean, std = array(model.mean).ravel(), array(model.std).ravel()
    scaled = graph.op("Mul", graph.op("Cast", image, to=FLOAT), graph.const(1 / (255 * std)))
    # The transposition comes last: where a convolution wants channels last in memory it costs nothing.
    planes = graph.op("Transpose", graph.op("Sub", scaled, graph.const(mean / std)), perm=[0, 3, 1, 2])
    edge = model.config.border_padding
    return graph.op("Pad", planes, graph.ints(0, 0, edge, edge, 0, 0, edge, edge)) if edge else planes


def _cropped(graph: Graph, model: GlanceModel, feature_map: str) -> str:
    """The cells of the feature map that Global-Net reads: [B, C, H, W]."""
    for axis, cells in enumerate(model.cells, start=2):
        feature_map = graph.slice(feature_map, axis, cells.start, cells.stop)
    return feature_map


def _scores(graph: Graph, model: GlanceModel, z_local: str, z_global: str) -> str:
    """The score of every location, [B, locations], by the formula in `glance_fast.models.heads`."""
    if model.whitening is None:
        heads = _plain_heads(graph, model, z_local, z_global)
    else:
        heads = _whitened_heads(graph, model, model.whitening, z_local, z_global)
    weights = (model.config.iad_weight, 1 - model.config.iad_weight)
    weighted = [
        graph.op("Mul", head, graph.const(np.array(weight, np.float32)))
        for head, weight in zip(heads, weights, strict=True)
    ]
    return graph.op("Add", *weighted)


def _plain_heads(graph: Graph, model: GlanceModel, z_local: str, z_global: str) -> tuple[str, str]:
    """s_IAD and s_DAD of every location, each [B, locations], without whitening."""
    difference = graph.op("Sub", z_local, z_global)
    square = graph.op("Mul", difference, difference)
    inconsistency = _mean(graph, square, axis=2)
    logit = _logit(graph, model, graph.concat([z_local, z_global, square], 2))
    return inconsistency, graph.op("Sigmoid", graph.op("Neg", logit))


def _whitened_heads(
    graph: Graph, model: GlanceModel, whitening: LocationWhitening, z_local: str, z_global: str
) -> tuple[str, str]:
    """√s_IAD and DAD's logit on one scale, each [B, locations], of z_l and z_g, with whitening."""
    n, context = model.config.features, model.config.context_features
    difference = graph.op("Sub", graph.slice(z_local, 2, 0, n), z_global)
    if context:
        difference = graph.concat([difference, graph.slice(z_local, 2, n, n + context)], 2)
    difference = _whitened(graph, whitening, difference)
    distance = graph.op("Sqrt", _mean(graph, graph.op("Mul", difference, difference), axis=2))
    logit = _logit(graph, model, graph.concat([graph.slice(difference, 2, 0, n), z_global], 2))
    offset, scale = array(model.score_offset), array(model.score_scale)
    inconsistency, distortion = (
        graph.op("Div", graph.op("Sub", head, graph.const(offset[i])), graph.const(scale[i]))
        for i, head in enumerate((distance, graph.op("Neg", logit)))
    )
    return inconsistency, distortion


def _whitened(graph: Graph, whitening: LocationWhitening, difference: str) -> str:
    """`W (d − mean)` of every location, [B, locations, n].

    W is lower triangular: in strips of rows, each without the zeros on its right, it takes less space and time. It is
    the product's right factor: OpenVINO reads that in bfloat16 where bf16 is requested, in half the time.
    """
    centred = graph.op("Transpose", graph.op("Sub", difference, graph.const(array(whitening.mean))), perm=[1, 0, 2])
    whiten = array(whitening.lower()).transpose(0, 2, 1)
    ends = np.linspace(0, whiten.shape[1], min(WHITENING_STRIPS, whiten.shape[1]) + 1).astype(int).tolist()
    strips = [
        graph.op("MatMul", graph.slice(centred, 2, 0, high), graph.const(whiten[:, :high, low:high]))
        for low, high in pairwise(ends)
    ]
    return graph.op("Transpose", graph.concat(strips, 2), perm=[1, 0, 2])


def _logit(graph: Graph, model: GlanceModel, features: str) -> str:
    """The distortion classifier's logit of "normal" of every location, [B, locations]."""
    first, _, second, _, last = model.distortion.classify
    hidden = graph.op("Relu", linear(graph, features, first))
    hidden = graph.op("Relu", linear(graph, hidden, second))
    return graph.op("Squeeze", linear(graph, hidden, last), graph.ints(2))


def _resampled(graph: Graph, grid: str, rows: Array, cols: Array) -> str:
    """`rows @ grid @ cols.T` of each image."""
    return graph.op("MatMul", graph.op("MatMul", graph.const(rows), grid), graph.const(cols.T))


def _mean(graph: Graph, value: str, axis: int) -> str:
    return graph.op("ReduceMean", value, axes=[axis], keepdims=0)
