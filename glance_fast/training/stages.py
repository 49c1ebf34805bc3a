"""The paper's four stages: what each draws, what it computes, which weights it moves.

    distil     D(L(p)) → R(p)           l_k on patches, plain and stained
    fine-tune  l_k + w · l_c + v · l_s  on normal and stained patches; then z_l is brought to mean 0, variance 1
    global     s_IAD(z_l, z_g)          through the dense pass, many holes an image; L is frozen
    dad        C(z_l, z_g) → normal?    normal locations against stained ones; L and G are frozen
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from glance_fast.config import TrainConfig
from glance_fast.dense import DensePass
from glance_fast.nets.heads import iad
from glance_fast.nets.model import GlanceModel
from glance_fast.plan import compile_plan
from glance_fast.stains import Stain
from glance_fast.teachers import Teacher
from glance_fast.training.sampling import (
    Floats,
    Holes,
    corners_near,
    cut,
    draw_corners,
    draw_holes,
    draw_images,
    stain_images,
    stained_pixels,
    step_rng,
)

# A location counts as stained from this many changed pixels on; below it, but above 0, it is left out.
STAINED_PIXELS = 6


@dataclass(frozen=True)
class Context:
    """What the stages share: the model in training, the teacher, the photographs and the settings."""

    model: GlanceModel
    teacher: Teacher
    train: TrainConfig
    photos: NDArray[np.uint8]
    distil_photos: NDArray[np.uint8]
    stain: Stain

    @property
    def device(self) -> torch.device:
        return self.model.mean.device

    def tensor(self, images: Floats) -> Tensor:
        """Images [B, H, W, 3] in 0..1 -> tensor [B, 3, H, W] in 0..1 on the run's device."""
        return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))).to(self.device)


class Stage(nn.Module):
    """One stage: `draw` makes a step's tensors, `forward` turns them into losses, whose sum is minimised.

    The context is no submodule, so a stage's own parameters are those that it trains and saves.
    """

    name: str

    def __init__(self, context: Context, steps: int) -> None:
        super().__init__()
        self.context = context
        self.steps = steps

    @abstractmethod
    def draw(self, rng: np.random.Generator) -> tuple[Tensor, ...]:
        """The tensors of one step, without gradients."""

    @abstractmethod
    def forward(self, *batch: Tensor) -> dict[str, Tensor]:
        """The losses of one step, by name."""

    def finish(self) -> None:
        """What is left to do after the last step: nothing, in most stages."""


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


def _holes(context: Context, rng: np.random.Generator) -> tuple[Holes, DensePass]:
    config = context.model.config
    holes = draw_holes(config.image_size, config.patch, context.train.holes, rng)
    layers = context.model.global_net.layers
    plan = compile_plan(layers, config.image_size, config.patch, (holes.rows, holes.cols), config.readout)
    return holes, DensePass(plan, context.device)


@torch.no_grad()
def _local_features(context: Context, images: Tensor, holes: Holes) -> Tensor:
    """z_l [B, holes, n] of the patches at `holes`, for normalised images."""
    patch = context.model.config.patch
    patches = torch.stack([images[:, :, y : y + patch, x : x + patch] for y, x in holes.corners], dim=1)
    z: Tensor = context.model.local_net(patches.flatten(0, 1))
    return z.reshape(*patches.shape[:2], -1)


class Expect(Stage):
    """Global-Net learns to expect, behind holes, what Local-Net sees in them."""

    name = "global"

    def __init__(self, context: Context, steps: int) -> None:
        super().__init__(context, steps)
        self.global_net = context.model.global_net
        self._dense: DensePass | None = None

    def draw(self, rng: np.random.Generator) -> tuple[Tensor, ...]:
        c = self.context
        images = c.model.normalise(c.tensor(draw_images(c.photos, c.train.images, c.train.jitter, rng)))
        holes, self._dense = _holes(c, rng)
        return images, _local_features(c, images, holes)

    def forward(self, *batch: Tensor) -> dict[str, Tensor]:
        images, z_local = batch
        assert self._dense is not None
        return {"s_IAD": iad(z_local, self._dense(self.global_net, images)).mean()}


class Judge(Stage):
    """The DAD classifier learns to tell locations of normal images from stained ones."""

    name = "dad"

    def __init__(self, context: Context, steps: int) -> None:
        super().__init__(context, steps)
        self.distortion = context.model.distortion

    @torch.no_grad()
    def draw(self, rng: np.random.Generator) -> tuple[Tensor, ...]:
        c = self.context
        clean = draw_images(c.photos, c.train.images, c.train.jitter, rng)
        stained, masks = stain_images(clean, c.stain, rng)
        images = c.model.normalise(c.tensor(np.concatenate([clean, stained])))
        holes, dense = _holes(c, rng)
        patch = c.model.config.patch
        changed = np.stack([stained_pixels(mask, holes.corners, patch) for mask in masks])
        counts = np.concatenate([np.zeros_like(changed), changed])
        z_local, z_global = _local_features(c, images, holes), dense(c.model.global_net, images)
        return z_local, z_global, torch.from_numpy(counts).to(c.device)

    def forward(self, *batch: Tensor) -> dict[str, Tensor]:
        z_local, z_global, changed = batch
        normal, stained = balanced_bce(self.distortion(z_local, z_global), changed)
        return {"normal": normal, "stained": stained}


def balanced_bce(logit_normal: Tensor, changed: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy of normal locations (0 changed pixels) and of stained ones, each averaged over its own kind.

    Both kinds weigh the same, however many locations a step's stains happened to touch; between 0 and STAINED_PIXELS
    changed pixels a location counts as neither.
    """
    normal, stained = changed == 0, changed >= STAINED_PIXELS
    loss = F.binary_cross_entropy_with_logits(logit_normal, normal.to(logit_normal.dtype), reduction="none")
    parts = [(loss * kind).sum() / kind.sum().clamp(min=1) for kind in (normal, stained)]
    return parts[0], parts[1]


def build_stages(context: Context) -> list[Stage]:
    """The four stages in their order, on one model; what they start from depends on the seed alone."""
    train, features = context.train, context.model.config.features
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(train.seed)
        decoder = nn.Linear(features, context.teacher.dim).to(context.device)
        return [
            Distil(context, train.distil_steps, decoder),
            FineTune(context, train.finetune_steps, decoder),
            Expect(context, train.global_steps),
            Judge(context, train.dad_steps),
        ]
