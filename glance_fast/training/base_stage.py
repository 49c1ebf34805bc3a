"""What a stage of training is, and what all stages share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from glance_fast.config import TrainConfig
from glance_fast.models.model import GlanceModel
from glance_fast.stains import Stain
from glance_fast.teachers import Teacher
from glance_fast.training.sampling import Floats

# A location counts as stained from this many changed pixels on; below it, but above 0, it is left out.
STAINED_PIXELS = 6

Item = TypeVar("Item")
Track = Callable[[Sequence[Item]], Iterable[Item]]


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

    def resume(self, past: Sequence[np.random.Generator]) -> None:
        """Go on after steps that drew from `past`; only a stage that keeps what it drew has something to do."""

    @abstractmethod
    def draw(self, rng: np.random.Generator) -> tuple[Tensor, ...]:
        """The tensors of one step, without gradients."""

    @abstractmethod
    def forward(self, *batch: Tensor) -> dict[str, Tensor]:
        """The losses of one step, by name."""

    def finish(self) -> None:
        """What is left to do to the stage's weights after the last step: nothing, in most stages."""

    def derive(self, track: Track[NDArray[np.uint8]]) -> None:
        """Set what follows from the finished weights and the photographs, and is therefore not saved with them.

        Called after `finish`, and again in a run that goes on later; `track` shows how far it is.
        """


def balanced_bce(logit_normal: Tensor, changed: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy of normal locations (0 changed pixels) and of stained ones, each averaged over its own kind.

    Both kinds weigh the same, however many locations a step's stains happened to touch; between 0 and STAINED_PIXELS
    changed pixels a location counts as neither.
    """
    normal, stained = changed == 0, changed >= STAINED_PIXELS
    loss = F.binary_cross_entropy_with_logits(logit_normal, normal.to(logit_normal.dtype), reduction="none")
    parts = [(loss * kind).sum() / kind.sum().clamp(min=1) for kind in (normal, stained)]
    return parts[0], parts[1]
