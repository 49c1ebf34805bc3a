"""The dense pass of an image of any size in bounded memory: strip by strip where its tables would be too large."""

from __future__ import annotations

import torch
from torch import Tensor

from glance_fast.dense.torch_pass import DensePass, dense_features
from glance_fast.models.global_net import GlobalNet
from glance_fast.models.model import GlanceModel
from glance_fast.plan.plan import Plan, refine_bands
from glance_fast.plan.strips import cut_strips

# Bytes that the tables of one strip may take.
MOST = 1 << 30


class StripPass:
    """A plan that is run strip by strip; the same calls and numbers as `DensePass`, without gradients."""

    def __init__(self, plan: Plan, device: torch.device | str = "cpu", most: int = MOST) -> None:
        self.plan = plan
        self.strips = cut_strips(plan, most)
        # Strips in the middle share a plan, and so a pass and its memory.
        distinct = {id(strip.plan): strip.plan for strip in self.strips}
        self._passes = {key: _whole(part, device) for key, part in distinct.items()}

    @torch.no_grad()
    def __call__(self, net: GlobalNet, images: Tensor) -> Tensor:
        """`z_g` of every location: [B, C, H, W] -> [B, locations, n]."""
        parts = [self._passes[id(strip.plan)](net, images[:, :, strip.rows]) for strip in self.strips]
        return torch.cat(parts, dim=1)


def make_pass(plan: Plan, device: torch.device | str = "cpu", most: int = MOST) -> DensePass | StripPass:
    """The pass of a plan, in strips where its tables would take more than `most` bytes; split on a CPU."""
    return _whole(plan, device) if plan.peak_bytes <= most else StripPass(plan, device, most)


def _whole(plan: Plan, device: torch.device | str) -> DensePass:
    # A GPU is quicker with few large products, a CPU with less to multiply.
    return DensePass(refine_bands(plan) if torch.device(device).type == "cpu" else plan, device)


def features(model: GlanceModel, dense: DensePass | StripPass, images: Tensor) -> tuple[Tensor, Tensor]:
    """`z_l` and `z_g`, each [B, locations, n], for normalised images [B, 3, H, W] on the model's grid.

    Local-Net too sees an image in strips where the dense pass does.
    """
    if isinstance(dense, DensePass):
        return dense_features(model, dense, images)
    padded, stride, patch = model.padded(images), model.config.stride, model.config.patch
    told, row = [], 0
    for strip in dense.strips:
        count = len(strip.plan.holes_y)
        seen = padded[:, :, row * stride : (row + count - 1) * stride + patch]
        told.append(model.local_net.describe(seen, stride)[0])
        row += count
    read = model.cropped(model.local_net.read(padded))
    z_local = model.local_net.join(torch.cat(told, dim=2), stride)
    return z_local.flatten(2).mT, dense(model.global_net, read)
