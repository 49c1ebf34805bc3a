"""The interface of all passes: both networks' features for every location of a plan."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from glance_fast.models.global_net import GlobalNet
from glance_fast.models.model import GlanceModel
from glance_fast.plan.plan import Plan


class Pass(Protocol):
    """A plan on a device. `DensePass`, `StripPass` and the reference `LoopPass` give the same numbers.

    Any number of threads may call a pass at once.
    """

    plan: Plan

    @property
    def plans(self) -> Sequence[Plan]:
        """The plans that are run for one image: `plan` itself, or one per strip."""
        ...

    def __call__(self, net: GlobalNet, images: Tensor) -> Tensor:
        """`z_g` [B, locations, n] of every location, from what Global-Net reads, [B, C, H, W]."""
        ...

    def features(self, model: GlanceModel, images: Tensor) -> tuple[Tensor, Tensor]:
        """`z_l` and `z_g`, each [B, locations, n], of normalised images [B, 3, H, W].

        The plan's locations must be those of the model's grid.
        """
        ...
