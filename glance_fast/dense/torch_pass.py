"""The dense pass: Global-Net for all locations at once, each distinct cell computed once, as a plan says.

A level is a table `base | entries | a zero row`. Its base is one ordinary pass over the image; its entries follow from
gathered rows of the table below.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glance_fast.dense.workspace import Workspace, Workspaces
from glance_fast.kernels.reference.gather import gather
from glance_fast.kernels.reference.max_pool import max_pool_windows
from glance_fast.kernels.reference.partial_conv import add_changes, changes, renormalise, tap_weights
from glance_fast.models.global_net import GlobalNet
from glance_fast.models.model import GlanceModel
from glance_fast.plan.layer import Ints
from glance_fast.plan.plan import Plan
from glance_fast.plan.step import Step

# Rows a matrix product takes at a time without gradients: the gathered windows then stay in a CPU's caches.
# 256x256, patch 32, stride 8, 2 cores: 1,024 rows 107 ms, 2,048 rows 105 ms, 4,096 rows 105 ms.
PIECE = 2048


@dataclass(frozen=True)
class Block:
    """A block of the plan on a device: `sources` int32 [entries, taps]."""

    entries: slice
    taps: tuple[int, ...]
    sources: Tensor
    recompute: bool

    def pieces(self) -> list[tuple[slice, Tensor]]:
        """The block cut into pieces of PIECE entries."""
        starts = range(self.entries.start, self.entries.stop, PIECE)
        parts = torch.split(self.sources, PIECE)
        return [(slice(start, start + len(part)), part) for start, part in zip(starts, parts, strict=True)]


class Layer:
    """The row tables of one step of a plan on a device."""

    def __init__(self, step: Step, device: torch.device | str, dtype: torch.dtype) -> None:
        def rows(numbers: Ints) -> Tensor:
            return torch.from_numpy(numbers).to(device, torch.int32)

        self.step, self.channels = step, step.layer.channels
        self.base = step.table.base
        self.blocks = [Block(one.entries, one.taps, rows(one.sources), one.recompute) for one in step.blocks()]
        self.homes_below, self.homes = rows(step.below.base_index()), rows(step.table.base_index())
        self.scale = (step.layer.kernel**2 / torch.from_numpy(step.valid_counts()).to(device, dtype))[:, None]

    def pool(self, image: Tensor) -> Tensor:
        return F.max_pool2d(image, self.step.layer.kernel)

    def sums(self, image: Tensor, conv: nn.Conv2d) -> Tensor:
        weight = conv.weight.contiguous(memory_format=torch.channels_last)
        return _rows(F.conv2d(image, weight, padding=self.step.layer.pad))

    def matrices(self, weight: Tensor) -> dict[tuple[int, ...], Tensor]:
        """What each block's windows are multiplied by, [taps * C, C'], by the taps that it reads."""
        every = tap_weights(weight).flatten(0, 1)
        return {taps: every[list(taps)].flatten(0, 1) for taps in {block.taps for block in self.blocks}}


class DensePass:
    """A plan on a device. Runs share nothing but the plan's tables, so any number of threads may run it.

    Without gradients it keeps the memory of its runs (of as many as ran at the same time) for the next ones.
    """

    def __init__(self, plan: Plan, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> None:
        self.plan = plan
        self.layers = [Layer(step, device, dtype) for step in plan.steps]
        self.readout = torch.from_numpy(plan.readout).to(device, torch.int32)
        self._spaces = Workspaces()

    def __call__(self, net: GlobalNet, images: Tensor) -> Tensor:
        """`z_g` of every location, differentiable in net and images: [B, C, H, W] -> [B, locations, n]."""
        # One image's tables at a time: a batch's would leave the caches and be paged in anew for every layer.
        if torch.is_grad_enabled():
            cells = torch.stack([self._recorded(net, image[None]) for image in images])
        else:
            with self._spaces.one() as space:
                cells = torch.stack([self._run(net, image[None], space) for image in images])
        out: Tensor = net.project(cells)
        return out

    def _run(self, net: GlobalNet, image: Tensor, space: Workspace) -> Tensor:
        """The cells that each location reads, [locations, C'], every table written in place."""
        first = self.plan.steps[0].below
        table = space.take("pixels", (first.zero + 1, image.shape[1]), image)
        table[:-1], table[-1] = _rows(image), 0
        convs = iter(net.convs)
        for i, layer in enumerate(self.layers):
            base = _image(table, layer.step.below.base_shape)
            out = space.take(f"table {i % 2}", (len(layer.scale) + 1, layer.channels), image)
            out[-1] = 0
            if layer.step.layer.kind == "pool":
                out[: layer.base] = _rows(layer.pool(base))
                self._pool(layer, table, out[layer.base : -1], space)
            else:
                self._conv(layer, table, _conv(next(convs)), out, space)
            table = out
        return gather(table, self.readout)

    def _pool(self, layer: Layer, table: Tensor, out: Tensor, space: Workspace) -> None:
        room = space.take("windows", (PIECE * layer.step.layer.kernel**2 * layer.channels,), table)
        for block in layer.blocks:
            for rows, sources in block.pieces():
                max_pool_windows(gather(table, sources, room), layer.channels, out[rows])

    def _conv(self, layer: Layer, table: Tensor, conv: nn.Conv2d, out: Tensor, space: Workspace) -> None:
        assert conv.bias is not None
        sums = layer.sums(_image(table, layer.step.below.base_shape), conv)
        renormalise(sums, layer.scale[: layer.base], conv.bias, out[: layer.base])
        changed = changes(table, layer.homes_below, space.take("changes", (len(table), table.shape[1]), table))
        entries, scale = out[layer.base : -1], layer.scale[layer.base :]
        torch.index_select(sums, 0, layer.homes, out=entries)
        room = space.take("windows", (PIECE * layer.step.layer.kernel**2 * table.shape[1],), table)
        matrices = layer.matrices(conv.weight)
        for block in layer.blocks:
            weight = matrices[block.taps]
            for rows, sources in block.pieces():
                some = entries[rows]
                if block.recompute:
                    torch.mm(gather(table, sources, room), weight, out=some)
                else:
                    add_changes(some, gather(changed, sources, room), weight, some)
                renormalise(some, scale[rows], conv.bias, some)

    def _recorded(self, net: GlobalNet, image: Tensor) -> Tensor:
        """The same as `_run`, recorded for gradients: [locations, C']."""
        table = F.pad(_rows(image), (0, 0, 0, 1))
        convs = iter(net.convs)
        for layer in self.layers:
            base = _image(table, layer.step.below.base_shape)
            if layer.step.layer.kind == "pool":
                windows = [gather(table, block.sources) for block in layer.blocks]
                rows = [_rows(layer.pool(base)), *(max_pool_windows(some, layer.channels) for some in windows)]
            else:
                rows = self._conv_recorded(layer, table, _conv(next(convs)))
            table = torch.cat([*rows, table.new_zeros(1, layer.channels)])
        return gather(table, self.readout)

    def _conv_recorded(self, layer: Layer, table: Tensor, conv: nn.Conv2d) -> list[Tensor]:
        assert conv.bias is not None
        sums = layer.sums(_image(table, layer.step.below.base_shape), conv)
        changed, matrices = changes(table, layer.homes_below), layer.matrices(conv.weight)
        shared = gather(sums, layer.homes[:, None])
        rows = []
        for block in layer.blocks:
            weight = matrices[block.taps]
            if block.recompute:
                rows.append(gather(table, block.sources) @ weight)
            else:
                rows.append(add_changes(shared[block.entries], gather(changed, block.sources), weight))
        return [renormalise(torch.cat([sums, *rows]), layer.scale, conv.bias)]


def _rows(image: Tensor) -> Tensor:
    """One image [1, C, H, W] as rows [H * W, C]."""
    return image[0].flatten(1).mT


def _image(table: Tensor, size: tuple[int, int]) -> Tensor:
    """The base of a table [N, C] as an image [1, C, H, W]."""
    return table[: size[0] * size[1]].view(1, *size, -1).permute(0, 3, 1, 2)


def _conv(module: nn.Module) -> nn.Conv2d:
    assert isinstance(module, nn.Conv2d)
    return module


def dense_features(model: GlanceModel, dense: DensePass, images: Tensor) -> tuple[Tensor, Tensor]:
    """`z_l` and `z_g`, each [B, locations, n], for normalised images [B, 3, H, W] on the model's grid."""
    z_local, read = model.local_net.see(model.padded(images), model.config.stride)
    return z_local.flatten(2).mT, dense(model.global_net, model.cropped(read))
