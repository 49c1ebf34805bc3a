"""The stages of a Local-Net that learns from the teacher: distil, then fine-tune on the target's normal images."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from glance_fast.training.base_stage import Context, Stage, balanced_bce
from glance_fast.training.sampling import (
    Floats,
    corners_near,
    cut,
    draw_corners,
    draw_images,
    stain_images,
    stained_pixels,
    step_rng,
)


class _Student(Stage):
    """Local-Net with its linear decoder D; `targets` are the teacher's features, standardised one by one."""

    def __init__(self, context: Context, steps: int, decoder: nn.Linear) -> None:
        super().__init__(context, steps)
        self.local_net = context.model.local_net
        self.decoder = decoder
        self._scale: tuple[Tensor, Tensor] | None = None

    def patches(self, rng: np.random.Generator, photos: NDArray[np.uint8]) -> Tensor:
        """A step's patches [N, 3, P, P] in 0..1, a few from each of some images."""
        c, patch = self.context, self.context.model.config.patch
        images, each = self._draw(rng, photos)
        parts = [cut(image, draw_corners(image.shape[:2], patch, each, rng), patch) for image in images]
        return c.tensor(np.concatenate(parts))

    def stained_patches(self, rng: np.random.Generator, photos: NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
        """As many patches, each with some of a stain in it, and how many of its pixels are stained: int64 [N]."""
        c, patch = self.context, self.context.model.config.patch
        images, each = self._draw(rng, photos)
        stained, masks = stain_images(images, c.stain, rng)
        corners = [corners_near(mask, patch, each, rng) for mask in masks]
        parts = [cut(image, where, patch) for image, where in zip(stained, corners, strict=True)]
        counts = [stained_pixels(mask, where, patch) for mask, where in zip(masks, corners, strict=True)]
        return c.tensor(np.concatenate(parts)), torch.from_numpy(np.concatenate(counts)).to(c.device)

    def _draw(self, rng: np.random.Generator, photos: NDArray[np.uint8]) -> tuple[Floats, int]:
        """Some images, and how many patches to cut from each."""
        train = self.context.train
        count = max(1, train.patches // 16)
        return draw_images(photos, count, train.jitter, rng), -(-train.patches // count)

    def distillation(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        """z_l [N, n] and `l_k = ‖D(L(p)) − R(p)‖²` a feature, of patches in 0..1."""
        z = self.local_net(self.context.model.normalise(patches)).flatten(1)
        mean, std = self._teacher_scale()
        return z, F.mse_loss(self.decoder(z), (self.context.teacher(patches) - mean) / std)

    @torch.no_grad()
    def _teacher_scale(self) -> tuple[Tensor, Tensor]:
        """Mean and deviation of each teacher feature over patches that depend on the seed alone."""
        if self._scale is None:
            rng = step_rng(self.context.train.seed, 0x5CA1E, 0, 0)
            features = torch.cat([self.context.teacher(self.patches(rng, self.context.photos)) for _ in range(8)])
            self._scale = features.mean(0), features.std(0) + 1e-4
        return self._scale


class Distil(_Student):
    """Local-Net learns what the teacher says of a patch, whether stained or not."""

    name = "distil"

    def draw(self, rng: np.random.Generator) -> tuple[Tensor, ...]:
        photos = self.context.distil_photos
        plain, (stained, _) = self.patches(rng, photos), self.stained_patches(rng, photos)
        # Every other patch of both, so that all images of the step are still among them.
        return (torch.cat([plain[::2], stained[::2]]),)

    def forward(self, *batch: Tensor) -> dict[str, Tensor]:
        return {"l_k": self.distillation(batch[0])[1]}


class FineTune(_Student):
    """Local-Net settles on the normal images: l_k + w·l_c, and v·l_s, which keeps what tells stains from normal.

    l_s is what the paper does not have: a small classifier of z_l alone, thrown away afterwards, tells stained patches
    from normal ones. `stain_weight = 0` is the paper's stage.
    """

    name = "fine-tune"

    def __init__(self, context: Context, steps: int, decoder: nn.Linear) -> None:
        super().__init__(context, steps, decoder)
        features, width = context.model.config.features, context.model.config.dad_width
        self.tell = nn.Sequential(nn.Linear(features, width), nn.ReLU(), nn.Linear(width, 1)).to(context.device)

    def draw(self, rng: np.random.Generator) -> tuple[Tensor, ...]:
        photos = self.context.photos
        return self.patches(rng, photos), *self.stained_patches(rng, photos)

    def forward(self, *batch: Tensor) -> dict[str, Tensor]:
        plain, stained, counts = batch
        train = self.context.train
        z, l_k = self.distillation(plain)
        z_stained = self.local_net(self.context.model.normalise(stained)).flatten(1)
        logit = self.tell(torch.cat([z, z_stained])).squeeze(1)
        normal, told = balanced_bce(logit, torch.cat([counts.new_zeros(len(z)), counts]))
        return {"l_k": l_k, "w l_c": train.compactness * compactness(z), "v l_s": train.stain_weight * (normal + told)}

    @torch.no_grad()
    def finish(self) -> None:
        """Fold mean and deviation of z_l into the projection: IAD is then 1 for a Global-Net that expects nothing."""
        rng = step_rng(self.context.train.seed, 0xF01D, 0, 0)
        seen = [self.context.model.normalise(self.patches(rng, self.context.photos)) for _ in range(16)]
        z = torch.cat([self.local_net(patches).flatten(1) for patches in seen])
        mean, std, project = z.mean(0), z.std(0) + 1e-6, self.local_net.project
        assert project.bias is not None
        project.weight /= std[:, None, None, None]
        project.bias.copy_((project.bias - mean) / std)


def compactness(z: Tensor) -> Tensor:
    """`l_c`: mean absolute off-diagonal correlation of features [N, n] over the batch."""
    centred = z - z.mean(0)
    unit = centred / (centred.norm(dim=0) + 1e-6)
    correlation = (unit.mT @ unit).abs()
    count = len(correlation)
    l_c: Tensor = (correlation.sum() - correlation.diagonal().sum()) / max(count * (count - 1), 1)
    return l_c
