"""PyTorch: the dense pass, and the per-patch loop as the reference."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from glance_fast.dense.loop import LoopPass
from glance_fast.dense.strip_pass import make_pass
from glance_fast.errors import BackendError
from glance_fast.models.model import GlanceModel


class TorchBackend:
    """A model on a device. Method "dense" runs the plan, "loop" the paper's per-patch loop: same scores."""

    name = "torch"
    methods = ("dense", "loop")
    takes_tensors = True
    streams = 1
    export = None

    def __init__(self, model: GlanceModel, device: torch.device | str = "cpu") -> None:
        self.model = model.to(device)
        self.device = torch.device(device)
        if self.device.type == "cuda":
            full_precision()
        plan = model.compile_plan()
        self.dense, self._loop = make_pass(plan, self.device), LoopPass(plan)
        self._shape = (len(self.dense.plan.holes_y), len(self.dense.plan.holes_x))

    @property
    def device_description(self) -> str:
        """The device: "cpu", "cuda:0"."""
        return str(self.device)

    def grids(self, images: Sequence[NDArray[np.uint8] | Tensor], method: str = "dense") -> list[Tensor]:
        """Scores of all locations of each image, float32 [gy, gx], on the backend's device; the caller owns them."""
        tensors = [image if isinstance(image, Tensor) else torch.from_numpy(np.array(image)) for image in images]
        return list(self.tensor_grids(torch.stack([tensor.to(self.device) for tensor in tensors]), method))

    @torch.inference_mode()
    def tensor_grids(self, images: Tensor, method: str = "dense") -> Tensor:
        """Scores float32 [B, gy, gx] of images uint8 [B, H, W, 3], which must be on the backend's device."""
        normalised = self.model.from_uint8(images)
        chosen = self._loop if method == "loop" else self.dense
        return self.model.score(*chosen.features(self.model, normalised)).reshape(-1, *self._shape)


def full_precision() -> None:
    """Let convolutions in float32 on a GPU compute in float32, in the whole process: cuDNN would take tf32."""
    torch.backends.cudnn.allow_tf32 = False


def checked_device(device: str) -> torch.device:
    """The device named "cpu", "cuda" or "cuda:<index>"; raises BackendError where this machine has no such device."""
    legal = "legal are cpu, cuda and cuda:<index>"
    try:
        checked = torch.device(device)
    except RuntimeError:
        raise BackendError(f"unknown device {device!r}; {legal}") from None
    if checked.type not in ("cpu", "cuda"):
        raise BackendError(f"device {device!r} is not supported; {legal}")
    if checked.type == "cuda" and not torch.cuda.is_available():
        raise BackendError(f"device {device!r} was requested, but no CUDA device is available; use device='cpu'")
    if checked.type == "cuda" and (checked.index or 0) >= torch.cuda.device_count():
        raise BackendError(f"device {device!r} was requested, but there are {torch.cuda.device_count()} CUDA devices")
    return checked
