"""int8 for an ONNX graph, as explicit Q/DQ nodes around the products of the dense pass's blocks.

For ONNX Runtime by its own quantizer; for TensorRT by NVIDIA's ModelOpt, which follows TensorRT's fusions.
"""

from __future__ import annotations

import copy
import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from glance_fast.export.graph.dense_pass import BLOCK_SCOPE
from glance_fast.export.quantization.modelopt import quantize_matmuls

Photos = Sequence[NDArray[np.uint8]]


def quantize_int8(model: onnx.ModelProto, photographs: Photos) -> onnx.ModelProto:
    """The graph with its blocks' products in 8 bits, symmetric; ranges are of `photographs`, uint8 [H, W, 3]."""
    with tempfile.TemporaryDirectory() as directory, _without_warnings():
        quantized = Path(directory) / "quantized.onnx"
        quantize_static(
            copy.deepcopy(model), quantized, _Reader(photographs), QuantFormat.QDQ,  # it empties its argument
            nodes_to_quantize=_block_products(model), op_types_to_quantize=["MatMul"],
            activation_type=QuantType.QInt8, weight_type=QuantType.QInt8,
            extra_options={"ActivationSymmetric": True, "WeightSymmetric": True},
        )  # fmt: skip
        return _with_metadata(onnx.load(quantized), model)


def quantize_int8_for_tensorrt(model: onnx.ModelProto, photographs: Photos) -> onnx.ModelProto:
    """The same by ModelOpt, with a scale per column of the weights; raises what `modelopt.quantize_matmuls` raises."""
    return _with_metadata(quantize_matmuls(model, _block_products(model), photographs), model)


def _block_products(model: onnx.ModelProto) -> list[str]:
    """The names of the blocks' products."""
    return [node.name for node in model.graph.node if f"{BLOCK_SCOPE}/" in node.name]


def _with_metadata(quantized: onnx.ModelProto, model: onnx.ModelProto) -> onnx.ModelProto:
    """The quantized graph, checked, with the metadata of the original."""
    onnx.helper.set_model_props(quantized, {entry.key: entry.value for entry in model.metadata_props})
    onnx.checker.check_model(quantized, full_check=True)
    return quantized


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Drop the quantizer's warnings, which advise to simplify the graph first; ours has nothing to simplify.

    ONNX Runtime's modules log to the root logger itself, so the filter is there and looks at the file that logs.
    """

    def keep(record: logging.LogRecord) -> bool:
        return "onnxruntime" not in record.pathname or record.levelno >= logging.ERROR

    root = logging.getLogger()
    root.addFilter(keep)
    try:
        yield
    finally:
        root.removeFilter(keep)


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    """Feeds the quantizer one photograph per call."""

    def __init__(self, photographs: Photos) -> None:
        self._photographs = iter(photographs)

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        """The next input, None after the last."""
        photograph = next(self._photographs, None)
        return None if photograph is None else {"image": photograph[None]}
