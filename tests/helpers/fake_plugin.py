"""`tensorrt.plugin` on the host: what plugins register here is launched in Triton's interpreter, as TensorRT would.

Names and parameters are TensorRT's own, of bindings 11.4.0.106 (`tests/helpers/tensorrt_api.json`). TensorRT's own
checks of a plugin function are repeated here: its signature, an annotation of every tensor and setting, its results.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, get_args

import numpy as np
import torch
from onnx import NodeProto
from onnx.reference.op_run import OpRun

from glance_fast.export.graph.builder import DOMAIN
from glance_fast.kernels.gpu.ahead_of_time import CompiledKernel
from tests.helpers.fake_tensorrt import DataType

NUMPY = {DataType.FLOAT: np.float32, DataType.HALF: np.float16, DataType.INT32: np.int32}
# The plugins' tensors that have a batch; all others are constants.
OF_IMAGES = {"base", "changes", "sums", "base_out", "values", "z_local", "z_global"}
KIND = {np.dtype(numpy): kind for kind, numpy in NUMPY.items()}


class ShapeExpr:
    """A number that may hang on the batch, which is known when an engine runs."""

    def __init__(self, value: int | ShapeExpr | Callable[[int], int]) -> None:
        if isinstance(value, ShapeExpr):
            self.at: Callable[[int], int] = value.at
        elif callable(value):
            self.at = value
        else:
            self.at = lambda batch: value

    def __mul__(self, other: int | ShapeExpr) -> ShapeExpr:
        return ShapeExpr(lambda batch: self.at(batch) * ShapeExpr(other).at(batch))

    __rmul__ = None


SymInt32 = ShapeExpr


class SymIntExprs(list[Any]):
    @classmethod
    def from_tuple(cls, shape_exprs: tuple[Any, ...]) -> SymIntExprs:
        return cls(shape_exprs)


@dataclass(eq=False)
class TensorDesc:
    shape_expr: tuple[ShapeExpr, ...]
    dtype: Any
    shape: tuple[int, ...] = field(default=(), init=False)


@dataclass
class KernelLaunchParams:
    grid_x: Any = 1
    grid_y: Any = 1
    grid_z: Any = 1
    block_x: Any = 1
    block_y: Any = 1
    block_z: Any = 1
    shared_mem: Any = 0


def from_shape_expr(shape_expr: tuple[Any, ...], dtype: Any) -> TensorDesc:
    return TensorDesc(tuple(ShapeExpr(side) for side in shape_expr), dtype)


def cdiv(first: Any, second: Any) -> ShapeExpr:
    assert isinstance(first, ShapeExpr), "TensorRT divides no two numbers"
    return ShapeExpr(lambda batch: -(-first.at(batch) // ShapeExpr(second).at(batch)))


described: dict[str, Callable[..., Any]] = {}
implemented: dict[str, Callable[..., Any]] = {}


def register(plugin_id: str, lazy_register: bool = False) -> Callable[[Any], Any]:
    def keep(function: Any) -> Any:
        assert plugin_id not in described
        kinds = [parameter.annotation for parameter in inspect.signature(function).parameters.values()]
        tensors = kinds.count(TensorDesc)
        assert kinds == [TensorDesc] * tensors + [int] * (len(kinds) - tensors)
        assert set(get_args(inspect.signature(function).return_annotation)) == {TensorDesc}
        described[plugin_id] = function
        return function

    return keep


def aot_impl(plugin_id: str) -> Callable[[Any], Any]:
    def keep(function: Any) -> Any:
        names = list(inspect.signature(described[plugin_id]).parameters)
        assert list(inspect.signature(function).parameters) == [*names, "outputs", "tactic"]
        kinds = get_args(inspect.signature(function).return_annotation)
        assert kinds == (str, str, KernelLaunchParams, SymIntExprs)
        implemented[plugin_id] = function
        return function

    return keep


@dataclass(frozen=True)
class InterpreterJob:
    """A kernel that was to be compiled, and is launched in the interpreter instead."""

    kernel: Any
    constants: dict[str, Any]
    threads: int


interpreter_jobs: list[InterpreterJob] = []
# Name, PTX, number of arguments and bytes of shared memory of each kernel. Without a job for the interpreter, results
# are left as they are.
compiled: list[tuple[str, str, int, int]] = []


def compile_ahead(kernel: Any, types: Any, named: Any, target: int) -> CompiledKernel:
    """Replaces `glance_fast.kernels.gpu.ahead_of_time.compile_ahead`."""
    assert target == 89 and list(types) == kernel.arg_names[: len(types)], "arguments come first, in the kernel's order"
    assert set(kernel.arg_names) - set(types) <= set(named)
    threads = 32 * named["num_warps"]
    interpreter_jobs.append(
        InterpreterJob(kernel, {name: named[name] for name in kernel.arg_names if name not in types}, threads)
    )
    return CompiledKernel("entry", "ptx", threads, 0)


def refused(nodes: Any) -> Iterator[NodeProto]:
    """Nodes that no registered plugin of TensorRT's parser is for."""
    for node in nodes:
        if node.domain:
            names = {attribute.name for attribute in node.attribute}
            space = next(
                (attribute.s.decode() for attribute in node.attribute if attribute.name == "plugin_namespace"), ""
            )
            if f"{space}::{node.op_type}" not in implemented or not {"aot", "plugin_version"} <= names:
                yield node


def _launched(name: str) -> type[OpRun]:
    """An operator of ONNX's reference that does what TensorRT does with a plugin's node."""

    def run(self: OpRun, *arrays: Any, **settings: Any) -> tuple[Any, ...]:
        batch, parameters = len(arrays[0]), inspect.signature(described[f"{DOMAIN}::{name}"]).parameters
        attributes = {word: settings[word] for word, parameter in parameters.items() if parameter.annotation is int}
        descs = [_desc(word, array) for word, array in zip(parameters, arrays, strict=False)]
        results = described[f"{DOMAIN}::{name}"](*descs, **attributes)
        kernel, ptx, launch, integers = implemented[f"{DOMAIN}::{name}"](*descs, *attributes.values(), list(results), 0)
        outputs = [np.full([side.at(batch) for side in desc.shape_expr], np.nan, NUMPY[desc.dtype]) for desc in results]
        compiled.append((kernel, ptx, len(arrays) + len(integers) + len(results), launch.shared_mem))
        if not interpreter_jobs:
            return tuple(outputs)
        job = interpreter_jobs.pop()
        assert (launch.block_x, launch.block_y, launch.block_z) == (job.threads, 1, 1)
        grid = tuple(ShapeExpr(side).at(batch) for side in (launch.grid_x, launch.grid_y, launch.grid_z))
        passed = [torch.from_numpy(np.array(array, order="C")) for array in arrays]
        passed += [integer.at(batch) for integer in integers]
        passed += [torch.from_numpy(output) for output in outputs]
        job.kernel[grid](*passed, **job.constants)
        return tuple(outputs)

    return type(name, (OpRun,), {"op_domain": DOMAIN, "_run": run})


def _desc(name: str, array: Any) -> TensorDesc:
    """As TensorRT describes a tensor: where images are, their number is open."""
    first_side, *other_sides = array.shape
    of_images = name in OF_IMAGES
    number = ShapeExpr((lambda batch: batch) if of_images else first_side)
    desc = TensorDesc((number, *(ShapeExpr(side) for side in other_sides)), KIND[array.dtype])
    desc.shape = (-1 if of_images else first_side, *other_sides)
    return desc


def operators() -> list[type[OpRun]]:
    """All registered plugins, for ONNX's reference."""
    return [_launched(plugin_id.split("::")[1]) for plugin_id in implemented]
