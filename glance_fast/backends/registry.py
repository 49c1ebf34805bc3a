"""What runs the networks, one backend a file; the one that was asked for, or an error that says what to do."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from glance_fast.backends.base import METHODS, Backend, cpu_threads
from glance_fast.errors import BackendError, MissingDependencyError
from glance_fast.storage.export_record import FORMS, RUNS, command, exported, read_export
from glance_fast.storage.model_folder import ModelFiles, build_model

__all__ = ["BACKENDS", "METHODS", "Backend", "impossible", "make_backend", "runnable"]

BACKENDS = ("auto", "torch", "cuda", *RUNS)
# The packages that each backend needs, and the extra of ours that installs them.
PACKAGES = {
    "torch": (("torch",), "train"),
    "cuda": (("triton", "torch"), "gpu"),
    "openvino": (("openvino",), ""),
    "onnxruntime": (("onnxruntime",), "onnxruntime"),
    "tensorrt": (("tensorrt", "tensorrt_lean", "pycuda"), "tensorrt"),
}
# Images at once that score a folder fastest. On 2 cores: docs/benchmarks/speed.md; on more it was not measured.
STREAMS = 2
# Where each runtime of exports runs.
PLACES = {"tensorrt": "cuda", "openvino": "cpu", "onnxruntime": "cpu"}

log = logging.getLogger("glance_fast")


def make_backend(
    files: ModelFiles, backend: str, device: str, precision: str = "fp32", streams: int | None = 1
) -> Backend:
    """The backend called `backend` for a model; "auto" logs what it chose.

    `streams`: images that it scores at once; None is `STREAMS` where the backend can and the cores are there. Raises
    BackendError, MissingDependencyError, and ModelFolderError for a damaged export.
    """
    if backend not in BACKENDS:
        raise BackendError(f"unknown backend {backend!r}; legal are {', '.join(BACKENDS)}")
    legal = sorted({some for precisions in FORMS.values() for some in precisions})
    if precision not in legal:
        raise BackendError(f"unknown precision {precision!r}; legal are {', '.join(legal)}")
    if backend == "auto":
        backend = _chosen(files, device, precision)
        log.info("backend auto: %s on %s at %s", backend, device, precision)
    if backend not in STREAMED:
        if streams not in (None, 1):
            legal_ones = " or ".join(map(repr, STREAMED))
            raise BackendError(f"backend {backend!r} has one stream, and {streams} were asked for; use {legal_ones}")
        return MAKERS[backend](files, device, precision)
    cores = cpu_threads()
    if streams is not None and not 1 <= streams <= cores:
        raise BackendError(f"{streams} streams were asked for; legal are 1 to {cores}, the cores of this process")
    return STREAMED[backend](files, device, precision, min(STREAMS, cores) if streams is None else streams)


def _chosen(files: ModelFiles, device: str, precision: str) -> str:
    """The fastest backend that has all it needs: an exported form, else torch."""
    for name, form in RUNS.items():
        if device.startswith(PLACES[name]) and precision in exported(files.path, form) and installed(name):
            return name
    if precision == "fp32" and find_spec("torch"):
        return "torch"
    raise BackendError(
        f"nothing here can run {files.path} on {device} at {precision}: it has no export for that; make one where the "
        f"model was trained, with: {command(files.path, 'openvino', precision)}"
    )


def installed(backend: str) -> bool:
    """Whether the first of the packages that a backend needs is there."""
    return find_spec(PACKAGES[backend][0][0]) is not None


def runnable(folder: Path) -> list[tuple[str, str]]:
    """Backend and precision of every export in a model folder that can run here; the log tells of others.

    Exports whose runtime is not installed are left out.
    """
    found = []
    for backend in filter(installed, RUNS):
        for precision in exported(folder, RUNS[backend]):
            if reason := impossible(backend, precision):
                log.warning("%s at %s is left out: %s", backend, precision, reason)
            else:
                found.append((backend, precision))
    return found


def impossible(backend: str, precision: str) -> str | None:
    """Why this CPU cannot compute at a precision."""
    if (backend, precision) != ("openvino", "bf16"):
        return None
    from glance_fast.backends.openvino_backend import multiplies_bfloat16

    return None if multiplies_bfloat16() else "this CPU multiplies no bfloat16, and OpenVINO would compute in float32"


@contextmanager
def _package(backend: str) -> Iterator[None]:
    """Turn a missing package into an error that says what to install."""
    names, extra = PACKAGES[backend]
    try:
        yield
    except ModuleNotFoundError as error:
        name = (error.name or "").split(".")[0]
        if name not in names:
            raise
        install = f"'glance-fast[{extra}]'" if extra else "glance-fast"
        raise MissingDependencyError(
            f"backend {backend!r} needs the package {name!r}; install it with: pip install {install}"
        ) from error


def _torch(files: ModelFiles, device: str, precision: str) -> Backend:
    if precision != "fp32":
        raise BackendError(f"backend 'torch' runs at fp32, and {precision} was asked for; use backend='openvino'")
    with _package("torch"):
        from glance_fast.backends.torch_backend import TorchBackend, checked_device
    return TorchBackend(build_model(files), checked_device(device))


def _cuda(files: ModelFiles, device: str, precision: str) -> Backend:
    with _package("cuda"):
        from glance_fast.backends.cuda_backend import DTYPES, CudaBackend
        from glance_fast.backends.torch_backend import checked_device
    if precision not in DTYPES:
        raise BackendError(f"backend 'cuda' runs at {', '.join(DTYPES)}, and {precision} was asked for")
    place = checked_device(device)
    if place.type != "cuda":
        raise BackendError(f"backend 'cuda' runs on a GPU, and device {device!r} was asked for; use device='cuda'")
    return CudaBackend(build_model(files), place, precision)


def _openvino(files: ModelFiles, device: str, precision: str, streams: int) -> Backend:
    _require_cpu("openvino", device)
    with _package("openvino"):
        from glance_fast.backends.openvino_backend import OpenVinoBackend
    if reason := impossible("openvino", precision):
        instead = command(files.path, "openvino", "fp32")
        raise BackendError(f"precision {precision!r} was asked for; {reason}: use 'fp32', exported with: {instead}")
    return OpenVinoBackend(read_export(files.path, "openvino", precision, files.digest), streams)


def _onnxruntime(files: ModelFiles, device: str, precision: str, streams: int) -> Backend:
    _require_cpu("onnxruntime", device)
    with _package("onnxruntime"):
        from glance_fast.backends.onnxruntime_backend import OnnxRuntimeBackend
    return OnnxRuntimeBackend(read_export(files.path, "onnxruntime", precision, files.digest), streams)


def _tensorrt(files: ModelFiles, device: str, precision: str) -> Backend:
    with _package("tensorrt"):
        from glance_fast.backends.cuda_driver.device import Cuda, device_index
        from glance_fast.backends.tensorrt_backend import TensorRtBackend
    cuda = Cuda(device_index(device))
    export = read_export(files.path, "tensorrt", precision, files.digest)
    # The lean runtime alone runs plans for any version, and it runs no others.
    lean = export.record.built_for.get("any_version") == "True"
    with _package("tensorrt"):
        trt = import_module("tensorrt_lean" if lean else "tensorrt")
    return TensorRtBackend(export, trt, cuda, device)


def _require_cpu(backend: str, device: str) -> None:
    if device != "cpu":
        raise BackendError(f"backend {backend!r} runs on the CPU; use device='cpu' and not {device!r}")


MAKERS: dict[str, Callable[[ModelFiles, str, str], Backend]] = {
    "torch": _torch,
    "cuda": _cuda,
    "tensorrt": _tensorrt,
}
# Those that may score several images at once, each on its share of the cores.
STREAMED: dict[str, Callable[[ModelFiles, str, str, int], Backend]] = {
    "openvino": _openvino,
    "onnxruntime": _onnxruntime,
}
