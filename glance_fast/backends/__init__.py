"""What runs the networks, one backend a file; the one that was asked for, or an error that says what to do."""

from __future__ import annotations

import logging

import torch

from glance_fast.backends.torch_backend import TorchBackend
from glance_fast.errors import BackendError
from glance_fast.store import ModelFiles, build_model

BACKENDS = ("auto", "torch")
METHODS = ("dense", "loop")

log = logging.getLogger("glance_fast")


def make_backend(files: ModelFiles, backend: str, device: str) -> TorchBackend:
    """The backend called `backend` for a model; "auto" logs what it chose. Raises BackendError."""
    if backend not in BACKENDS:
        raise BackendError(f"unknown backend {backend!r}; this version has {', '.join(BACKENDS)}")
    if backend == "auto":
        log.info("backend auto: torch on %s, the only one in this version", device)
    place = _checked_device(device)
    return TorchBackend(build_model(files), place)


def _checked_device(device: str) -> torch.device:
    legal = "legal are cpu, cuda and cuda:<index>"
    try:
        place = torch.device(device)
    except RuntimeError:
        raise BackendError(f"unknown device {device!r}; {legal}") from None
    if place.type not in ("cpu", "cuda"):
        raise BackendError(f"device {device!r} is not supported; {legal}")
    if place.type == "cuda" and not torch.cuda.is_available():
        raise BackendError(f"device {device!r} was asked for and no CUDA device is there; use device='cpu'")
    if place.type == "cuda" and (place.index or 0) >= torch.cuda.device_count():
        raise BackendError(f"device {device!r} was asked for and there are {torch.cuda.device_count()} CUDA devices")
    return place
