"""The stage of Global-Net: expect, behind holes, what Local-Net sees in them."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from glance_fast.data.batches import batched
from glance_fast.dense.strip_pass import make_pass
from glance_fast.dense.torch_pass import DensePass
from glance_fast.models.heads import iad
from glance_fast.training.base_stage import Context, Stage, Track
from glance_fast.training.sampling import Places, draw_images, draw_places


class Expect(Stage):
    """Global-Net learns by IAD through the dense pass, many holes an image; Local-Net is frozen."""

    name = "global"

    def __init__(self, context: Context, steps: int) -> None:
        super().__init__(context, steps)
        self.global_net = context.model.global_net
        # Expect nothing at first. From random expectations the first steps are so large that every ReLU dies, in
        # particular on the teacher's map: s_IAD 1.0 after 120 steps, where it is 0.58 from here.
        nn.init.zeros_(self.global_net.project.weight)
        self._dense: DensePass | None = None

    @torch.no_grad()
    def draw(self, rng: np.random.Generator) -> tuple[Tensor, ...]:
        c = self.context
        images = c.model.normalise(c.tensor(draw_images(c.photos, c.train.images_per_step, c.train.jitter, rng)))
        places, self._dense = random_locations(c, c.train.holes_per_axis, rng)
        encoded = c.model.local_net.encode_patch(c.model.padded(images), c.model.config.stride)
        return c.model.cropped(encoded.feature_map), encoded.z_patch.flatten(2).mT[:, places.numbers]

    def forward(self, *batch: Tensor) -> dict[str, Tensor]:
        read, z_local = batch
        assert self._dense is not None
        return {"s_IAD": iad(z_local - self._dense(self.global_net, read)).mean()}

    @torch.no_grad()
    def derive(self, track: Track[NDArray[np.uint8]]) -> None:
        """The statistics of the differences at every location, over all photographs."""
        model, dense = self.context.model, make_pass(self.context.model.compile_plan(), self.context.device)
        if model.whitening is None:
            return
        seen = (
            dense.features(model, network_input(self.context, photos)) for photos in track(photo_batches(self.context))
        )
        model.whitening.fit((model.difference(*both) for both in seen), self.context.train.whitening_shrinkage)


def random_locations(context: Context, count: int, rng: np.random.Generator) -> tuple[Places, DensePass]:
    """Random rows and columns of the grid, `count` of each or all, and the dense pass of their holes."""
    rows, cols = context.model.grid
    places = draw_places((len(rows), len(cols)), count, rng)
    return places, DensePass(context.model.compile_plan(places.rows, places.cols), context.device)


def photo_batches(context: Context, most: int | None = None) -> list[NDArray[np.uint8]]:
    """The training photographs, at most the first `most`, in batches."""
    photos = context.photos[:most]
    return list(batched(photos))


def network_input(context: Context, photos: NDArray[np.uint8]) -> Tensor:
    """Photographs uint8 [B, H, W, 3] as the networks see them."""
    return context.model.from_uint8(torch.from_numpy(photos).to(context.device))
