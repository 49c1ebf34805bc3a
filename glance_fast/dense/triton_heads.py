"""Both heads of a model on the score kernel: their weights packed once."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from glance_fast.kernels.gpu import ops
from glance_fast.kernels.gpu.score import HeadWeights
from glance_fast.models.model import GlanceModel


class TritonHeads:
    """`GlanceModel.score` of features on a device; `precision` of products: "ieee" or "tf32"."""

    def __init__(self, model: GlanceModel, device: torch.device | str, precision: str = "ieee") -> None:
        self._weights = head_weights(model, device).tensors()
        self._precision = precision
        self._blur = [
            getattr(model, name).to(device) for name in ("blur_rows", "blur_cols") if model.config.smoothing_sigma
        ]
        rows, cols = model.grid
        self._shape = (len(rows), len(cols))

    def __call__(self, z_local: Tensor, z_global: Tensor) -> Tensor:
        """z_l and z_g, float32 [B, locations, …] -> scores float32 [B, gy, gx]."""
        grid: Tensor = ops.score(z_local, z_global, self._weights, self._precision).unflatten(1, self._shape)
        if self._blur:
            grid = self._blur[0] @ grid @ self._blur[1].mT
        return grid


def head_weights(model: GlanceModel, device: torch.device | str) -> HeadWeights:
    """The weights of a model's heads, packed for the kernel."""
    first, _, second, _, last = model.distortion.classify
    assert isinstance(first, nn.Linear) and isinstance(second, nn.Linear) and isinstance(last, nn.Linear)
    whitening, scale = model.whitening, [0.0] * 4
    mean = whiten = torch.zeros(0)
    if whitening is not None:
        scale = [*model.score_offset.tolist(), *model.score_scale.tolist()]
        mean, whiten = whitening.mean, whitening.lower().mT
    tensors = (
        first.weight.mT, first.bias, second.weight.mT, second.bias, last.weight[0], last.bias,
        torch.tensor([*scale, model.config.iad_weight]), mean, whiten,
    )  # fmt: skip
    return HeadWeights(*(tensor.detach().to(device, torch.float32).contiguous() for tensor in tensors))
