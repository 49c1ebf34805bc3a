"""The whole network: Local-Net, Global-Net, both heads and the score, one module with one configuration."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from glance_fast.config import ModelConfig
from glance_fast.errors import ConfigError
from glance_fast.geometry import grid_starts
from glance_fast.nets.global_net import GlobalNet, global_layers
from glance_fast.nets.heads import DistortionHead, dad, iad
from glance_fast.nets.local_net import LocalNet
from glance_fast.plan import Plan, compile_plan

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class GlanceModel(nn.Module):
    """The networks of one `ModelConfig`. Scores come from `glance_fast.dense` or `glance_fast.loop`."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.local_net = LocalNet(config.patch, config.features, config.local_channels)
        layers = global_layers(config.global_channels, config.global_convs)
        self.global_net = GlobalNet(layers, config.features, config.readout)
        self.distortion = DistortionHead(config.features, config.dad_width)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD)[:, None, None], persistent=False)

    def normalise(self, images: Tensor) -> Tensor:
        """What the networks see of images [B, 3, H, W] in 0..1: less ImageNet's mean, over its deviation."""
        return (images - self.mean) / self.std

    def from_uint8(self, images: Tensor) -> Tensor:
        """What the networks see of images uint8 [B, H, W, 3]: floating [B, 3, H, W]."""
        return self.normalise(images.permute(0, 3, 1, 2).to(self.mean.dtype) / 255)

    def plan(self) -> Plan:
        """The plan for the whole grid of patches; ConfigError where Global-Net would see nothing."""
        c = self.config
        holes = [grid_starts(side, c.patch, c.stride) for side in c.image_size]
        plan = compile_plan(self.global_net.layers, c.image_size, c.patch, (holes[0], holes[1]), c.readout)
        if plan.blind():
            raise ConfigError(
                f"at {plan.blind()} of {plan.locations} locations the {c.patch}-pixel hole covers all that "
                "the read-out sees; use more global_channels levels, more global_convs, a larger readout "
                "or a smaller patch"
            )
        return plan

    def score(self, z_local: Tensor, z_global: Tensor) -> Tensor:
        """`s = λ·s_IAD + (1−λ)·s_DAD` for features [..., n]."""
        lam = self.config.lam
        return lam * iad(z_local, z_global) + (1 - lam) * dad(self.distortion(z_local, z_global))
