"""A Local-Net from the teacher: its weights copied, its linear parts fitted to the normal photographs."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from glance_fast.models.backbone_local_net import TrunkNet
from glance_fast.teachers import Teacher
from glance_fast.training.base_stage import Context, Track
from glance_fast.training.global_stage import as_seen, pieces


@torch.no_grad()
def copy_teacher(net: TrunkNet, teacher: Teacher) -> None:
    """Give `net` the convolutions that the teacher begins with, batch norms folded in, and freeze them."""
    parts = [net.stem, net.blocks, *([net.wide.blocks] if net.wide else [])]
    ours = [module for part in parts for module in part.modules() if isinstance(module, nn.Conv2d)]
    theirs = [module for module in teacher.stages.modules() if isinstance(module, nn.Conv2d)]
    for mine, given in zip(ours, theirs, strict=False):
        assert mine.bias is not None and given.bias is not None
        mine.weight.copy_(given.weight)
        mine.bias.copy_(given.bias)
    net.requires_grad_(False)


@torch.no_grad()
def fit_to_photographs(context: Context, track: Track[NDArray[np.uint8]]) -> None:
    """Set the linear parts of `net` that depend on what normal photographs look like.

    z_l = the main directions in which the taps vary at a location, each tap brought to mean 0, variance 1 first; c
    likewise of what is said of the surroundings; and the map that Global-Net reads is brought to mean 0, variance 1.
    """
    model, net = context.model, context.model.local_net
    assert isinstance(net, TrunkNet)
    taps, read, around = _Moments(), _Moments(), _Moments()
    for photos in track(pieces(context)):
        described = net.describe(model.padded(as_seen(context, photos)), model.config.stride)
        taps.add(described[0])
        read.add(model.cropped(described[1]))
        if net.wide is not None:
            around.add(net.wide.describe(net.last(described[0]), model.config.stride))
    net.read_mean.copy_(read.mean[:, None, None])
    net.read_deviation.copy_(read.deviation[:, None, None])
    taps.main_directions(net.project)
    if net.wide is not None:
        around.main_directions(net.wide.project)


class _Moments:
    """Running first and second moments, in float64 on the CPU, of the channels of maps [B, C, h, w]."""

    def __init__(self) -> None:
        self._maps = 0
        self._places = torch.zeros(0)
        self._products = torch.zeros(0)

    def add(self, maps: Tensor) -> None:
        flat = maps.flatten(2).cpu()
        rows = flat.transpose(0, 1).flatten(1).double()
        sums, products = flat.sum(0, dtype=torch.float64), rows @ rows.mT
        self._places = sums if self._maps == 0 else self._places + sums
        self._products = products if self._maps == 0 else self._products + products
        self._maps += len(maps)

    @property
    def _means(self) -> Tensor:
        return self._places / self._maps

    @property
    def _moment(self) -> Tensor:
        return self._products / (self._maps * self._places.shape[1])

    @property
    def mean(self) -> Tensor:
        return self._means.mean(1)

    @property
    def deviation(self) -> Tensor:
        return (self._moment.diagonal() - self.mean**2).clamp(min=1e-12).sqrt()

    def within(self) -> Tensor:
        """The covariance [C, C] left when each place's own mean is taken off."""
        return self._moment - self._means @ self._means.mT / self._places.shape[1]

    def main_directions(self, project: nn.Conv2d) -> None:
        """Set a 1x1 convolution to the main directions in which the maps vary at a place, with mean 0."""
        assert project.bias is not None
        within = self.within() / torch.outer(self.deviation, self.deviation)
        _, directions = np.linalg.eigh(within.numpy())
        weight = torch.from_numpy(directions[:, ::-1][:, : project.out_channels].T.copy()) / self.deviation
        project.weight.copy_(weight[:, :, None, None])
        project.bias.copy_(-(weight @ self.mean))
