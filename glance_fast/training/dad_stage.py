"""The stage of DAD: its classifier learns to tell locations of normal images from stained ones.

Local-Net and Global-Net are frozen, so what a step has seen stays true: the first steps add images to two pools of
locations, normal and stained, and every step learns from a draw of all that the pools hold.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from glance_fast.dense.strip_pass import make_pass
from glance_fast.training.base_stage import STAINED_PIXELS, Context, Stage, Track, balanced_bce
from glance_fast.training.global_stage import network_input, photo_batches, random_locations
from glance_fast.training.sampling import Ints, Places, changed_pixels, draw_images, stain_images

# Locations that an image gives to the pools at most, and that a pool holds at most: about 200 MB.
STAINED_EACH, NORMAL_EACH, MOST = 64, 96, 150_000
# Locations of both kinds that a step learns from.
STAINED_BATCH, NORMAL_BATCH = 1024, 2048
# A location is normal when nothing changed within this many strides of its middle.
CLEAR = 2
# Photographs that the heads' common scale is taken from.
SCALE_PHOTOS = 64


class Pool:
    """Rows [n, inputs] that grow at the end until there are MOST; then new ones take the place of the oldest."""

    def __init__(self, inputs: int) -> None:
        self._rows = torch.empty(0, inputs)
        self._added = 0

    def add(self, rows: Tensor) -> None:
        """Append rows [n, inputs]."""
        self._reserve(min(self._added + len(rows), MOST))
        self._rows[(self._added + torch.arange(len(rows))) % MOST] = rows
        self._added += len(rows)

    def _reserve(self, count: int) -> None:
        if count > len(self._rows):
            grown = self._rows.new_empty(min(2 * count, MOST), self._rows.shape[1])
            grown[: len(self._rows)] = self._rows
            self._rows = grown

    def draw(self, count: int, rng: np.random.Generator) -> Tensor:
        """`count` random rows, with repetition; none from an empty pool."""
        held = min(self._added, MOST)
        return self._rows[torch.from_numpy(rng.integers(max(held, 1), size=count if held else 0))]


class Judge(Stage):
    """C(z_l, z_g) -> normal or not, by cross-entropy."""

    name = "dad"

    def __init__(self, context: Context, steps: int) -> None:
        super().__init__(context, steps)
        self.distortion = context.model.distortion
        inputs = self.distortion.classify[0].in_features
        assert isinstance(inputs, int)
        self._normal, self._stained = Pool(inputs), Pool(inputs)
        self._to_gather = max(1, round(steps * context.train.dad_pool_fraction))

    def resume(self, past: Sequence[np.random.Generator]) -> None:
        for rng in past[: self._to_gather]:
            self._gather(rng)

    def draw(self, rng: np.random.Generator) -> tuple[Tensor, ...]:
        if self._to_gather:
            self._gather(rng)
        normal, stained = self._normal.draw(NORMAL_BATCH, rng), self._stained.draw(STAINED_BATCH, rng)
        changed = torch.cat([torch.zeros(len(normal)), torch.full((len(stained),), float(STAINED_PIXELS))])
        return torch.cat([normal, stained]).to(self.context.device), changed.to(self.context.device)

    def forward(self, *batch: Tensor) -> dict[str, Tensor]:
        seen, changed = batch
        normal, stained = balanced_bce(self.distortion(seen), changed)
        return {"normal": normal, "stained": stained}

    @torch.no_grad()
    def _gather(self, rng: np.random.Generator) -> None:
        """Add the locations of some new images to the pools: a stained one each, and a quarter as many plain ones."""
        self._to_gather -= 1
        c = self.context
        count = c.train.dad_images_per_step
        clean = draw_images(c.photos, count + max(1, count // 4), c.train.jitter, rng)
        stained, masks = stain_images(clean[:count], c.stain, rng)
        masks = np.concatenate([masks, np.zeros((len(clean) - count, *masks.shape[1:]), np.bool_)])
        images = c.model.normalise(c.tensor(np.concatenate([stained, clean[count:]])))
        places, dense = random_locations(c, c.train.dad_holes_per_axis, rng)
        encoded = c.model.local_net.encode_patch(c.model.padded(images), c.model.config.stride)
        z_global = dense(c.model.global_net, c.model.cropped(encoded.feature_map))
        which = torch.from_numpy(places.numbers).to(c.device)
        _, seen = c.model.head_inputs(encoded.z_patch.flatten(2).mT[:, which], z_global, which)
        for rows, mask in zip(seen.cpu(), masks, strict=True):
            own, near = (_changed(c, mask, places, reach) for reach in (0, CLEAR))
            self._stained.add(rows[_some(own >= STAINED_PIXELS, STAINED_EACH, rng)])
            self._normal.add(rows[_some(near == 0, NORMAL_EACH, rng)])

    @torch.no_grad()
    def derive(self, track: Track[NDArray[np.uint8]]) -> None:
        """Bring both heads to one scale, where residuals are whitened."""
        model = self.context.model
        if model.whitening is None:
            return
        dense = make_pass(model.compile_plan(), self.context.device)
        model.score_offset.zero_()
        model.score_scale.fill_(1)
        said: list[tuple[Tensor, Tensor]] = []
        for photos in track(photo_batches(self.context, SCALE_PHOTOS)):
            said.append(model.head_scores(*dense.features(model, network_input(self.context, photos))))
        for i in range(2):
            values = torch.cat([heads[i] for heads in said])
            model.score_offset[i] = values.median()
            model.score_scale[i] = (values.amax(1).median() - model.score_offset[i]).clamp(min=1e-6)


def _changed(context: Context, mask: NDArray[np.bool_], places: Places, reach: int) -> Ints:
    """Changed pixels in the part of the image that is each place's own in the map, and `reach` strides round it."""
    config = context.model.config
    spans = []
    for patches, numbers in zip(config.patches, (places.rows, places.cols), strict=True):
        first = np.array(patches.starts) + (config.patch - config.stride) // 2 - config.center_offset
        low, high = first - reach * config.stride, first + (1 + reach) * config.stride
        low[0], high[-1] = 0, patches.side  # what lies beyond the outermost middles is theirs
        spans.append(np.stack([low, high], axis=1)[list(numbers)].clip(0, patches.side))
    return changed_pixels(mask, spans[0], spans[1])


def _some(wanted: NDArray[np.bool_], most: int, rng: np.random.Generator) -> Tensor:
    """Numbers of at most `most` random places that are wanted."""
    return torch.from_numpy(rng.permutation(np.flatnonzero(wanted))[:most])
