"""The whole pipeline as one ONNX graph: uint8 images in; map, mask, score and decision out."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import onnx

from glance_fast.export.graph.builder import BOOL, FLOAT, HALF, UINT8, Array, Graph
from glance_fast.export.graph.dense_pass import array, dense_pass, linear
from glance_fast.export.graph.dense_pass_node import dense_pass_node
from glance_fast.export.graph.local_net import local_net
from glance_fast.models.model import GlanceModel
from glance_fast.models.whitening import LocationWhitening
from glance_fast.plan.plan import refine_bands
from glance_fast.postprocessing.anomaly_map import map_weights
from glance_fast.postprocessing.calibration import Calibration
from glance_fast.version import __version__

FORMAT = 1
# What the nodes of both networks are called, `networks/…`; whitening and the heads stay in float32.
NETWORKS = "networks"
# Of a location's matrix. 3 to 6 take the same time in OpenVINO: 4.6 ms for 168 features where one strip takes 6.5.
STRIPS = 4


def export_onnx(
    model: GlanceModel,
    calibration: Calibration,
    half: bool = False,
    sm: int | None = None,
    openvino: str | None = None,
) -> onnx.ModelProto:
    """The pipeline of a trained model, in float32; with `half` both networks compute in float16, and only they.

    In: `image` uint8 [B, H, W, 3] at the model's size, B open. Out, each for all images: `pred_score` float32 [B];
    `pred_label` bool [B], the score is above the threshold; `anomaly_map` float32 [B, H, W]; `pred_mask` bool
    [B, H, W], the map is above the pixel threshold; `anomaly_grid` float32 [B, gy, gx], the locations' own scores,
    for maps in another size. The initializers `threshold` and `pixel_threshold` may be set anew in the file.

    With `sm`, a GPU's compute capability (90 is 9.0), the dense pass and the heads are nodes that TensorRT alone reads,
    by the plugins in `tensorrt_plugins`. With `openvino`, fp32 or bf16, the dense pass is a node that OpenVINO alone
    reads, by the extension in `kernels/cpu`, and computes at that precision.
    """
    config, graph = model.config, Graph("glance_fast")
    height, width = config.image_size
    rows, cols = (len(starts) for starts in model.grid)
    seen = _normalised(graph, model, graph.input("image", UINT8, ["batch", height, width, 3]))
    with graph.scope(NETWORKS, half):
        seen = graph.op("Cast", seen, to=HALF) if half else seen
        z_local, read = local_net(graph, model.local_net, seen, config.stride, (rows, cols))
        read = _cropped(graph, model, read)
        z_local = graph.op("Cast", z_local, to=FLOAT) if half else z_local
    if sm is None:
        with graph.scope(NETWORKS, half):
            net, plan = model.global_net, model.compile_plan()
            if openvino is None:
                z_global = dense_pass(graph, net, refine_bands(plan), read)
            else:
                z_global = dense_pass_node(graph, net, plan, read, bfloat16=openvino == "bf16")
            z_global = graph.op("Cast", z_global, to=FLOAT) if half else z_global
        scores = _scores(graph, model, z_local, z_global)
    else:
        from glance_fast.export.tensorrt.nodes import Plugins  # which needs Triton

        scores = Plugins(graph, sm, half).scores(model, z_local, read)
    grid = graph.reshape(scores, 0, rows, cols)
    if config.smoothing_sigma:
        grid = _resampled(graph, grid, array(model.blur_rows), array(model.blur_cols))
    scores = graph.reshape(grid, 0, rows * cols)
    top = graph.const(np.array([min(config.top_k, rows * cols)], np.int64))
    score = _mean(graph, _top(graph, scores, top), axis=1)
    sides = (map_weights(patches.side, patches) for patches in config.patches)
    anomaly_map = _resampled(graph, grid, *sides)
    limits = [
        graph.const(np.array(getattr(calibration, name), np.float32), name) for name in ("threshold", "pixel_threshold")
    ]
    graph.output(score, "pred_score", FLOAT, ["batch"])
    graph.output(graph.op("Greater", score, limits[0]), "pred_label", BOOL, ["batch"])
    graph.output(anomaly_map, "anomaly_map", FLOAT, ["batch", height, width])
    graph.output(graph.op("Greater", anomaly_map, limits[1]), "pred_mask", BOOL, ["batch", height, width])
    graph.output(grid, "anomaly_grid", FLOAT, ["batch", rows, cols])
    return graph.finish(metadata(model, calibration))


def metadata(model: GlanceModel, calibration: Calibration) -> dict[str, str]:
    """What travels inside the file: format, versions, configuration, calibration."""
    return {
        "glance_fast.format": str(FORMAT),
        "glance_fast.version": __version__,
        "glance_fast.model": json.dumps(model.config.model_dump(mode="json")),
        "glance_fast.calibration": calibration.model_dump_json(),
    }


def _normalised(graph: Graph, model: GlanceModel, image: str) -> str:
    """What the networks see of images, with the overhang around them: float32 [B, 3, H', W']."""
    mean, std = array(model.mean).ravel(), array(model.std).ravel()
    scaled = graph.op("Mul", graph.op("Cast", image, to=FLOAT), graph.const(1 / (255 * std)))
    # The transposition comes last: where a convolution wants channels last in memory it costs nothing.
    seen = graph.op("Transpose", graph.op("Sub", scaled, graph.const(mean / std)), perm=[0, 3, 1, 2])
    edge = model.config.border_padding
    return graph.op("Pad", seen, graph.ints(0, 0, edge, edge, 0, 0, edge, edge)) if edge else seen


def _cropped(graph: Graph, model: GlanceModel, read: str) -> str:
    for axis, cells in enumerate(model.cells, start=2):
        read = graph.slice(read, axis, cells.start, cells.stop)
    return read


def _scores(graph: Graph, model: GlanceModel, z_local: str, z_global: str) -> str:
    """`s` of every location, [B, locations]."""
    norm, lam, n, wide = model.whitening, model.config.iad_weight, model.config.features, model.config.context_features
    if norm is None:
        difference = graph.op("Sub", z_local, z_global)
        square = graph.op("Mul", difference, difference)
        inconsistency = _mean(graph, square, axis=2)
        logit = _logit(graph, model, graph.concat([z_local, z_global, square], 2))
        distortion = graph.op("Sigmoid", graph.op("Neg", logit))
    else:
        difference = graph.op("Sub", graph.slice(z_local, 2, 0, n), z_global)
        if wide:
            difference = graph.concat([difference, graph.slice(z_local, 2, n, n + wide)], 2)
        difference = _whitened(graph, norm, difference)
        distance = graph.op("Sqrt", _mean(graph, graph.op("Mul", difference, difference), axis=2))
        logit = _logit(graph, model, graph.concat([graph.slice(difference, 2, 0, n), z_global], 2))
        usual, spread = array(model.score_offset), array(model.score_scale)
        inconsistency, distortion = (
            graph.op("Div", graph.op("Sub", head, graph.const(usual[i])), graph.const(spread[i]))
            for i, head in enumerate((distance, graph.op("Neg", logit)))
        )
    weighted = [
        graph.op("Mul", head, graph.const(np.array(weight, np.float32)))
        for head, weight in ((inconsistency, lam), (distortion, 1 - lam))
    ]
    return graph.op("Add", *weighted)


def _whitened(graph: Graph, norm: LocationWhitening, difference: str) -> str:
    """`W (d − mean)` of every location, [B, locations, n].

    W is lower triangular: in strips of rows, each without the zeros on its right, it takes less space and time. It
    stands on the right: there OpenVINO reads it in bfloat16, where that was asked for, and in half the time.
    """
    centred = graph.op("Transpose", graph.op("Sub", difference, graph.const(array(norm.mean))), perm=[1, 0, 2])
    whiten = array(norm.lower()).transpose(0, 2, 1)
    ends = np.linspace(0, whiten.shape[1], min(STRIPS, whiten.shape[1]) + 1).astype(int).tolist()
    strips = [
        graph.op("MatMul", graph.slice(centred, 2, 0, high), graph.const(whiten[:, :high, low:high]))
        for low, high in pairwise(ends)
    ]
    return graph.op("Transpose", graph.concat(strips, 2), perm=[1, 0, 2])


def _logit(graph: Graph, model: GlanceModel, seen: str) -> str:
    """C's logit of "normal" of every location, [B, locations]."""
    first, _, second, _, last = model.distortion.classify
    hidden = graph.op("Relu", linear(graph, seen, first))
    hidden = graph.op("Relu", linear(graph, hidden, second))
    return graph.op("Squeeze", linear(graph, hidden, last), graph.ints(2))


def _resampled(graph: Graph, grid: str, rows: Array, cols: Array) -> str:
    """`rows @ grid @ cols.T` of each image."""
    return graph.op("MatMul", graph.op("MatMul", graph.const(rows), grid), graph.const(cols.T))


def _mean(graph: Graph, value: str, axis: int) -> str:
    return graph.op("ReduceMean", value, axes=[axis], keepdims=0)


def _top(graph: Graph, scores: str, count: str) -> str:
    """The highest scores of each image, [B, count]."""
    return graph.op("TopK", scores, count, axis=1)
