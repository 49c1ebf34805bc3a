"""The build of a TensorRT engine from an ONNX graph, for the GPU of this machine, with TensorRT 10 and 11."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorrt as trt

from glance_fast.backends.cuda_driver.device import Cuda
from glance_fast.backends.cuda_driver.tensorrt_log import ErrorLog, make_log
from glance_fast.errors import BackendError, ConfigError
from glance_fast.export.tensorrt.options import TensorRtOptions
from glance_fast.storage.atomic_write import replace_file


def build_engine(
    graph: bytes, size: tuple[int, int], options: TensorRtOptions, plugins: bool, cuda: Cuda
) -> tuple[bytes, dict[str, str]]:
    """The serialized engine of an ONNX graph for images of `size` (height, width), and its record's `built_for`.

    `plugins`: the graph has nodes of our plugins. Raises BackendError with TensorRT's message, per node where its
    parser refuses nodes.
    """
    log = make_log(trt)
    with cuda.current():
        engine = _build(graph, size, options, plugins, log)
    built_for = {
        "tensorrt": trt.__version__,
        "gpu": cuda.gpu,
        "capability": cuda.capability,
        "batch": str(options.batch),
        "any_version": str(options.any_version),
        "any_gpu": str(options.any_gpu),
        "plugins": str(plugins),
    }
    return engine, built_for


def _build(graph: bytes, size: tuple[int, int], options: TensorRtOptions, plugins: bool, log: ErrorLog) -> bytes:
    try:
        builder = trt.Builder(log)
    except TypeError:  # the bindings raise TypeError when no builder can be created
        raise BackendError(f"TensorRT {trt.__version__} cannot build here: {log.take_errors()}") from None
    network = builder.create_network(_network_flags(plugins))
    parser = trt.OnnxParser(network, log)
    if not parser.parse(graph):
        raise BackendError(f"TensorRT {trt.__version__} cannot read the graph: {'; '.join(_parser_errors(parser))}")
    config = _config(builder, size, options)
    cache = _use_timings(config, options.timing_cache)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise BackendError(f"TensorRT {trt.__version__} cannot build a TensorRT engine: {log.take_errors()}")
    if options.timing_cache is not None:
        replace_file(options.timing_cache, bytes(cache.serialize()))
    return bytes(engine)


def _network_flags(plugins: bool) -> int:
    # Every tensor has the graph's type. TensorRT 11 supports nothing else, and accepts the flag.
    flags = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    if plugins:
        _register_plugins()
        flags |= 1 << int(trt.NetworkDefinitionCreationFlag.PREFER_AOT_PYTHON_PLUGINS)
    return flags


def _config(builder: Any, size: tuple[int, int], options: TensorRtOptions) -> Any:
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    profile.set_shape("image", (1, *size, 3), (1, *size, 3), (options.batch, *size, 3))
    config.add_optimization_profile(profile)
    if options.any_version:
        # Without the lean runtime inside: that is host code, which no engine file should contain.
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
        config.set_flag(trt.BuilderFlag.EXCLUDE_LEAN_RUNTIME)
    if options.any_gpu:
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    return config


def _register_plugins() -> None:
    if not hasattr(trt.NetworkDefinitionCreationFlag, "PREFER_AOT_PYTHON_PLUGINS"):
        raise BackendError(
            f"TensorRT {trt.__version__} takes no plugins compiled ahead of time; use a later one, or no plugins"
        )
    importlib.import_module("glance_fast.export.tensorrt.plugins")


def _parser_errors(parser: Any) -> Iterator[str]:
    """The parser's errors, each with the node's name and operator."""
    for i in range(parser.num_errors):
        error = parser.get_error(i)
        yield f"node {error.node_name()!r} ({error.node_operator()}): {error.desc()}"


def _use_timings(config: Any, path: Path | None) -> Any:
    """Set the timing cache to a file's content, or to an empty cache; TensorRT refuses timings of another GPU."""
    try:
        content = path.read_bytes() if path is not None and path.exists() else b""
    except OSError as error:
        raise ConfigError(f"the timing cache {path} cannot be read: {error.strerror}") from None
    cache = config.create_timing_cache(content)
    if cache is None or not config.set_timing_cache(cache, False):
        raise ConfigError(f"{path} is no timing cache of TensorRT {trt.__version__} on this GPU; name another file")
    return cache
