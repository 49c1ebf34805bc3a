"""The whole network: Local-Net, Global-Net, both heads and the score, one module with one configuration."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glance_fast.config import ModelConfig
from glance_fast.errors import ConfigError
from glance_fast.models import backbone_local_net as trunk
from glance_fast.models.global_net import GlobalNet, global_layers
from glance_fast.models.heads import DistortionHead, dad, iad
from glance_fast.models.local_net import LocalNet
from glance_fast.models.smoothing import blur_weights
from glance_fast.models.whitening import LocationNorm
from glance_fast.plan.plan import Plan, compile_plan

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class GlanceModel(nn.Module):
    """The networks of one `ModelConfig`. Scores come from `glance_fast.dense.torch_pass` or `glance_fast.dense.loop`.

    `usual` and `spread` bring the heads to one scale where residuals are whitened: a normal image's median location
    is 0, its highest 1.
    """

    mean: Tensor
    std: Tensor
    usual: Tensor
    spread: Tensor
    blur_rows: Tensor
    blur_cols: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.local_net = _local_net(config)
        spec = self.local_net.feature_map_spec
        layers = global_layers(config.global_channels, config.global_convs)
        self.global_net = GlobalNet(layers, config.features, config.readout, spec.channels)
        self.norm: LocationNorm | None = None
        if config.location_norm:
            rows, cols = self.grid
            self.norm = LocationNorm(len(rows) * len(cols), config.features + config.wide)
            self.register_buffer("usual", torch.zeros(2))
            self.register_buffer("spread", torch.ones(2))
        self.distortion = DistortionHead((2 if self.norm else 3) * config.features, config.dad_width)
        if config.smooth:
            for name, starts in zip(("blur_rows", "blur_cols"), self.grid, strict=True):
                weights = torch.from_numpy(blur_weights(len(starts), config.smooth))
                self.register_buffer(name, weights, persistent=False)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD)[:, None, None], persistent=False)

    @property
    def grid(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """First pixels of all patches along each axis; those that reach beyond the image start below 0."""
        rows, cols = self.config.patches
        return rows.starts, cols.starts

    def normalise(self, images: Tensor) -> Tensor:
        """What the networks see of images [B, 3, H, W] in 0..1: less ImageNet's mean, over its deviation."""
        return (images - self.mean) / self.std

    def from_uint8(self, images: Tensor) -> Tensor:
        """What the networks see of images uint8 [B, H, W, 3]: floating [B, 3, H, W]."""
        return self.normalise(images.permute(0, 3, 1, 2).to(self.mean.dtype) / 255)

    def padded(self, images: Tensor) -> Tensor:
        """Normalised images with the overhang around them, where everything has the mean colour."""
        return F.pad(images, (self.config.overhang,) * 4)

    def cropped(self, read: Tensor) -> Tensor:
        """The part of a map that Global-Net reads: the cells in the middle of whose field the image lies."""
        rows, cols = self.cells
        return read[:, :, rows.start : rows.stop, cols.start : cols.stop]

    @property
    def cells(self) -> tuple[range, range]:
        """The rows and columns of the map that Global-Net reads which lie in the image."""
        c, spec = self.config, self.local_net.feature_map_spec
        rows, cols = (spec.cells(side, c.overhang) for side in c.image_size)
        return rows, cols

    @property
    def local_macs(self) -> int:
        """Multiply-adds of Local-Net for one image with its overhang."""
        height, width = (side + 2 * self.config.overhang for side in self.config.image_size)
        return self.local_net.macs((height, width), self.config.stride)

    def plan(self, rows: Sequence[int] | None = None, cols: Sequence[int] | None = None) -> Plan:
        """The plan for the grid of patches, or for some of its rows and columns, by number.

        Raises ConfigError where Global-Net would see nothing.
        """
        c, spec = self.config, self.local_net.feature_map_spec
        holes: list[list[int]] = []
        size = 0
        for starts, some, cells in zip(self.grid, (rows, cols), self.cells, strict=True):
            chosen = starts if some is None else [starts[i] for i in some]
            seen = [spec.hole(start + c.overhang, c.patch) for start in chosen]
            size = len(seen[0])
            holes.append([hole.start - cells.start for hole in seen])
        read = tuple(len(cells) for cells in self.cells)
        layers = self.global_net.layers
        plan = compile_plan(layers, (read[0], read[1]), size, (holes[0], holes[1]), c.readout, spec.channels)
        if plan.blind():
            raise ConfigError(
                f"at {plan.blind()} of {plan.locations} locations the {c.patch}-pixel hole covers all that "
                "the read-out sees; use more global_channels levels, more global_convs, a larger readout "
                "or a smaller patch"
            )
        return plan

    @staticmethod
    def difference(z_local: Tensor, z_global: Tensor) -> Tensor:
        """z_l − z_g; of what stands behind z_l's first n numbers Global-Net expects nothing."""
        return z_local - F.pad(z_global, (0, z_local.shape[-1] - z_global.shape[-1]))

    def compare(self, z_local: Tensor, z_global: Tensor, which: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The difference that IAD measures, and what DAD's classifier sees, for features [B, m, n].

        `which` int64 [m] are the locations; without it they are all. Whitened: w, and the n of it that z_g was asked
        for beside z_g. Else: z_l − z_g, and z_l, z_g and the squared difference, so that the classifier starts from
        what IAD sees.
        """
        difference = self.difference(z_local, z_global)
        if self.norm is None:
            return difference, torch.cat([z_local, z_global, difference.square()], dim=-1)
        difference = self.norm(difference, which)
        return difference, torch.cat([difference[..., : z_global.shape[-1]], z_global], dim=-1)

    def heads(self, z_local: Tensor, z_global: Tensor) -> tuple[Tensor, Tensor]:
        """What the two heads say of all locations, each [B, locations], before λ.

        `s_IAD` and `s_DAD`; where residuals are whitened √s_IAD and DAD's logit of "not normal", which order
        locations the same and do not saturate, brought to one scale by `usual` and `spread`.
        """
        difference, seen = self.compare(z_local, z_global)
        logit = self.distortion(seen)
        if self.norm is None:
            return iad(difference), dad(logit)
        return (
            (iad(difference).sqrt() - self.usual[0]) / self.spread[0],
            (-logit - self.usual[1]) / self.spread[1],
        )

    def score(self, z_local: Tensor, z_global: Tensor) -> Tensor:
        """`s = λ·s_IAD + (1−λ)·s_DAD`, smoothed, for features [B, locations, n] of the whole grid: [B, locations]."""
        return self.mix(*self.heads(z_local, z_global))

    def mix(self, inconsistency: Tensor, distortion: Tensor) -> Tensor:
        """The score of what the two heads say, each [B, locations]."""
        lam = self.config.lam
        scores = lam * inconsistency + (1 - lam) * distortion
        if not self.config.smooth:
            return scores
        grid = scores.view(len(scores), len(self.blur_rows), len(self.blur_cols))
        smoothed: Tensor = self.blur_rows @ grid @ self.blur_cols.mT
        return smoothed.flatten(1)


def _local_net(config: ModelConfig) -> LocalNet | trunk.TrunkNet:
    if config.local_net == "plain":
        return LocalNet(config.patch, config.features, config.local_channels)
    block = config.read_block
    apart = trunk.feature_map_spec(block).stride
    legal = {
        "teacher": (config.teacher, config.teacher == "efficientnet-lite0", "efficientnet-lite0"),
        "patch": (config.patch, config.patch == trunk.PATCH, f"{trunk.PATCH}"),
        "stride": (config.stride, config.stride % apart == 0, f"a multiple of {apart} where read_block = {block}"),
        "features": (config.features, config.features <= trunk.WIDTH, f"at most {trunk.WIDTH}"),
    }
    wrong = [f"{name} must be {due}, got {given!r}" for name, (given, fits, due) in legal.items() if not fits]
    if wrong:
        raise ConfigError(f"local_net = 'trunk': {'; '.join(wrong)}; or use local_net = 'plain'")
    return trunk.TrunkNet(config.features, config.wide, block)
