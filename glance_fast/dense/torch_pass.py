"""The dense pass: Global-Net for all locations at once, each distinct cell computed once, as a plan says.

A level is a table `base | entries | a zero row`. Its base is one ordinary pass over the image; its entries follow from
gathered rows of the table below.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glance_fast.data.pool import Pool
from glance_fast.dense.device_step import DeviceStep, as_rows
from glance_fast.dense.workspace import Workspace
from glance_fast.kernels.reference.gather import gather
from glance_fast.models.global_net import GlobalNet
from glance_fast.models.model import GlanceModel
from glance_fast.plan.plan import Plan


class DensePass:
    """A plan on a device. Runs share nothing but the plan's tables, so any number of threads may run it.

    Without gradients it keeps the memory of its runs (of as many as ran at the same time) for the next ones.
    """

    def __init__(self, plan: Plan, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> None:
        self.plan = plan
        self.steps = [DeviceStep(step, device, dtype) for step in plan.steps]
        self.readout = torch.from_numpy(plan.readout).to(device, torch.int32)
        self._spaces = Pool(Workspace)

    @property
    def plans(self) -> Sequence[Plan]:
        """The plan, which is run as one."""
        return (self.plan,)

    def __call__(self, net: GlobalNet, images: Tensor) -> Tensor:
        """`z_g` of every location, differentiable in net and images: [B, C, H, W] -> [B, locations, n]."""
        # One image's tables at a time: a batch's would leave the caches and be paged in again for every layer.
        if torch.is_grad_enabled():
            cells = torch.stack([self._run_autograd(net, image[None]) for image in images])
        else:
            with self._spaces.lend() as space:
                cells = torch.stack([self._run(net, image[None], space) for image in images])
        out: Tensor = net.project(cells)
        return out

    def features(self, model: GlanceModel, images: Tensor) -> tuple[Tensor, Tensor]:
        """`z_l` and `z_g`, each [B, locations, n], for normalised images [B, 3, H, W] on the model's grid."""
        encoded = model.local_net.encode(model.padded(images), model.config.stride)
        return encoded.z_local.flatten(2).mT, self(model.global_net, model.cropped(encoded.feature_map))

    def _run(self, net: GlobalNet, image: Tensor, space: Workspace) -> Tensor:
        """The cells that each location reads, [locations, C'], every table written in place."""
        pixels = self.plan.steps[0].below
        table = space.buffer("pixels", (pixels.zero + 1, image.shape[1]), image)
        table[:-1], table[-1] = as_rows(image), 0
        for i, (step, conv) in enumerate(zip(self.steps, self.convs(net), strict=True)):
            out = space.buffer(f"table {i % 2}", (len(step.scale) + 1, step.channels), image)
            step.run(table, conv, out, space)
            table = out
        return gather(table, self.readout)

    def _run_autograd(self, net: GlobalNet, image: Tensor) -> Tensor:
        """The same as `_run`, recorded by autograd: [locations, C']."""
        table = F.pad(as_rows(image), (0, 0, 0, 1))
        for step, conv in zip(self.steps, self.convs(net), strict=True):
            table = step.run_autograd(table, conv)
        return gather(table, self.readout)

    def convs(self, net: GlobalNet) -> list[nn.Conv2d | None]:
        """The convolution of each step, None for a pool."""
        convs = iter(net.convs)
        return [_conv(next(convs)) if step.layer.kind == "conv" else None for step in self.plan.steps]


def _conv(module: nn.Module) -> nn.Conv2d:
    assert isinstance(module, nn.Conv2d)
    return module
