"""Both heads of a model on the score kernel: their weights packed once."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from glance_fast.kernels import ops
from glance_fast.kernels.triton_score import HeadWeights
from glance_fast.nets.model import GlanceModel


class TritonHeads:
    """`GlanceModel.score` of features on a device; `precision` of products: "ieee" or "tf32"."""

    def __init__(self, model: GlanceModel, device: torch.device | str, precision: str = "ieee") -> None:
        self._weights = _packed(model, device).tensors()
        self._lam, self._precision = model.config.lam, precision
        self._blur = [getattr(model, name).to(device) for name in ("blur_rows", "blur_cols") if model.config.smooth]
        rows, cols = model.grid
        self._shape = (len(rows), len(cols))

    def __call__(self, z_local: Tensor, z_global: Tensor) -> Tensor:
        """z_l and z_g, float32 [B, locations, …] -> scores float32 [B, gy, gx]."""
        grid: Tensor = ops.score(z_local, z_global, self._weights, self._lam, self._precision).unflatten(1, self._shape)
        if self._blur:
            grid = self._blur[0] @ grid @ self._blur[1].mT
        return grid


def _packed(model: GlanceModel, device: torch.device | str) -> HeadWeights:
    first, _, second, _, last = model.distortion.classify
    assert isinstance(first, nn.Linear) and isinstance(second, nn.Linear) and isinstance(last, nn.Linear)
    norm = model.norm
    if norm is None:
        scale, mean, whiten = torch.zeros(4), torch.zeros(0), torch.zeros(0)
    else:
        scale, mean, whiten = torch.cat([model.usual, model.spread]), norm.mean, norm.lower().mT
    tensors = (
        first.weight.mT, first.bias, second.weight.mT, second.bias, last.weight[0], last.bias, scale, mean, whiten,
    )  # fmt: skip
    return HeadWeights(*(tensor.detach().to(device, torch.float32).contiguous() for tensor in tensors))
