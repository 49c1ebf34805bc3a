"""TensorRT on the host, to run what drives it: an "engine" is the ONNX graph behind a header, run by ONNX Runtime.

Names and parameters are TensorRT's own: `tests/export/test_fake_tensorrt.py` holds every class here to the members
that the Python bindings 11.4.0.106 and 10.16.1.11 have (`tests/helpers/tensorrt_api.json`, recorded from them).
"""

from __future__ import annotations

from enum import IntEnum
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx.reference import ReferenceEvaluator

from tests.helpers.fake_cuda import need_context, streams, view

HEADER = b"engine of "
# What https://docs.nvidia.com/deeplearning/tensorrt's operator table lists for the types that exported graphs use.
OPERATORS = {
    "Add", "And", "AveragePool", "Cast", "Clip", "Concat", "Conv", "Div", "Expand", "Gather", "Greater", "Identity",
    "LessOrEqual", "MatMul", "Max", "MaxPool", "Mul", "Neg", "Not", "Pad", "Range", "ReduceMean", "Relu", "Reshape",
    "ScatterElements", "Sigmoid", "Slice", "Split", "Sqrt", "Squeeze", "Sub", "TopK", "Transpose", "Where",
}  # fmt: skip


class Severity(IntEnum):
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)


class ILogger:
    Severity = Severity


class NetworkDefinitionCreationFlag(IntEnum):
    STRONGLY_TYPED, PREFER_AOT_PYTHON_PLUGINS = range(2)


class DataType(IntEnum):
    FLOAT, HALF, INT32 = range(3)


class BuilderFlag(IntEnum):
    VERSION_COMPATIBLE, EXCLUDE_LEAN_RUNTIME = range(2)


class HardwareCompatibilityLevel(IntEnum):
    NONE, AMPERE_PLUS = range(2)


class ITimingCache:
    def __init__(self, data: bytes) -> None:
        self.data = data

    def serialize(self) -> bytes:
        return self.data + b"t"


class IOptimizationProfile:
    def __init__(self) -> None:
        self.shapes: dict[str, tuple[Any, Any, Any]] = {}

    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:  # noqa: A002 - TensorRT's names
        self.shapes[input] = (min, opt, max)


class IBuilderConfig:
    hardware_compatibility_level = HardwareCompatibilityLevel.NONE

    def __init__(self) -> None:
        self.set: list[BuilderFlag] = []
        self.profiles: list[IOptimizationProfile] = []
        self.timings: ITimingCache | None = None

    def set_flag(self, flag: BuilderFlag) -> None:
        self.set.append(flag)

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        self.profiles.append(profile)
        return 0

    def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache:
        return ITimingCache(serialized_timing_cache)

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        self.timings = cache
        return ignore_mismatch or not cache.data.startswith(b"other")


class Network:
    graph = b""

    def __init__(self, flags: int) -> None:
        self.flags = flags


class ParserError:
    def __init__(self, node: onnx.NodeProto) -> None:
        self._node = node

    def node_name(self) -> str:
        return str(self._node.name)

    def node_operator(self) -> str:
        return str(self._node.op_type)

    def desc(self) -> str:
        return "no such operator"


class OnnxParser:
    refused: tuple[str, ...] = ()

    def __init__(self, network: Network, logger: ILogger) -> None:
        self._network, self._errors = network, list[ParserError]()

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> ParserError:
        return self._errors[index]

    def parse(self, model: bytes, path: str | None = None) -> bool:
        nodes = onnx.ModelProto.FromString(model).graph.node
        plugin_nodes = [node for node in nodes if node.domain]
        if plugin_nodes:
            assert self._network.flags == 3, "plugins that are compiled ahead of time must be asked for"
            from tests.helpers.fake_plugin import refused

            self._errors += [ParserError(node) for node in refused(plugin_nodes)]
        self._errors += [ParserError(node) for node in nodes if node.op_type in self.refused]
        self._network.graph = model
        return not self._errors


class Builder:
    last: IBuilderConfig
    fails = False

    def __init__(self, logger: ILogger) -> None:
        need_context()
        self._logger = logger

    def create_network(self, flags: int = 0) -> Network:
        assert flags in (1, 3)
        return Network(flags)

    def create_builder_config(self) -> IBuilderConfig:
        Builder.last = IBuilderConfig()
        return Builder.last

    def create_optimization_profile(self) -> IOptimizationProfile:
        return IOptimizationProfile()

    def build_serialized_network(self, network: Network, config: IBuilderConfig) -> bytes | None:
        if self.fails:
            self._logger.log(Severity.ERROR, "out of memory")  # type: ignore[attr-defined]
            return None
        max_batch = config.profiles[0].shapes["image"][2][0]
        return HEADER + bytes([max_batch]) + network.graph


class Runtime:
    def __init__(self, logger: ILogger) -> None:
        need_context()
        self._logger = logger

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
        if not serialized_engine.startswith(HEADER):
            self._logger.log(Severity.ERROR, "magic tag does not match")  # type: ignore[attr-defined]
            return None
        return ICudaEngine(serialized_engine[len(HEADER)], serialized_engine[len(HEADER) + 1 :])


TYPES = {"tensor(uint8)": np.uint8, "tensor(float)": np.float32, "tensor(bool)": np.bool_}


def _session(graph: bytes) -> Any:
    return onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])


class Reference:
    """A graph with plugins: ONNX's reference runs it, and takes its inputs and outputs from ONNX Runtime's names."""

    def __init__(self, model: onnx.ModelProto) -> None:
        from tests.helpers.fake_plugin import operators

        self._run = ReferenceEvaluator(model, new_ops=operators())
        self._model = model

    def get_inputs(self) -> list[Any]:
        return [_argument(value) for value in self._model.graph.input]

    def get_outputs(self) -> list[Any]:
        return [_argument(value) for value in self._model.graph.output]

    def run(self, names: list[str], feeds: dict[str, Any]) -> list[Any]:
        outputs = self._run.run(names, feeds)
        assert isinstance(outputs, list)
        return outputs


def _argument(value: onnx.ValueInfoProto) -> Any:
    kind = value.type.tensor_type
    types: dict[int, str] = {
        onnx.TensorProto.UINT8: "uint8", onnx.TensorProto.FLOAT: "float", onnx.TensorProto.BOOL: "bool"
    }  # fmt: skip
    shape = [side.dim_param or side.dim_value for side in kind.shape.dim]
    return SimpleNamespace(name=value.name, type=f"tensor({types[kind.elem_type]})", shape=shape)


class ICudaEngine:
    def __init__(self, max_batch: int, graph: bytes) -> None:
        self.max_batch = max_batch
        model = onnx.ModelProto.FromString(graph)
        self.session: Any = Reference(model) if len(model.opset_import) > 1 else _session(graph)
        arguments = (*self.session.get_inputs(), *self.session.get_outputs())
        self.tensors: dict[str, Any] = {argument.name: argument for argument in arguments}

    @property
    def num_io_tensors(self) -> int:
        return len(self.tensors)

    def get_tensor_name(self, index: int) -> str:
        return list(self.tensors)[index]

    def get_tensor_shape(self, name: str) -> list[int]:
        return [side if isinstance(side, int) else -1 for side in self.tensors[name].shape]

    def get_tensor_dtype(self, name: str) -> str:
        return str(self.tensors[name].type)

    def create_execution_context(self) -> IExecutionContext:
        need_context()
        return IExecutionContext(self)


class IExecutionContext:
    def __init__(self, engine: ICudaEngine) -> None:
        self._engine = engine
        self._batch = 0
        self._addresses: dict[str, int] = {}
        self._ran_plainly = False

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._batch = shape[0]
        return name == "image" and list(shape[1:]) == self._engine.get_tensor_shape(name)[1:]

    def get_tensor_shape(self, name: str) -> list[int]:
        assert self._batch
        return [self._batch if side == -1 else side for side in self._engine.get_tensor_shape(name)]

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._addresses[name] = memory
        return memory != 0

    def execute_async_v3(self, stream_handle: int) -> bool:
        stream, names = streams[stream_handle], [output.name for output in self._engine.session.get_outputs()]
        if not 1 <= self._batch <= self._engine.max_batch or {*names, "image"} != set(self._addresses):
            return False
        assert stream.captured is None or self._ran_plainly, "a first run cannot be captured"
        self._ran_plainly = True
        addresses, shapes = dict(self._addresses), {name: self.get_tensor_shape(name) for name in self._addresses}

        def work() -> None:
            images = view(addresses["image"], tuple(shapes["image"]), np.uint8)
            outputs = self._engine.session.run(names, {"image": images})
            for name, values in zip(names, outputs, strict=True):
                view(addresses[name], tuple(shapes[name]), values.dtype)[...] = values

        stream.put(work)
        return True


def nptype(trt_type: str) -> Any:
    return TYPES[trt_type]
