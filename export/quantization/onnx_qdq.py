"""8 bits for the blocks of an ONNX graph's dense pass, as explicit Q/DQ nodes.

For ONNX Runtime by its own quantizer; for TensorRT by NVIDIA's ModelOpt, which knows what TensorRT makes of them.
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

from glance_fast.export.graph.dense_pass import BLOCKS
from glance_fast.export.quantization.modelopt import quantized

Photos = Sequence[NDArray[np.uint8]]


def eight_bits(model: onnx.ModelProto, photos: Photos) -> onnx.ModelProto:
    """The graph with the products of its blocks in 8 bits, symmetric as TensorRT wants them.

    `photos`: normal photographs uint8 [H, W, 3] at the model's size, which ranges are taken from.
    """
    with tempfile.TemporaryDirectory() as place, _quiet():
        made = Path(place) / "made.onnx"
        quantize_static(
            copy.deepcopy(model), made, _Photos(photos), QuantFormat.QDQ,  # it would empty what it is given
            nodes_to_quantize=_products(model), op_types_to_quantize=["MatMul"],
            activation_type=QuantType.QInt8, weight_type=QuantType.QInt8,
            extra_options={"ActivationSymmetric": True, "WeightSymmetric": True},
        )  # fmt: skip
        return _told(onnx.load(made), model)


def eight_bits_for_tensorrt(model: onnx.ModelProto, photos: Photos) -> onnx.ModelProto:
    """The same by ModelOpt, whose ranges are finer; see `modelopt.quantized` for what it raises."""
    return _told(quantized(model, _products(model), photos), model)


def _products(model: onnx.ModelProto) -> list[str]:
    """The names of the blocks' products."""
    return [node.name for node in model.graph.node if f"{BLOCKS}/" in node.name]


def _told(made: onnx.ModelProto, model: onnx.ModelProto) -> onnx.ModelProto:
    """The checked graph with the metadata of the one it was made of."""
    onnx.helper.set_model_props(made, {entry.key: entry.value for entry in model.metadata_props})
    onnx.checker.check_model(made, full_check=True)
    return made


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the quantizer's advice to simplify the graph first, which is not for a graph that is simple already."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)


class _Photos(CalibrationDataReader):  # type: ignore[misc]
    """The photographs one by one, as the quantizer asks for them."""

    def __init__(self, photos: Photos) -> None:
        self._rest: Iterator[NDArray[np.uint8]] = iter(photos)

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        photo = next(self._rest, None)
        return None if photo is None else {"image": photo[None]}
