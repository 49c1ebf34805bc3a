"""The interface of a training stage, and the data that all stages share."""

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
from glance_fast.data.batches import batched
from glance_fast.models.model import GlanceModel
from glance_fast.stains import Stain
from glance_fast.teachers import Teacher
from glance_fast.training.sampling import Floats

# A location with this many changed pixels or more is stained; with fewer, but not 0, it is left out.
STAINED_PIXELS = 6

Item = TypeVar("Item")
Track = Callable[[Sequence[Item]], Iterable[Item]]


@dataclass(frozen=True)
class Context:
    """What the stages share: the model in training, the teacher, the photographs uint8 [n, H, W, 3], the settings.

    `photos` train the networks; `statistics_photos` are those that statistics of locations are fitted to: `photos`, and
    those held out of training.
    """

    model: GlanceModel
    teacher: Teacher
    train: TrainConfig
    photos: NDArray[np.uint8]
    statistics_photos: NDArray[np.uint8]
    distil_photos: NDArray[np.uint8]
    stain: Stain

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        return self.model.mean.device

    def tensor(self, images: Floats) -> Tensor:
        """Images [B, H, W, 3] in 0..1 -> tensor [B, 3, H, W] in 0..1 on the run's device."""
        return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))).to(self.device)

    def photo_batches(self) -> list[NDArray[np.uint8]]:
        """The training photographs, in batches."""
        return list(batched(self.photos))

    def statistics_batches(self, limit: int | None = None) -> list[NDArray[np.uint8]]:
        """The photographs of the statistics, at most the first `limit`, in batches."""
        return list(batched(self.statistics_photos[:limit]))

    def network_input(self, photos: NDArray[np.uint8]) -> Tensor:
        """Normalised images [B, 3, H, W] on the run's device, of photographs uint8 [B, H, W, 3]."""
        return self.model.from_uint8(torch.from_numpy(photos).to(self.device))


class TrainingStage(nn.Module):
    """A stage of training: `draw` makes a step's tensors, `forward` returns its losses, whose sum is minimised.

    The parameters of the module are those that the stage trains and saves; the context is no submodule. `name` appears
    in file names and in the log.
    """

    name: str

    def __init__(self, context: Context, steps: int) -> None:
        super().__init__()
        self.context = context
        self.steps = steps

    def resume(self, past: Sequence[np.random.Generator]) -> None:
        """Prepare to continue after steps that drew from `past`; override if the stage caches earlier draws."""

    @abstractmethod
    def draw(self, rng: np.random.Generator) -> tuple[Tensor, ...]:
        """The tensors of one step, without gradients."""

    @abstractmethod
    def forward(self, *batch: Tensor) -> dict[str, Tensor]:
        """The losses of one step, by name."""

    def finish(self) -> None:
        """Change the stage's weights after the last step, before they are saved; does nothing by default."""

    def finalize_statistics(self, track: Track[NDArray[np.uint8]]) -> None:
        """Compute what depends on the finished weights and the photographs, and is not saved with the weights.

        Called after `finish`, and again when a run is resumed after this stage; `track` reports progress.
        """


def balanced_bce(logit_normal: Tensor, changed: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy of normal locations (0 changed pixels) and of stained ones, each averaged over its own class.

    Both classes have the same weight, however many locations a step's stains touched; locations with 1 to
    STAINED_PIXELS - 1 changed pixels are ignored.
    """
    normal, stained = changed == 0, changed >= STAINED_PIXELS
    loss = F.binary_cross_entropy_with_logits(logit_normal, normal.to(logit_normal.dtype), reduction="none")
    losses = [(loss * members).sum() / members.sum().clamp(min=1) for members in (normal, stained)]
    return losses[0], losses[1]
