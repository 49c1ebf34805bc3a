"""Initialises the pretrained Local-Net: weights copied from the teacher, linear parts fitted to normal photographs."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from glance_fast.models.backbone_local_net import PretrainedLocalNet
from glance_fast.teachers import Teacher
from glance_fast.training.base_stage import Context, Track


def initialise_from_teacher(context: Context, track: Track[NDArray[np.uint8]]) -> None:
    """Make a pretrained Local-Net of the context's model ready to use; it is not trained afterwards."""
    net = context.model.local_net
    if not isinstance(net, PretrainedLocalNet):
        return
    copy_teacher(net, context.teacher)
    fit_to_photographs(net, context, track)


@torch.no_grad()
def copy_teacher(net: PretrainedLocalNet, teacher: Teacher) -> None:
    """Copy the teacher's first convolutions, batch norms folded in, into `net`, and freeze them."""
    sources = [module for module in teacher.stages.modules() if isinstance(module, nn.Conv2d)]
    for target, source in zip(net.teacher_layers(), sources, strict=False):
        assert target.bias is not None and source.bias is not None
        target.weight.copy_(source.weight)
        target.bias.copy_(source.bias)
    net.requires_grad_(False)


@torch.no_grad()
def fit_to_photographs(net: PretrainedLocalNet, context: Context, track: Track[NDArray[np.uint8]]) -> None:
    """Fit the linear parts of `net` to the features of the normal photographs.

    z_patch: the principal directions in which the taps vary within a location, after each tap is brought to mean 0,
    variance 1. z_context: likewise of the context blocks. The feature map is brought to mean 0, variance 1.
    """
    model, step = context.model, context.model.config.stride
    taps, feature_map, surroundings = _Moments(), _Moments(), _Moments()
    for photos in track(context.photo_batches()):
        inputs = net.linear_inputs(model.padded(context.network_input(photos)), step)
        taps.add(inputs.taps)
        feature_map.add(model.cropped(inputs.feature_map))
        if inputs.context is not None:
            surroundings.add(inputs.context)
    net.set_feature_map_statistics(feature_map.mean, feature_map.deviation)
    taps.set_principal_directions(net.project)
    if net.context_project is not None:
        surroundings.set_principal_directions(net.context_project)


class _Moments:
    """Running first and second moments of the channels of maps [B, C, h, w], in float64 on the CPU."""

    def __init__(self) -> None:
        self._maps = 0
        self._sums = torch.zeros(0)
        self._products = torch.zeros(0)

    def add(self, maps: Tensor) -> None:
        """Add a batch of maps [B, C, h, w]."""
        flat = maps.flatten(2).cpu()
        rows = flat.transpose(0, 1).flatten(1).double()
        sums, products = flat.sum(0, dtype=torch.float64), rows @ rows.mT
        self._sums = sums if self._maps == 0 else self._sums + sums
        self._products = products if self._maps == 0 else self._products + products
        self._maps += len(maps)

    @property
    def _location_means(self) -> Tensor:
        return self._sums / self._maps

    @property
    def _second_moment(self) -> Tensor:
        return self._products / (self._maps * self._sums.shape[1])

    @property
    def mean(self) -> Tensor:
        """Mean of each channel, [C]."""
        return self._location_means.mean(1)

    @property
    def deviation(self) -> Tensor:
        """Standard deviation of each channel, [C]."""
        return (self._second_moment.diagonal() - self.mean**2).clamp(min=1e-12).sqrt()

    def within_locations(self) -> Tensor:
        """The covariance [C, C] after each location's own mean is subtracted."""
        return self._second_moment - self._location_means @ self._location_means.mT / self._sums.shape[1]

    def set_principal_directions(self, project: nn.Conv2d) -> None:
        """Set a 1x1 convolution to the principal directions in which the maps vary within a location, with mean 0."""
        assert project.bias is not None
        within = self.within_locations() / torch.outer(self.deviation, self.deviation)
        _, directions = np.linalg.eigh(within.numpy())
        weight = torch.from_numpy(directions[:, ::-1][:, : project.out_channels].T.copy()) / self.deviation
        project.weight.copy_(weight[:, :, None, None])
        project.bias.copy_(-(weight @ self.mean))
