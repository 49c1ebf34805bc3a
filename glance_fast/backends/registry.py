"""Backends by name: the requested backend, or an error that says what to do instead."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from numbers import Integral
from pathlib import Path

from glance_fast.backends.base import METHODS, Backend, cpu_threads
from glance_fast.errors import BackendError, MissingDependencyError, install_hint
from glance_fast.storage.export_record import (
    EXPORT_FORMATS,
    RUNTIME_FORMAT,
    export_command,
    exported_precisions,
    read_export,
)
from glance_fast.storage.model_folder import ModelFiles, build_model

__all__ = ["BACKENDS", "METHODS", "Backend", "make_backend", "runnable", "unsupported_reason"]

BACKENDS = ("auto", "torch", "cuda", *RUNTIME_FORMAT)
# The packages that each backend needs, and the extra of glance_fast that installs them.
PACKAGES = {
    "torch": (("torch",), "train"),
    "cuda": (("triton", "torch"), "gpu"),
    "openvino": (("openvino",), ""),
    "onnxruntime": (("onnxruntime",), "onnxruntime"),
    "tensorrt": (("tensorrt", "tensorrt_lean", "pycuda"), "tensorrt"),
}
# Concurrent images that score a folder fastest: measured on 2 cores (docs/benchmarks/speed.md), and not on more.
STREAMS = 2
# The device of each backend that runs exports.
RUNTIME_DEVICE = {"tensorrt": "cuda", "openvino": "cpu", "onnxruntime": "cpu"}

log = logging.getLogger("glance_fast")


def make_backend(
    files: ModelFiles, backend: str, device: str, precision: str = "fp32", streams: int | None = 1
) -> Backend:
    """The backend named `backend` for a model; for "auto" the choice is logged.

    `streams`: images that it scores concurrently; None is `STREAMS` where the backend has streams, at most the cores of
    this process. Raises BackendError, MissingDependencyError, and ModelFolderError for a damaged export.
    """
    if backend not in BACKENDS:
        raise BackendError(f"unknown backend {backend!r}; legal are {', '.join(BACKENDS)}")
    if not isinstance(device, str):
        raise BackendError(f"unknown device {device!r}; legal are cpu, cuda and cuda:<index>")
    legal = sorted({legal for precisions in EXPORT_FORMATS.values() for legal in precisions})
    if precision not in legal:
        raise BackendError(f"unknown precision {precision!r}; legal are {', '.join(legal)}")
    if backend == "auto":
        backend = _fastest(files, device, precision)
        log.info("backend auto: %s on %s at %s", backend, device, precision)
    if backend in STREAMING_FACTORIES:
        return STREAMING_FACTORIES[backend](files, device, precision, _checked_streams(streams))
    if streams not in (None, 1):
        streaming = " or ".join(map(repr, STREAMING_FACTORIES))
        raise BackendError(f"backend {backend!r} has one stream, and {streams} were requested; use {streaming}")
    return FACTORIES[backend](files, device, precision)


def _checked_streams(streams: int | None) -> int:
    cores = cpu_threads()
    if streams is None:
        return min(STREAMS, cores)
    if isinstance(streams, bool) or not isinstance(streams, Integral) or not 1 <= streams <= cores:
        raise BackendError(f"{streams!r} streams were requested; legal are 1 to {cores}, the cores of this process")
    return streams


def _fastest(files: ModelFiles, device: str, precision: str) -> str:
    """The fastest backend whose packages and export are present, else torch."""
    for backend, export_format in RUNTIME_FORMAT.items():
        exported = precision in exported_precisions(files.path, export_format)
        if device.startswith(RUNTIME_DEVICE[backend]) and exported and installed(backend):
            return backend
    if precision == "fp32" and find_spec("torch"):
        return "torch"
    raise BackendError(
        f"nothing here can run {files.path} on {device} at {precision}: it has no export for that; make one where the "
        f"model was trained, with: {export_command(files.path, 'openvino', precision)}"
    )


def installed(backend: str) -> bool:
    """Whether the first of the packages that a backend needs is installed."""
    return find_spec(PACKAGES[backend][0][0]) is not None


def runnable(folder: Path) -> list[tuple[str, str]]:
    """Backend and precision of every export in a model folder that can run on this machine.

    Exports whose runtime is not installed are left out; a precision that this CPU lacks is logged.
    """
    pairs = []
    for backend in filter(installed, RUNTIME_FORMAT):
        for precision in exported_precisions(folder, RUNTIME_FORMAT[backend]):
            if reason := unsupported_reason(backend, precision):
                log.warning("%s at %s is left out: %s", backend, precision, reason)
            else:
                pairs.append((backend, precision))
    return pairs


def unsupported_reason(backend: str, precision: str) -> str | None:
    """Why this CPU cannot compute at a precision; None where it can."""
    if (backend, precision) != ("openvino", "bf16"):
        return None
    from glance_fast.backends.openvino_backend import multiplies_bfloat16

    return None if multiplies_bfloat16() else "this CPU multiplies no bfloat16, and OpenVINO would compute in float32"


@contextmanager
def _package(backend: str) -> Iterator[None]:
    """Turn a missing package of a backend into an error that says what to install."""
    names, extra = PACKAGES[backend]
    try:
        yield
    except ModuleNotFoundError as error:
        name = (error.name or "").split(".")[0]
        if name not in names:
            raise
        raise MissingDependencyError(
            f"backend {backend!r} needs the package {name!r}; {install_hint(extra)}"
        ) from error


def _torch(files: ModelFiles, device: str, precision: str) -> Backend:
    if precision != "fp32":
        raise BackendError(f"backend 'torch' runs at fp32, and {precision} was requested; use backend='openvino'")
    with _package("torch"):
        from glance_fast.backends.torch_backend import TorchBackend, checked_device
    return TorchBackend(build_model(files), checked_device(device))


def _cuda(files: ModelFiles, device: str, precision: str) -> Backend:
    with _package("cuda"):
        from glance_fast.backends.cuda_backend import DTYPES, CudaBackend
        from glance_fast.backends.torch_backend import checked_device
    if precision not in DTYPES:
        raise BackendError(f"backend 'cuda' runs at {', '.join(DTYPES)}, and {precision} was requested")
    gpu = checked_device(device)
    if gpu.type != "cuda":
        raise BackendError(f"backend 'cuda' runs on a GPU, and device {device!r} was requested; use device='cuda'")
    return CudaBackend(build_model(files), gpu, precision)


def _openvino(files: ModelFiles, device: str, precision: str, streams: int) -> Backend:
    _require_cpu("openvino", device)
    with _package("openvino"):
        from glance_fast.backends.openvino_backend import OpenVinoBackend
    if reason := unsupported_reason("openvino", precision):
        instead = export_command(files.path, "openvino", "fp32")
        raise BackendError(f"precision {precision!r} was requested; {reason}: use 'fp32', exported with: {instead}")
    return OpenVinoBackend.load(read_export(files, "openvino", precision), streams)


def _onnxruntime(files: ModelFiles, device: str, precision: str, streams: int) -> Backend:
    _require_cpu("onnxruntime", device)
    with _package("onnxruntime"):
        from glance_fast.backends.onnxruntime_backend import OnnxRuntimeBackend
    return OnnxRuntimeBackend.load(read_export(files, "onnxruntime", precision), streams)


def _tensorrt(files: ModelFiles, device: str, precision: str) -> Backend:
    with _package("tensorrt"):
        from glance_fast.backends.cuda_driver.device import Cuda, device_index
        from glance_fast.backends.tensorrt_backend import TensorRtBackend
    cuda = Cuda(device_index(device))
    export = read_export(files, "tensorrt", precision)
    # An engine built for any version runs in the lean runtime alone, which runs no other engines.
    lean = export.record.built_for.get("any_version") == "True"
    with _package("tensorrt"):
        trt = import_module("tensorrt_lean" if lean else "tensorrt")
    return TensorRtBackend(export, trt, cuda, device)


def _require_cpu(backend: str, device: str) -> None:
    if device != "cpu":
        raise BackendError(f"backend {backend!r} runs on the CPU; use device='cpu' and not {device!r}")


FACTORIES: dict[str, Callable[[ModelFiles, str, str], Backend]] = {
    "torch": _torch,
    "cuda": _cuda,
    "tensorrt": _tensorrt,
}
# Backends that can score several images concurrently, each on a share of the cores.
STREAMING_FACTORIES: dict[str, Callable[[ModelFiles, str, str, int], Backend]] = {
    "openvino": _openvino,
    "onnxruntime": _onnxruntime,
}
