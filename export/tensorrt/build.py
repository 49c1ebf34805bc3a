"""TensorRT: a plan for the GPU at hand, built from the ONNX graph; for TensorRT 10 and 11."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorrt as trt

from glance_fast.backends.cuda_driver.device import Cuda
from glance_fast.backends.cuda_driver.tensorrt_log import ErrorLog, make_log
from glance_fast.errors import BackendError, ConfigError
from glance_fast.export.tensorrt.options import PlanOptions
from glance_fast.storage.atomic_write import replace_file


def build_plan(
    graph: bytes, size: tuple[int, int], options: PlanOptions, plugins: bool, cuda: Cuda
) -> tuple[bytes, dict[str, str]]:
    """The plan of an ONNX graph that takes images of `size` (height, width), and what it was built for.

    With `plugins` the graph has nodes of ours.

    Raises BackendError with what TensorRT says, by node where its parser refuses one.
    """
    log = make_log(trt)
    with cuda.current():
        plan = _build(graph, size, options, plugins, log)
    built_for = {
        "tensorrt": trt.__version__,
        "gpu": cuda.gpu,
        "capability": cuda.capability,
        "batch": str(options.batch),
        "any_version": str(options.any_version),
        "any_gpu": str(options.any_gpu),
        "plugins": str(plugins),
    }
    return plan, built_for


def _build(graph: bytes, size: tuple[int, int], options: PlanOptions, plugins: bool, log: ErrorLog) -> bytes:
    try:
        builder = trt.Builder(log)
    except TypeError:  # what the bindings raise for a builder that there is none of
        raise BackendError(f"TensorRT {trt.__version__} cannot build here: {log.take_errors()}") from None
    # Every tensor has the type that the graph gives it. TensorRT 11 knows nothing else and takes the flag in silence.
    flags = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    if plugins:
        _register_plugins()
        flags |= 1 << int(trt.NetworkDefinitionCreationFlag.PREFER_AOT_PYTHON_PLUGINS)
    network = builder.create_network(flags)
    parser = trt.OnnxParser(network, log)
    if not parser.parse(graph):
        raise BackendError(f"TensorRT {trt.__version__} cannot read the graph: {'; '.join(_faults(parser))}")
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    profile.set_shape("image", (1, *size, 3), (1, *size, 3), (options.batch, *size, 3))
    config.add_optimization_profile(profile)
    if options.any_version:
        # Without the lean runtime inside: it is code for the host, which no plan should bring along.
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
        config.set_flag(trt.BuilderFlag.EXCLUDE_LEAN_RUNTIME)
    if options.any_gpu:
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    cache = _timings(config, options.timing_cache)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise BackendError(f"TensorRT {trt.__version__} cannot build a plan: {log.take_errors()}")
    if options.timing_cache is not None:
        replace_file(options.timing_cache, bytes(cache.serialize()))
    return bytes(plan)


def _register_plugins() -> None:
    if not hasattr(trt.NetworkDefinitionCreationFlag, "PREFER_AOT_PYTHON_PLUGINS"):
        raise BackendError(
            f"TensorRT {trt.__version__} takes no plugins compiled ahead of time; use a later one, or no plugins"
        )
    importlib.import_module("glance_fast.export.tensorrt.plugins")


def _faults(parser: Any) -> Iterator[str]:
    """What the parser says against the graph, each with the node's name."""
    for i in range(parser.num_errors):
        error = parser.get_error(i)
        yield f"node {error.node_name()!r} ({error.node_operator()}): {error.desc()}"


def _timings(config: Any, path: Path | None) -> Any:
    """Give the builder the timings in a file, or an empty cache to fill; TensorRT refuses those of another GPU."""
    try:
        held = path.read_bytes() if path is not None and path.exists() else b""
    except OSError as error:
        raise ConfigError(f"the timing cache {path} cannot be read: {error.strerror}") from None
    cache = config.create_timing_cache(held)
    if cache is None or not config.set_timing_cache(cache, False):
        raise ConfigError(f"{path} is no timing cache of TensorRT {trt.__version__} on this GPU; name another file")
    return cache
