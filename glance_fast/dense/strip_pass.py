"""The dense pass of an image of any size in bounded memory: strip by strip where its tables would be too large."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from glance_fast.dense.base import Pass
from glance_fast.dense.torch_pass import DensePass
from glance_fast.models.global_net import GlobalNet
from glance_fast.models.model import GlanceModel
from glance_fast.plan.plan import Plan, refine_bands
from glance_fast.plan.strips import cut_strips

# Bytes that the tables of one strip may take.
MAX_STRIP_BYTES = 1 << 30


class StripPass:
    """A plan that is run strip by strip; the same calls and numbers as `DensePass`, without gradients."""

    def __init__(self, plan: Plan, device: torch.device | str = "cpu", max_bytes: int = MAX_STRIP_BYTES) -> None:
        self.plan = plan
        self._strips = cut_strips(plan, max_bytes)
        # Strips in the middle share a plan, and so a pass and its memory.
        distinct = {id(strip.plan): strip.plan for strip in self._strips}
        self._passes = {key: _dense_pass(part, device) for key, part in distinct.items()}

    @property
    def plans(self) -> Sequence[Plan]:
        """The plan of each strip."""
        return [strip.plan for strip in self._strips]

    @torch.no_grad()
    def __call__(self, net: GlobalNet, images: Tensor) -> Tensor:
        """`z_g` of every location: [B, C, H, W] -> [B, locations, n]."""
        parts = [self._passes[id(strip.plan)](net, images[:, :, strip.rows]) for strip in self._strips]
        return torch.cat(parts, dim=1)

    @torch.no_grad()
    def features(self, model: GlanceModel, images: Tensor) -> tuple[Tensor, Tensor]:
        """`z_l` and `z_g`, each [B, locations, n], for normalised images [B, 3, H, W] on the model's grid.

        Local-Net too reads the images in strips.
        """
        padded, stride, patch = model.padded(images), model.config.stride, model.config.patch
        parts, row = [], 0
        for strip in self._strips:
            count = len(strip.plan.holes_y)
            pixels = padded[:, :, row * stride : (row + count - 1) * stride + patch]
            parts.append(model.local_net.tap_features(pixels, stride))
            row += count
        read = model.cropped(model.local_net.feature_map(padded))
        z_local = model.local_net.z_local(torch.cat(parts, dim=2), stride)
        return z_local.flatten(2).mT, self(model.global_net, read)


def make_pass(plan: Plan, device: torch.device | str = "cpu", max_bytes: int = MAX_STRIP_BYTES) -> Pass:
    """The pass of a plan, in strips where its tables would take more than `max_bytes`; with refined bands on a CPU."""
    return _dense_pass(plan, device) if plan.peak_bytes <= max_bytes else StripPass(plan, device, max_bytes)


def _dense_pass(plan: Plan, device: torch.device | str) -> DensePass:
    # A GPU is quicker with few large products, a CPU with fewer multiply-adds.
    return DensePass(refine_bands(plan) if torch.device(device).type == "cpu" else plan, device)
