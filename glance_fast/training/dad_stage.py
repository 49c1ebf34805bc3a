"""The stage of DAD: its classifier learns to tell locations of normal images from stained ones.

Local-Net and Global-Net are frozen, so the inputs of a location stay valid: the first steps add images to two pools of
locations, normal and stained, and every step learns from a random draw of both pools.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from glance_fast.dense.strip_pass import make_pass
from glance_fast.training.base_stage import STAINED_PIXELS, Context, Track, TrainingStage, balanced_bce
from glance_fast.training.global_stage import subset_pass
from glance_fast.training.sampling import Floats, GridSubset, Ints, changed_pixels, draw_images, stain_images

# Locations that an image adds to the pools at most, and rows that a pool holds at most: about 200 MB.
MAX_STAINED_PER_IMAGE, MAX_NORMAL_PER_IMAGE, POOL_ROWS = 64, 96, 150_000
# Locations of both classes per step.
STAINED_BATCH, NORMAL_BATCH = 1024, 2048
# One unstained image per this many stained ones.
STAINED_PER_CLEAN = 4
# A location is normal when nothing changed within this many strides of its centre.
CLEAR_STRIDES = 2
# Photographs that the heads' common scale is computed from, and the smallest scale.
SCALE_PHOTOS, MIN_SCALE = 64, 1e-6


class SamplePool:
    """Rows [n, inputs] in a ring buffer of POOL_ROWS: further rows replace the oldest."""

    def __init__(self, inputs: int) -> None:
        self._rows = torch.empty(0, inputs)
        self._added = 0

    def add(self, rows: Tensor) -> None:
        """Append rows [n, inputs]."""
        self._reserve(min(self._added + len(rows), POOL_ROWS))
        self._rows[(self._added + torch.arange(len(rows))) % POOL_ROWS] = rows
        self._added += len(rows)

    def _reserve(self, count: int) -> None:
        if count > len(self._rows):
            grown = self._rows.new_empty(min(2 * count, POOL_ROWS), self._rows.shape[1])
            grown[: len(self._rows)] = self._rows
            self._rows = grown

    def draw(self, count: int, rng: np.random.Generator) -> Tensor:
        """`count` random rows, with repetition; no row from an empty pool."""
        size = min(self._added, POOL_ROWS)
        return self._rows[torch.from_numpy(rng.integers(max(size, 1), size=count if size else 0))]


class DadStage(TrainingStage):
    """DAD's classifier is trained by cross-entropy on normal and stained locations."""

    name = "dad"

    def __init__(self, context: Context, steps: int) -> None:
        super().__init__(context, steps)
        self.distortion = context.model.distortion
        inputs = self.distortion.classify[0].in_features
        assert isinstance(inputs, int)
        self._normal, self._stained = SamplePool(inputs), SamplePool(inputs)
        self._steps_to_gather = max(1, round(steps * context.train.dad_pool_fraction))

    def resume(self, past: Sequence[np.random.Generator]) -> None:
        """Add again what the past steps added to the pools."""
        for rng in past[: self._steps_to_gather]:
            self._gather(rng)

    def draw(self, rng: np.random.Generator) -> tuple[Tensor, ...]:
        if self._steps_to_gather:
            self._gather(rng)
        normal, stained = self._normal.draw(NORMAL_BATCH, rng), self._stained.draw(STAINED_BATCH, rng)
        changed = torch.cat([torch.zeros(len(normal)), torch.full((len(stained),), float(STAINED_PIXELS))])
        return torch.cat([normal, stained]).to(self.context.device), changed.to(self.context.device)

    def forward(self, *batch: Tensor) -> dict[str, Tensor]:
        inputs, changed = batch
        normal, stained = balanced_bce(self.distortion(inputs), changed)
        return {"normal": normal, "stained": stained}

    @torch.no_grad()
    def _gather(self, rng: np.random.Generator) -> None:
        """Add locations of further images to the pools."""
        self._steps_to_gather -= 1
        c, model = self.context, self.context.model
        photos, masks = self._draw_images(rng)
        images = model.normalise(c.tensor(photos))
        subset, dense = subset_pass(c, c.train.dad_holes_per_axis, rng)
        encoded = model.local_net.encode_patch(model.padded(images), model.config.stride)
        z_global = dense(model.global_net, model.cropped(encoded.feature_map))
        locations = torch.from_numpy(subset.indices).to(c.device)
        _, inputs = model.head_inputs(encoded.z_patch.flatten(2).mT[:, locations], z_global, locations)
        for rows, mask in zip(inputs.cpu(), masks, strict=True):
            inside, near = (_changed_per_location(c, mask, subset, reach) for reach in (0, CLEAR_STRIDES))
            self._stained.add(rows[_random_indices(inside >= STAINED_PIXELS, MAX_STAINED_PER_IMAGE, rng)])
            self._normal.add(rows[_random_indices(near == 0, MAX_NORMAL_PER_IMAGE, rng)])

    def _draw_images(self, rng: np.random.Generator) -> tuple[Floats, NDArray[np.bool_]]:
        """A step's stained images and a quarter as many clean ones, [B, H, W, 3], with the changed pixels [B, H, W]."""
        c, count = self.context, self.context.train.dad_images_per_step
        clean = draw_images(c.photos, count + max(1, count // STAINED_PER_CLEAN), c.train.jitter, rng)
        stained, masks = stain_images(clean[:count], c.stain, rng)
        unchanged = np.zeros((len(clean) - count, *masks.shape[1:]), np.bool_)
        return np.concatenate([stained, clean[count:]]), np.concatenate([masks, unchanged])

    @torch.no_grad()
    def finalize_statistics(self, track: Track[NDArray[np.uint8]]) -> None:
        """Set `score_offset` and `score_scale`, which bring both heads to one scale, where differences are whitened.

        The scale is that of new photographs: those of the statistics are whitened as if each were left out.
        """
        c, model = self.context, self.context.model
        if model.whitening is None:
            return
        model.score_offset.zero_()
        model.score_scale.fill_(1)
        dense = make_pass(model.compile_plan(), c.device)
        scores = [
            model.left_out_scores(*dense.features(model, c.network_input(photos)))
            for photos in track(c.statistics_batches(SCALE_PHOTOS))
        ]
        for head in range(2):
            values = torch.cat([pair[head] for pair in scores])
            model.score_offset[head] = values.median()
            model.score_scale[head] = (values.amax(1).median() - model.score_offset[head]).clamp(min=MIN_SCALE)


def _changed_per_location(context: Context, mask: NDArray[np.bool_], subset: GridSubset, reach: int) -> Ints:
    """Number of changed pixels in each location's cell of the map, dilated by `reach` strides."""
    config = context.model.config
    spans = []
    for patches, indices in zip(config.patches, (subset.rows, subset.cols), strict=True):
        first = np.array(patches.starts) + (config.patch - config.stride) // 2 - config.center_offset
        low, high = first - reach * config.stride, first + (1 + reach) * config.stride
        low[0], high[-1] = 0, patches.side  # the outermost cells extend to the image's borders
        spans.append(np.stack([low, high], axis=1)[list(indices)].clip(0, patches.side))
    return changed_pixels(mask, spans[0], spans[1])


def _random_indices(selected: NDArray[np.bool_], limit: int, rng: np.random.Generator) -> Tensor:
    """Indices of at most `limit` random true elements."""
    return torch.from_numpy(rng.permutation(np.flatnonzero(selected))[:limit])
