"""The stages of a distilled Local-Net: distillation from the teacher, then fine-tuning on the normal images."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from glance_fast.training.base_stage import Context, TrainingStage, balanced_bce
from glance_fast.training.sampling import (
    FEATURE_SCALE_STREAM,
    TEACHER_SCALE_STREAM,
    Floats,
    corners_near,
    crop_patches,
    draw_corners,
    draw_images,
    stain_images,
    stained_pixels,
    step_rng,
)

PATCHES_PER_IMAGE = 16
# Steps' worth of patches that the teacher's scale and the scale of z_l are computed from.
TEACHER_SCALE_DRAWS, FEATURE_SCALE_DRAWS = 8, 16
# Added to deviations that are divided by.
MIN_TEACHER_DEVIATION, MIN_DEVIATION = 1e-4, 1e-6


class _LocalNetStage(TrainingStage):
    """Local-Net with its linear decoder D; the targets are the teacher's features, each standardised."""

    def __init__(self, context: Context, steps: int, decoder: nn.Linear) -> None:
        super().__init__(context, steps)
        self.local_net = context.model.local_net
        self.decoder = decoder
        self._scale: tuple[Tensor, Tensor] | None = None

    def patches(self, rng: np.random.Generator, photos: NDArray[np.uint8]) -> Tensor:
        """A step's patches [N, 3, P, P] in 0..1, several from each image drawn."""
        c, patch = self.context, self.context.model.config.patch
        images, per_image = self._draw_images(rng, photos)
        parts = [crop_patches(image, draw_corners(image.shape[:2], patch, per_image, rng), patch) for image in images]
        return c.tensor(np.concatenate(parts))

    def stained_patches(self, rng: np.random.Generator, photos: NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
        """As many patches, each of which covers a part of a stain, and their stained pixels: int64 [N]."""
        c, patch = self.context, self.context.model.config.patch
        images, per_image = self._draw_images(rng, photos)
        stained, masks = stain_images(images, c.stain, rng)
        corners = [corners_near(mask, patch, per_image, rng) for mask in masks]
        parts = [crop_patches(image, first, patch) for image, first in zip(stained, corners, strict=True)]
        counts = [stained_pixels(mask, first, patch) for mask, first in zip(masks, corners, strict=True)]
        return c.tensor(np.concatenate(parts)), torch.from_numpy(np.concatenate(counts)).to(c.device)

    def _draw_images(self, rng: np.random.Generator, photos: NDArray[np.uint8]) -> tuple[Floats, int]:
        """Random images, and the number of patches to cut from each."""
        train = self.context.train
        count = max(1, train.patches_per_step // PATCHES_PER_IMAGE)
        return draw_images(photos, count, train.jitter, rng), -(-train.patches_per_step // count)

    def distillation(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        """z_l [N, n] and `l_k = ‖D(L(p)) − R(p)‖²` per feature, of patches in 0..1."""
        z = self.local_net(self.context.model.normalise(patches)).flatten(1)
        mean, std = self._teacher_scale()
        return z, F.mse_loss(self.decoder(z), (self.context.teacher(patches) - mean) / std)

    @torch.no_grad()
    def _teacher_scale(self) -> tuple[Tensor, Tensor]:
        """Mean and deviation of each teacher feature over patches that depend on the seed alone."""
        if self._scale is None:
            c, rng = self.context, step_rng(self.context.train.seed, TEACHER_SCALE_STREAM, 0, 0)
            features = torch.cat([c.teacher(self.patches(rng, c.photos)) for _ in range(TEACHER_SCALE_DRAWS)])
            self._scale = features.mean(0), features.std(0) + MIN_TEACHER_DEVIATION
        return self._scale


class DistillationStage(_LocalNetStage):
    """Local-Net learns to predict the teacher's features of a patch, normal or stained."""

    name = "distil"

    def draw(self, rng: np.random.Generator) -> tuple[Tensor, ...]:
        photos = self.context.distil_photos
        normal, (stained, _) = self.patches(rng, photos), self.stained_patches(rng, photos)
        # Every second patch of both, so that all images of the step are still represented.
        return (torch.cat([normal[::2], stained[::2]]),)

    def forward(self, *batch: Tensor) -> dict[str, Tensor]:
        return {"l_k": self.distillation(batch[0])[1]}


class FineTuningStage(_LocalNetStage):
    """Local-Net adapts to the normal images: l_k + w·l_c + v·l_s.

    The paper does not have l_s: a small classifier of z_l, discarded afterwards, separates stained patches from normal
    ones, which keeps the features that differ between them. `stain_weight = 0` is the paper's stage.
    """

    name = "fine-tune"

    def __init__(self, context: Context, steps: int, decoder: nn.Linear) -> None:
        super().__init__(context, steps, decoder)
        features, width = context.model.config.features, context.model.config.dad_width
        classifier = nn.Sequential(nn.Linear(features, width), nn.ReLU(), nn.Linear(width, 1))
        self.classifier = classifier.to(context.device)

    def draw(self, rng: np.random.Generator) -> tuple[Tensor, ...]:
        photos = self.context.photos
        return self.patches(rng, photos), *self.stained_patches(rng, photos)

    def forward(self, *batch: Tensor) -> dict[str, Tensor]:
        normal, stained, counts = batch
        train = self.context.train
        z, l_k = self.distillation(normal)
        z_stained = self.local_net(self.context.model.normalise(stained)).flatten(1)
        logit = self.classifier(torch.cat([z, z_stained])).squeeze(1)
        loss_normal, loss_stained = balanced_bce(logit, torch.cat([counts.new_zeros(len(z)), counts]))
        return {
            "l_k": l_k,
            "w l_c": train.compactness_weight * compactness(z),
            "v l_s": train.stain_weight * (loss_normal + loss_stained),
        }

    @torch.no_grad()
    def finish(self) -> None:
        """Fold mean and deviation of z_l into the projection: IAD is then 1 for a Global-Net that predicts zero."""
        c, rng = self.context, step_rng(self.context.train.seed, FEATURE_SCALE_STREAM, 0, 0)
        batches = [c.model.normalise(self.patches(rng, c.photos)) for _ in range(FEATURE_SCALE_DRAWS)]
        z = torch.cat([self.local_net(patches).flatten(1) for patches in batches])
        mean, std, project = z.mean(0), z.std(0) + MIN_DEVIATION, self.local_net.project
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
