"""A Local-Net from the teacher: its weights copied, its projection fitted to the normal photographs."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from glance_fast.nets.trunk import TrunkNet
from glance_fast.teachers import Teacher
from glance_fast.training.expect import as_seen, pieces
from glance_fast.training.stage import Context, Track


@torch.no_grad()
def copy_teacher(net: TrunkNet, teacher: Teacher) -> None:
    """Give `net` the convolutions that the teacher begins with, batch norms folded in, and freeze them."""
    ours = [module for part in (net.stem, net.blocks) for module in part.modules() if isinstance(module, nn.Conv2d)]
    theirs = [module for module in teacher.stages.modules() if isinstance(module, nn.Conv2d)]
    for mine, given in zip(ours, theirs, strict=False):
        assert mine.bias is not None and given.bias is not None
        mine.weight.copy_(given.weight)
        mine.bias.copy_(given.bias)
    net.requires_grad_(False)


@torch.no_grad()
def fit_projection(context: Context, track: Track[NDArray[np.uint8]]) -> None:
    """z_l = the main directions in which the taps vary at a location, each tap brought to mean 0, variance 1 first."""
    model, net = context.model, context.model.local_net
    assert isinstance(net, TrunkNet) and net.project.bias is not None
    count, batches = 0, pieces(context)
    place_sums: Tensor | None = None
    products = torch.zeros(net.project.in_channels, net.project.in_channels, dtype=torch.float64)
    for photos in track(batches):
        taps = net.describe(model.padded(as_seen(context, photos)), model.config.stride)[0].flatten(2).cpu()
        rows = taps.transpose(0, 1).flatten(1).double()
        products += rows @ rows.mT
        sums = taps.sum(0, dtype=torch.float64)
        place_sums = sums if place_sums is None else place_sums + sums
        count += len(photos)
    assert place_sums is not None
    means = place_sums / count
    mean, moment = means.mean(1), products / (count * means.shape[1])
    deviation = (moment.diagonal() - mean**2).clamp(min=1e-12).sqrt()
    within = (moment - means @ means.mT / means.shape[1]) / torch.outer(deviation, deviation)
    _, directions = np.linalg.eigh(within.numpy())
    weight = torch.from_numpy(directions[:, ::-1][:, : net.project.out_channels].T.copy()) / deviation
    net.project.weight.copy_(weight[:, :, None, None])
    net.project.bias.copy_(-(weight @ mean))
