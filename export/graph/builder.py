"""A builder of ONNX graphs: every call adds a node and returns the name of its output."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

# The newest opset that TensorRT 8.6 reads; every later version reads it too.
OPSET = 17
IR_VERSION = 8
# The domain of our own operators.
DOMAIN = "glance_fast"

Array = NDArray[Any]


class Graph:
    """Nodes in the order in which they are added, constants, inputs and outputs."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._scope = ""
        self._half = False
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._initializers: list[onnx.TensorProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []

    def input(self, name: str, dtype: int, shape: Sequence[int | str]) -> str:
        """Add an input; a dimension given by a name is open."""
        self._inputs.append(helper.make_tensor_value_info(name, dtype, shape))
        return name

    def output(self, value: str, name: str, dtype: int, shape: Sequence[int | str]) -> None:
        """Make a value an output named `name`."""
        self._nodes.append(helper.make_node("Identity", [value], [name], name=name))
        self._outputs.append(helper.make_tensor_value_info(name, dtype, shape))

    def const(self, value: Array, name: str | None = None) -> str:
        """Add a constant; equal constants without a name are stored once."""
        array = np.array(value, order="C")  # unlike ascontiguousarray it keeps a scalar's shape ()
        if self._half and array.dtype == np.float32:
            array = array.astype(np.float16)
        key = (array.dtype.str, array.shape, array.tobytes())
        if name is None and key in self._constants:
            return self._constants[key]
        new_name = name or f"constant_{len(self._initializers)}"
        self._initializers.append(numpy_helper.from_array(array, new_name))
        if name is None:
            self._constants[key] = new_name
        return new_name

    def ints(self, *values: int) -> str:
        """A constant int64 [n]: a shape, axes, ends."""
        return self.const(np.array(values, np.int64))

    @contextmanager
    def scope(self, name: str, half: bool = False) -> Iterator[None]:
        """Nodes added in the with-block are named `name/…`; with `half` their float constants are float16."""
        outer = self._scope, self._half
        self._scope, self._half = f"{self._scope}{name}/", half or self._half
        yield
        self._scope, self._half = outer

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Add a node; returns its first output."""
        name = f"{self._scope}{kind}_{len(self._nodes)}"
        outputs = [name, f"{name}_indices"] if kind == "TopK" else [name]
        self._nodes.append(helper.make_node(kind, list(inputs), outputs, name=name, **attributes))
        return name

    def custom_op(self, kind: str, inputs: Sequence[str], outputs: int = 1, **settings: Any) -> list[str]:
        """Add a node of our domain: OpenVINO runs it by an extension, TensorRT by a plugin. Returns its outputs."""
        name = f"{self._scope}{kind}_{len(self._nodes)}"
        names = [f"{name}_{i}" for i in range(outputs)]
        self._nodes.append(helper.make_node(kind, list(inputs), names, name=name, domain=DOMAIN, **settings))
        return names

    def plugin(self, kind: str, inputs: Sequence[str], outputs: int = 1, **settings: int) -> list[str]:
        """Add a node that TensorRT runs by one of our plugins, whose kernel is compiled ahead of time."""
        return self.custom_op(kind, inputs, outputs, plugin_namespace=DOMAIN, plugin_version="1", aot=1, **settings)

    def reshape(self, value: str, *shape: int) -> str:
        """Reshape: 0 keeps a dimension, −1 is inferred from the rest."""
        return self.op("Reshape", value, self.ints(*shape))

    def slice(self, value: str, axis: int, start: int, stop: int) -> str:
        """The elements from `start` to before `stop` along an axis."""
        return self.op("Slice", value, self.ints(start), self.ints(stop), self.ints(axis))

    def split(self, value: str, axis: int, sizes: Sequence[int]) -> list[str]:
        """Consecutive parts of these sizes along an axis."""
        if len(sizes) == 1:
            return [value]
        name = f"{self._scope}Split_{len(self._nodes)}"
        names = [f"{name}_{i}" for i in range(len(sizes))]
        self._nodes.append(helper.make_node("Split", [value, self.ints(*sizes)], names, name=name, axis=axis))
        return names

    def concat(self, values: Sequence[str], axis: int) -> str:
        """The values joined along an axis."""
        return values[0] if len(values) == 1 else self.op("Concat", *values, axis=axis)

    def finish(self, metadata: Mapping[str, str]) -> onnx.ModelProto:
        """The model, checked by ONNX, with its metadata."""
        graph = helper.make_graph(self._nodes, self._name, self._inputs, self._outputs, self._initializers)
        plugins = [helper.make_opsetid(DOMAIN, 1)] if any(node.domain for node in self._nodes) else []
        opsets = [helper.make_opsetid("", OPSET), *plugins]
        model = helper.make_model(graph, opset_imports=opsets, producer_name="glance_fast")
        model.ir_version = IR_VERSION
        helper.set_model_props(model, dict(metadata))
        onnx.checker.check_model(model, full_check=True)
        return model


FLOAT, HALF, UINT8, BOOL = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.UINT8, TensorProto.BOOL
