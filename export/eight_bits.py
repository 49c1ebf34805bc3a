"""8 bits for the blocks of an ONNX graph's dense pass, as explicit Q/DQ nodes, by ONNX Runtime's quantizer."""

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

from glance_fast.export.dense import BLOCKS


def eight_bits(model: onnx.ModelProto, photos: Sequence[NDArray[np.uint8]]) -> onnx.ModelProto:
    """The graph with the products of its blocks in 8 bits, symmetric as TensorRT wants them.

    `photos`: normal photographs uint8 [H, W, 3] at the model's size, which ranges are taken from.
    """
    products = [node.name for node in model.graph.node if f"{BLOCKS}/" in node.name]
    with tempfile.TemporaryDirectory() as place, _quiet():
        made = Path(place) / "made.onnx"
        quantize_static(
            copy.deepcopy(model), made, _Photos(photos), QuantFormat.QDQ,  # it would empty what it is given
            nodes_to_quantize=products, op_types_to_quantize=["MatMul"],
            activation_type=QuantType.QInt8, weight_type=QuantType.QInt8,
            extra_options={"ActivationSymmetric": True, "WeightSymmetric": True},
        )  # fmt: skip
        quantized = onnx.load(made)
    onnx.helper.set_model_props(quantized, {entry.key: entry.value for entry in model.metadata_props})
    onnx.checker.check_model(quantized, full_check=True)
    return quantized


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

    def __init__(self, photos: Sequence[NDArray[np.uint8]]) -> None:
        self._rest: Iterator[NDArray[np.uint8]] = iter(photos)

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        photo = next(self._rest, None)
        return None if photo is None else {"image": photo[None]}
