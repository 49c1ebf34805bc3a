"""What runs the networks, one backend a file; the one that was asked for, or an error that says what to do."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from glance_fast.backends.base import METHODS, Backend
from glance_fast.errors import BackendError, MissingDependencyError
from glance_fast.exports import FORMS, RUNS, command, exported, read_export
from glance_fast.store import ModelFiles, build_model

__all__ = ["BACKENDS", "METHODS", "Backend", "make_backend"]

BACKENDS = ("auto", "torch", *RUNS)
# The package that each backend needs, and the extra of ours that installs it.
PACKAGES = {"torch": ("torch", "train"), "openvino": ("openvino", ""), "onnxruntime": ("onnxruntime", "onnxruntime")}

log = logging.getLogger("glance_fast")


def make_backend(files: ModelFiles, backend: str, device: str, precision: str = "fp32") -> Backend:
    """The backend called `backend` for a model; "auto" logs what it chose.

    Raises BackendError, MissingDependencyError, and ModelFolderError for a damaged export.
    """
    if backend not in BACKENDS:
        raise BackendError(f"unknown backend {backend!r}; legal are {', '.join(BACKENDS)}")
    legal = sorted({some for precisions in FORMS.values() for some in precisions})
    if precision not in legal:
        raise BackendError(f"unknown precision {precision!r}; legal are {', '.join(legal)}")
    if backend == "auto":
        backend = _chosen(files, device, precision)
        log.info("backend auto: %s on %s at %s", backend, device, precision)
    return MAKERS[backend](files, device, precision)


def _chosen(files: ModelFiles, device: str, precision: str) -> str:
    """The fastest backend that has all it needs: an exported form on a CPU, else torch."""
    for name, form in RUNS.items():
        if device == "cpu" and precision in exported(files.path, form) and find_spec(PACKAGES[name][0]):
            return name
    if precision == "fp32" and find_spec("torch"):
        return "torch"
    raise BackendError(
        f"nothing here can run {files.path} on {device} at {precision}: it has no export for that; make one where the "
        f"model was trained, with: {command(files.path, 'openvino', precision)}"
    )


@contextmanager
def _package(backend: str) -> Iterator[None]:
    """Turn a missing package into an error that says what to install."""
    name, extra = PACKAGES[backend]
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != name:
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


def _openvino(files: ModelFiles, device: str, precision: str) -> Backend:
    _require_cpu("openvino", device)
    with _package("openvino"):
        from glance_fast.backends.openvino_backend import OpenVinoBackend
    return OpenVinoBackend(read_export(files.path, "openvino", precision, files.digest))


def _onnxruntime(files: ModelFiles, device: str, precision: str) -> Backend:
    _require_cpu("onnxruntime", device)
    with _package("onnxruntime"):
        from glance_fast.backends.onnxruntime_backend import OnnxRuntimeBackend
    return OnnxRuntimeBackend(read_export(files.path, "onnxruntime", precision, files.digest))


def _require_cpu(backend: str, device: str) -> None:
    if device != "cpu":
        raise BackendError(f"backend {backend!r} runs on the CPU; use device='cpu' and not {device!r}")


MAKERS: dict[str, Callable[[ModelFiles, str, str], Backend]] = {
    "torch": _torch,
    "openvino": _openvino,
    "onnxruntime": _onnxruntime,
}
