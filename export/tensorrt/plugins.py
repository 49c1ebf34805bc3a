"""TensorRT plugins for the nodes of `nodes.py`: the shapes of their results, and kernels compiled ahead of time.

Importing this module registers them. A TensorRT engine holds the compiled kernels, so it runs without Triton and
Python. A kernel's arguments are the addresses of its inputs, integers, and the addresses of its results; the rest is
constant.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from inspect import Parameter, Signature
from typing import Any

import tensorrt as trt
import tensorrt.plugin as trtp
import torch
import triton

from glance_fast.errors import BackendError
from glance_fast.export.graph.builder import DOMAIN
from glance_fast.kernels.gpu import max_pool, partial_conv, score
from glance_fast.kernels.gpu.ahead_of_time import compile_ahead
from glance_fast.kernels.gpu.tables import ENTRY_TILE, TABLES
from glance_fast.kernels.reference.partial_conv import WeightShape

Desc = trtp.TensorDesc
# What `implement` returns: the kernel's name and PTX, its launch, its integer arguments. TensorRT reads the annotation
# of `implement`, and takes this tuple alone.
AotImplementation = tuple[str, str, trtp.KernelLaunchParams, trtp.SymIntExprs]
TYPES = {trt.DataType.FLOAT: "fp32", trt.DataType.HALF: "fp16", trt.DataType.INT32: "i32"}
DTYPES = {trt.DataType.FLOAT: torch.float32, trt.DataType.HALF: torch.float16}
# Bytes that a kernel may use without an opt-in in CUDA, which TensorRT is not documented to make.
MAX_SHARED_MEMORY = 48 * 1024

Tensors = dict[str, Any]
Settings = dict[str, int]


@dataclass(frozen=True)
class PluginLaunch:
    """A launch: constants by name, the grid, of numbers or expressions, and the integer arguments."""

    named: dict[str, Any]
    grid: tuple[Any, Any, Any]
    integers: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Plugin:
    """A node's kernel; `tensors`, the integers and `results` are the kernel's first arguments, in this order.

    `shapes` gives shapes and types of the results, in expressions of those of the tensors; `launch` the launch.
    """

    kernel: Any
    tensors: tuple[str, ...]
    results: tuple[str, ...]
    settings: tuple[str, ...]
    shapes: Callable[[Tensors, Settings], tuple[Any, ...]]
    launch: Callable[[Tensors, Settings], PluginLaunch]


def _base_shapes(tensors: Tensors, settings: Settings) -> tuple[Any, ...]:
    batch, height, width, _ = tensors["base"].shape_expr
    after = tensors["weight"].shape_expr[3]
    sums = trtp.from_shape_expr((batch, height * width, after), trt.DataType.FLOAT)
    return sums, trtp.from_shape_expr((batch, height, width, after), tensors["base"].dtype)


def _base_launch(tensors: Tensors, settings: Settings) -> PluginLaunch:
    _, height, width, before = tensors["base"].shape
    weight = WeightShape(*tensors["weight"].shape)
    named = partial_conv.base_settings(weight, DTYPES[tensors["base"].dtype], "ieee")
    cells, after = height * width, weight.channels_out
    strides = {"base_stride": cells * before, "out_stride": cells * after}
    grid = triton.cdiv(cells, named["BLOCK_M"]), triton.cdiv(after, named["BLOCK_N"]), tensors["base"].shape_expr[0]
    return PluginLaunch({**named, **strides, "height": height, "width": width}, grid)


def _entries_shapes(tensors: Tensors, settings: Settings) -> tuple[Any, ...]:
    batch, after = tensors["base"].shape_expr[0], tensors["weight"].shape_expr[3]
    return (trtp.from_shape_expr((batch, settings["entries"], after), tensors["base"].dtype),)


def _entries_launch(tensors: Tensors, settings: Settings) -> PluginLaunch:
    weight, dtype = WeightShape(*tensors["weight"].shape), DTYPES[tensors["base"].dtype]
    return _over_tiles(tensors, settings, partial_conv.entries_settings(weight, dtype, ENTRY_TILE, "ieee"))


def _pool_shapes(tensors: Tensors, settings: Settings) -> tuple[Any, ...]:
    batch, _, _, channels = tensors["base"].shape_expr
    return (trtp.from_shape_expr((batch, settings["entries"], channels), tensors["base"].dtype),)


def _pool_launch(tensors: Tensors, settings: Settings) -> PluginLaunch:
    named = max_pool.pool_settings(tensors["base"].shape[3], settings["size"], ENTRY_TILE)
    return _over_tiles(tensors, settings, named)


def _score_shapes(tensors: Tensors, settings: Settings) -> tuple[Any, ...]:
    batch, locations, _ = tensors["z_local"].shape_expr
    return (trtp.from_shape_expr((batch, locations), trt.DataType.FLOAT),)


def _score_launch(tensors: Tensors, settings: Settings) -> PluginLaunch:
    _, locations, total = tensors["z_local"].shape
    features, width = tensors["z_global"].shape[2], tensors["second"].shape[0]
    precision, whitened = "tf32" if settings["tf32"] else "ieee", bool(settings["whitened"])
    named = score.score_settings(total, features, width, whitened, precision)
    batch, rows = tensors["z_local"].shape_expr[0], score.ROW_BLOCK
    grid = (locations, trtp.cdiv(batch, rows), 1) if whitened else (trtp.cdiv(batch * locations, rows), 1, 1)
    return PluginLaunch({**named, "locations": locations}, grid, (batch * locations,))


def _over_tiles(tensors: Tensors, settings: Settings, named: dict[str, Any]) -> PluginLaunch:
    """A launch over the tiles of a level's entries, with the numbers that an image has in each tensor."""
    after = int(tensors["base_out"].shape[3])
    # All dimensions but the batch, which alone is open.
    strides = {f"{name}_stride": math.prod(tuple(tensor.shape)[1:]) for name, tensor in tensors.items()}
    strides |= {"out_stride": settings["entries"] * after}
    grid = tensors["tiles"].shape[0], triton.cdiv(after, named["BLOCK_N"]), tensors["base"].shape_expr[0]
    return PluginLaunch({**named, **strides, "AS_CHANGES": bool(settings["as_changes"])}, grid)


HEADS = tuple(field.name for field in fields(score.HeadWeights))
PLUGINS = {
    "partial_conv_base": Plugin(
        partial_conv.base_kernel, ("base", "weight", "bias"), ("sums", "out"), ("sm",),
        _base_shapes, _base_launch,
    ),
    "partial_conv_entries": Plugin(
        partial_conv.entries_kernel,
        ("changes", "base", "sums", "base_out", "weight", "bias", *TABLES), ("out",), ("entries", "sm", "as_changes"),
        _entries_shapes, _entries_launch,
    ),
    "max_pool_entries": Plugin(
        max_pool.pool_kernel, ("values", "base", "base_out", *TABLES), ("out",),
        ("entries", "sm", "as_changes", "size"), _pool_shapes, _pool_launch,
    ),
    "score": Plugin(
        score.score_kernel, ("z_local", "z_global", *HEADS), ("out",), ("whitened", "tf32", "sm"),
        _score_shapes, _score_launch,
    ),
}  # fmt: skip


def _register(name: str, plugin: Plugin) -> None:
    """Register a plugin. TensorRT reads signatures, which are built here: they differ in their names alone."""
    named = [*((tensor, Desc) for tensor in plugin.tensors), *((setting, int) for setting in plugin.settings)]
    parameters = [Parameter(word, Parameter.POSITIONAL_OR_KEYWORD, annotation=kind) for word, kind in named]

    def describe(*tensors: Any, **settings: int) -> Any:
        return plugin.shapes(dict(zip(plugin.tensors, tensors, strict=True)), settings)

    def implement(*arguments: Any) -> Any:
        tensors = dict(zip(plugin.tensors, arguments, strict=False))
        settings = dict(zip(plugin.settings, arguments[len(tensors) :], strict=False))
        return _compiled(plugin, tensors, settings, arguments[len(tensors) + len(settings)])

    results = tuple[(Desc,) * len(plugin.results)]  # type: ignore[valid-type, misc]
    describe.__signature__ = Signature(parameters, return_annotation=results)  # type: ignore[attr-defined]
    behind = [Parameter(word, Parameter.POSITIONAL_OR_KEYWORD) for word in ("outputs", "tactic")]
    implement.__signature__ = Signature([*parameters, *behind], return_annotation=AotImplementation)  # type: ignore[attr-defined]
    trtp.register(f"{DOMAIN}::{name}")(describe)
    trtp.aot_impl(f"{DOMAIN}::{name}")(implement)


def _compiled(plugin: Plugin, tensors: Tensors, settings: Settings, outputs: Any) -> AotImplementation:
    launch = plugin.launch(tensors, settings)
    types = {name: f"*{TYPES[tensor.dtype]}" for name, tensor in tensors.items()}
    first = len(types)
    types |= dict.fromkeys(plugin.kernel.arg_names[first : first + len(launch.integers)], "i32")
    types |= {name: f"*{TYPES[tensor.dtype]}" for name, tensor in zip(plugin.results, outputs, strict=True)}
    code = compile_ahead(plugin.kernel, types, launch.named, settings["sm"])
    if code.shared > MAX_SHARED_MEMORY:
        raise BackendError(
            f"{code.name} takes {code.shared} bytes of shared memory; plugins may take {MAX_SHARED_MEMORY}"
        )
    x, y, z = launch.grid
    grid = trtp.KernelLaunchParams(x, y, z, block_x=code.threads, shared_mem=code.shared)
    integers = trtp.SymIntExprs.from_tuple(tuple(trtp.SymInt32(integer) for integer in launch.integers))
    return code.name, code.ptx, grid, integers


for _name, _plugin in PLUGINS.items():
    _register(_name, _plugin)
