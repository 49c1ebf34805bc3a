"""The stage of Global-Net: predict, behind holes, the z_l that Local-Net computes from the pixels in them."""

from __future__ import annotations

import logging

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from glance_fast.dense.strip_pass import make_pass
from glance_fast.dense.torch_pass import DensePass
from glance_fast.models.heads import iad
from glance_fast.training.base_stage import Context, Track, TrainingStage
from glance_fast.training.sampling import GridSubset, draw_grid_subset, draw_images

log = logging.getLogger("glance_fast")


class GlobalNetStage(TrainingStage):
    """Global-Net is trained by IAD through the dense pass, many holes per image; Local-Net is frozen."""

    name = "global"

    def __init__(self, context: Context, steps: int) -> None:
        super().__init__(context, steps)
        self.global_net = context.model.global_net
        # Predict zero at first. With a random projection the first steps are so large that every ReLU dies, in
        # particular on the teacher's map: s_IAD 1.0 after 120 steps, against 0.58 from zero.
        nn.init.zeros_(self.global_net.project.weight)
        self._dense: DensePass | None = None

    @torch.no_grad()
    def draw(self, rng: np.random.Generator) -> tuple[Tensor, ...]:
        c = self.context
        images = c.model.normalise(c.tensor(draw_images(c.photos, c.train.images_per_step, c.train.jitter, rng)))
        subset, self._dense = subset_pass(c, c.train.holes_per_axis, rng)
        encoded = c.model.local_net.encode_patch(c.model.padded(images), c.model.config.stride)
        return c.model.cropped(encoded.feature_map), encoded.z_patch.flatten(2).mT[:, subset.indices]

    def forward(self, *batch: Tensor) -> dict[str, Tensor]:
        feature_map, z_local = batch
        assert self._dense is not None
        return {"s_IAD": iad(z_local - self._dense(self.global_net, feature_map)).mean()}

    @torch.no_grad()
    def finalize_statistics(self, track: Track[NDArray[np.uint8]]) -> None:
        """Mean and covariance of the differences at every location, over all photographs, those held out included."""
        c, model = self.context, self.context.model
        dense = make_pass(model.compile_plan(), c.device)
        if model.whitening is None:
            return
        features = (dense.features(model, c.network_input(photos)) for photos in track(c.statistics_batches()))
        differences = (model.difference(*pair) for pair in features)
        model.whitening.fit(differences, c.train.whitening_shrinkage, pooled=c.train.whitening_pooling)
        log.info(
            "whitening: %.0f%% of each location's covariance is that of all locations",
            100 * model.whitening.pooled_fraction,
        )


def subset_pass(context: Context, count: int, rng: np.random.Generator) -> tuple[GridSubset, DensePass]:
    """Random rows and columns of the grid, `count` of each or all, and the dense pass of their holes."""
    rows, cols = context.model.grid
    subset = draw_grid_subset((len(rows), len(cols)), count, rng)
    return subset, DensePass(context.model.compile_plan(subset.rows, subset.cols), context.device)
