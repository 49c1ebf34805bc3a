"""The networks in PyTorch, on any device: the dense pass, and the paper's loop beside it."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from glance_fast.dense import DensePass, dense_features
from glance_fast.loop import loop_features
from glance_fast.nets.model import GlanceModel


class TorchBackend:
    """`method` "dense" runs the plan, "loop" the paper's per-patch loop; both give the same numbers."""

    name = "torch"

    def __init__(self, model: GlanceModel, device: torch.device | str = "cpu") -> None:
        self.model = model.to(device)
        self.device = torch.device(device)
        self.dense = DensePass(model.plan(), self.device)
        self._shape = (len(self.dense.plan.holes_y), len(self.dense.plan.holes_x))

    def grids(self, images: NDArray[np.uint8], method: str = "dense") -> NDArray[np.float32]:
        """Scores of all locations: images uint8 [B, H, W, 3] of the model's size -> float32 [B, gy, gx]."""
        return self.tensor_grids(torch.from_numpy(images), method).cpu().numpy()

    @torch.inference_mode()
    def tensor_grids(self, images: Tensor, method: str = "dense") -> Tensor:
        """`grids` for a uint8 tensor; the result stays on the backend's device."""
        seen = self.model.from_uint8(images.to(self.device))
        if method == "loop":
            z_local, z_global = loop_features(self.model, seen)
        else:
            z_local, z_global = dense_features(self.model, self.dense, seen)
        return self.model.score(z_local, z_global).reshape(-1, *self._shape)
