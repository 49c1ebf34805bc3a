"""The whole model: Local-Net, Global-Net, both heads and the score, one module built from one `ModelConfig`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glance_fast.config import ModelConfig
from glance_fast.errors import ConfigError
from glance_fast.models import backbone_local_net as backbone
from glance_fast.models.global_net import GlobalNet, global_layers
from glance_fast.models.heads import DistortionHead, dad, iad, weighted_score
from glance_fast.models.local_net import DistilledLocalNet
from glance_fast.models.patch_encoder import PatchEncoder
from glance_fast.models.smoothing import blur_weights
from glance_fast.models.whitening import LocationWhitening
from glance_fast.plan.plan import Plan, compile_plan
from glance_fast.teachers.base import IMAGENET_MEAN, IMAGENET_STD


class GlanceModel(nn.Module):
    """The networks of a `ModelConfig`; `glance_fast.dense` computes features of all locations with them.

    `score_offset` and `score_scale` bring the heads to one scale, where differences are whitened.
    """

    mean: Tensor
    std: Tensor
    score_offset: Tensor
    score_scale: Tensor
    blur_rows: Tensor
    blur_cols: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.local_net = _local_net(config)
        layers = global_layers(config.global_channels, config.global_convs)
        channels = self.local_net.feature_map_spec.channels
        self.global_net = GlobalNet(layers, config.features, config.readout, channels)
        self.whitening: LocationWhitening | None = None
        if config.location_whitening:
            rows, cols = self.grid
            self.whitening = LocationWhitening(len(rows) * len(cols), config.features + config.context_features)
            self.register_buffer("score_offset", torch.zeros(2))
            self.register_buffer("score_scale", torch.ones(2))
        self.distortion = DistortionHead((2 if self.whitening else 3) * config.features, config.dad_width)
        if config.smoothing_sigma:
            for name, starts in zip(("blur_rows", "blur_cols"), self.grid, strict=True):
                weights = torch.from_numpy(blur_weights(len(starts), config.smoothing_sigma))
                self.register_buffer(name, weights, persistent=False)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD)[:, None, None], persistent=False)

    @property
    def grid(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """First pixels of all patches along each axis; those that reach beyond the image start below 0."""
        rows, cols = self.config.patches
        return rows.starts, cols.starts

    def normalise(self, images: Tensor) -> Tensor:
        """Network input of images [B, 3, H, W] in 0..1: ImageNet's mean subtracted, divided by its deviation."""
        return (images - self.mean) / self.std

    def from_uint8(self, images: Tensor) -> Tensor:
        """Network input, floating [B, 3, H, W], of images uint8 [B, H, W, 3]."""
        return self.normalise(images.permute(0, 3, 1, 2).to(self.mean.dtype) / 255)

    def padded(self, images: Tensor) -> Tensor:
        """Normalised images with the border padding, whose colour is ImageNet's mean."""
        return F.pad(images, (self.config.border_padding,) * 4)

    def cropped(self, feature_map: Tensor) -> Tensor:
        """The cells of a padded image's feature map whose centres lie in the image: Global-Net's input."""
        rows, cols = self.cells
        return feature_map[:, :, rows.start : rows.stop, cols.start : cols.stop]

    @property
    def cells(self) -> tuple[range, range]:
        """Rows and columns of Local-Net's feature map whose centres lie in the image."""
        c, spec = self.config, self.local_net.feature_map_spec
        rows, cols = (spec.cells(side, c.border_padding) for side in c.image_size)
        return rows, cols

    @property
    def local_macs(self) -> int:
        """Multiply-adds of Local-Net for one image with its border padding."""
        height, width = (side + 2 * self.config.border_padding for side in self.config.image_size)
        return self.local_net.macs((height, width), self.config.stride)

    def plan(self, *_: Any, **__: Any) -> NoReturn:
        """The name of `compile_plan` in version 0.1.0; raises AttributeError."""
        raise AttributeError("GlanceModel.plan is now GlanceModel.compile_plan")

    def compile_plan(self, rows: Sequence[int] | None = None, cols: Sequence[int] | None = None) -> Plan:
        """Compile the plan for all patches, or for the `rows` and `cols` of the grid with these indices.

        Every call compiles anew. Raises ConfigError where a hole would hide all that Global-Net reads.
        """
        c, spec = self.config, self.local_net.feature_map_spec
        holes: list[list[int]] = []
        size = 0
        for starts, indices, cells in zip(self.grid, (rows, cols), self.cells, strict=True):
            chosen = starts if indices is None else [starts[i] for i in indices]
            ranges = [spec.hole(start + c.border_padding, c.patch) for start in chosen]
            size = len(ranges[0])
            holes.append([hole.start - cells.start for hole in ranges])
        height, width = (len(cells) for cells in self.cells)
        layers = self.global_net.layers
        plan = compile_plan(layers, (height, width), size, (holes[0], holes[1]), c.readout, spec.channels)
        if plan.blind():
            raise ConfigError(
                f"at {plan.blind()} of {plan.locations} locations the {c.patch}-pixel hole covers all that "
                "the read-out sees; use more global_channels levels, more global_convs, a larger readout "
                "or a smaller patch"
            )
        return plan

    @staticmethod
    def difference(z_local: Tensor, z_global: Tensor) -> Tensor:
        """`d = z_l − z_g` [..., n + m]; z_l's m context features are compared with zero."""
        return z_local - F.pad(z_global, (0, z_local.shape[-1] - z_global.shape[-1]))

    def head_inputs(self, z_local: Tensor, z_global: Tensor, locations: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The difference that IAD measures and the input of DAD's classifier, for features [B, locations, …].

        `locations` int64 [m] are the indices of the locations; None for all. With whitening: (w, [w[:n], z_g]);
        without: (z_l − z_g, [z_l, z_g, squared difference]).
        """
        difference = self.difference(z_local, z_global)
        if self.whitening is None:
            return difference, torch.cat([z_local, z_global, difference.square()], dim=-1)
        whitened = self.whitening(difference, locations)
        return whitened, self.classifier_input(whitened, z_global)

    @staticmethod
    def classifier_input(whitened: Tensor, z_global: Tensor) -> Tensor:
        """The input of DAD's classifier where differences are whitened: [w[:n], z_g]."""
        return torch.cat([whitened[..., : z_global.shape[-1]], z_global], dim=-1)

    def head_scores(self, z_local: Tensor, z_global: Tensor) -> tuple[Tensor, Tensor]:
        """s_IAD and s_DAD of all locations, each [B, locations], by the formulas in `glance_fast.models.heads`."""
        difference, inputs = self.head_inputs(z_local, z_global)
        if self.whitening is None:
            return iad(difference), dad(self.distortion(inputs))
        return self.whitened_scores(difference, inputs)

    def whitened_scores(self, whitened: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """s_IAD and s_DAD on their common scale, of w and the classifier's inputs, each [B, locations, …]."""
        return (
            (iad(whitened).sqrt() - self.score_offset[0]) / self.score_scale[0],
            (-self.distortion(inputs) - self.score_offset[1]) / self.score_scale[1],
        )

    def left_out_scores(self, z_local: Tensor, z_global: Tensor) -> tuple[Tensor, Tensor]:
        """`head_scores` of images that the whitening was fitted to, each as if it had been left out of the fit."""
        assert self.whitening is not None
        whitened = self.whitening.left_out(self.head_inputs(z_local, z_global)[0])
        return self.whitened_scores(whitened, self.classifier_input(whitened, z_global))

    def score(self, z_local: Tensor, z_global: Tensor) -> Tensor:
        """The smoothed score [B, locations] of features [B, locations, …] of the whole grid."""
        return self.combine(*self.head_scores(z_local, z_global))

    def combine(self, inconsistency: Tensor, distortion: Tensor) -> Tensor:
        """The smoothed score of s_IAD and s_DAD, each [B, locations]."""
        scores = weighted_score(inconsistency, distortion, self.config.iad_weight)
        if not self.config.smoothing_sigma:
            return scores
        grid = scores.view(len(scores), len(self.blur_rows), len(self.blur_cols))
        smoothed: Tensor = self.blur_rows @ grid @ self.blur_cols.mT
        return smoothed.flatten(1)


def _local_net(config: ModelConfig) -> PatchEncoder:
    if config.local_net == "distilled":
        return DistilledLocalNet(config.patch, config.features, config.local_channels)
    block = config.feature_block
    multiple = backbone.feature_map_spec(block).stride
    legal = {
        "teacher": (config.teacher, config.teacher == "efficientnet-lite0", "efficientnet-lite0"),
        "patch": (config.patch, config.patch == backbone.PATCH, f"{backbone.PATCH}"),
        "stride": (
            config.stride, config.stride % multiple == 0, f"a multiple of {multiple} where feature_block = {block}"
        ),
        "features": (config.features, config.features <= backbone.WIDTH, f"at most {backbone.WIDTH}"),
    }  # fmt: skip
    wrong = [f"{name} must be {rule}, got {value!r}" for name, (value, fits, rule) in legal.items() if not fits]
    if wrong:
        raise ConfigError(f"local_net = 'pretrained': {'; '.join(wrong)}; or use local_net = 'distilled'")
    return backbone.PretrainedLocalNet(config.features, config.context_features, block)
