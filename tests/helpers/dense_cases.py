"""Global-Nets with the plan of their holes, to hold a pass to the loop."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor

from glance_fast.dense.loop import LoopPass
from glance_fast.dense.torch_pass import DensePass
from glance_fast.models.global_net import GlobalNet
from glance_fast.plan.layer import Layer
from glance_fast.plan.patches import grid_starts
from glance_fast.plan.plan import Plan, compile_plan, refine_bands
from tests.helpers.reference import digest
from tests.helpers.tolerances import DTYPES, assert_close

Starts = Sequence[int]

_loops: dict[str, Tensor] = {}


@dataclass(frozen=True)
class DenseCase:
    """A Global-Net in float64, images and the plan of its holes."""

    net: GlobalNet
    images: Tensor
    plan: Plan

    def loop(self) -> Tensor:
        """The reference: float64, one masked image after the other; once for each net, images and holes."""
        plan, weights = self.plan, [weight.detach().numpy() for weight in self.net.parameters()]
        geometry = repr((self.net.layers, self.net.readout, plan.patch, plan.holes_y, plan.holes_x, self.images.shape))
        key = digest(geometry.encode(), *weights, self.images.numpy())
        if key not in _loops:
            with torch.no_grad():
                _loops[key] = LoopPass(plan, batch=16)(self.net, self.images)
        return _loops[key]

    def dense(self, dtype: torch.dtype, plan: Plan | None = None) -> Tensor:
        """What the dense pass computes in `dtype`."""
        with torch.no_grad():
            dense = DensePass(plan or self.plan, dtype=dtype)
            return dense(deepcopy(self.net).to(dtype), self.images.to(dtype))

    def check(self) -> None:
        """Hold the dense pass to the loop in every dtype, by this plan and by refined ones."""
        reference = self.loop()
        for plan in (self.plan, *(refine_bands(self.plan, min_keys) for min_keys in (3, 12))):
            for dtype in DTYPES:
                assert_close(self.dense(dtype, plan), reference, dtype)


def dense_case(
    layers: Sequence[Layer],
    size: tuple[int, int],
    patch: int,
    holes: tuple[Starts, Starts],
    readout: int = 1,
    batch: int = 1,
) -> DenseCase:
    """A case with random weights and biases, always the same."""
    torch.manual_seed(1)
    net = GlobalNet(list(layers), 5, readout).double()
    with torch.no_grad():
        for weight in net.parameters():
            if weight.dim() == 1:
                weight.normal_(0, 0.3)
    images = torch.randn(batch, 3, *size, dtype=torch.float64)
    return DenseCase(net, images, compile_plan(net.layers, size, patch, holes, readout))


def hole_grid(size: tuple[int, int], patch: int, stride: int) -> tuple[Starts, Starts]:
    """Where the holes of a regular grid start, rows and columns."""
    return grid_starts(size[0], patch, stride), grid_starts(size[1], patch, stride)
