"""The Triton kernels as operators of PyTorch, `torch.ops.glance_fast`, for `torch.compile` and `torch.export`.

Each has a fake implementation, which gives the shapes and dtypes of its results without running.
"""

from __future__ import annotations

import torch
from torch import Tensor

from glance_fast.kernels.gpu import (
    conv_pool as conv_pool_kernels,
    max_pool as max_pool_kernels,
    partial_conv as partial_conv_kernels,
    pixel_conv as pixel_conv_kernels,
    pixel_level as pixel_level_kernels,
    score as score_kernels,
)
from glance_fast.kernels.gpu.pixel_conv import PixelConvGeometry, conv_size
from glance_fast.kernels.gpu.score import HeadWeights
from glance_fast.kernels.gpu.tables import LevelTables


@torch.library.custom_op("glance_fast::partial_conv", mutates_args=())
def partial_conv(
    base: Tensor, changes: Tensor, weight: Tensor, bias: Tensor, tables: list[Tensor],
    entries: int, tile_size: int, as_changes: bool, precision: str,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """`partial_conv.partial_conv`; `tables` are the tensors of `LevelTables`, in its order."""
    level = LevelTables(entries, tile_size, *tables)
    return partial_conv_kernels.partial_conv(base, changes, weight, bias, level, as_changes, precision)


@partial_conv.register_fake
def _(
    base: Tensor, changes: Tensor, weight: Tensor, bias: Tensor, tables: list[Tensor],
    entries: int, tile_size: int, as_changes: bool, precision: str,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    return base.new_empty(*base.shape[:3], weight.shape[3]), base.new_empty(base.shape[0], entries, weight.shape[3])


@torch.library.custom_op("glance_fast::max_pool", mutates_args=())
def max_pool(
    base: Tensor, values: Tensor, size: int, tables: list[Tensor], entries: int, tile_size: int, as_changes: bool
) -> tuple[Tensor, Tensor]:
    """`max_pool.max_pool`."""
    return max_pool_kernels.max_pool(base, values, size, LevelTables(entries, tile_size, *tables), as_changes)


@max_pool.register_fake
def _(
    base: Tensor, values: Tensor, size: int, tables: list[Tensor], entries: int, tile_size: int, as_changes: bool
) -> tuple[Tensor, Tensor]:
    batch, height, width, channels = base.shape
    return base.new_empty(batch, height // size, width // size, channels), base.new_empty(batch, entries, channels)


@torch.library.custom_op("glance_fast::conv_pool", mutates_args=())
def conv_pool(
    base: Tensor, changes: Tensor, weight: Tensor, bias: Tensor, conv_tables: list[Tensor], size: int,
    tables: list[Tensor], entries: int, tile_size: int, as_changes: bool, precision: str,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """`conv_pool.conv_pool`; both tables as in `partial_conv`."""
    level = LevelTables(entries, tile_size, *tables)
    return conv_pool_kernels.conv_pool(base, changes, weight, bias, conv_tables, level, size, as_changes, precision)


@conv_pool.register_fake
def _(
    base: Tensor, changes: Tensor, weight: Tensor, bias: Tensor, conv_tables: list[Tensor], size: int,
    tables: list[Tensor], entries: int, tile_size: int, as_changes: bool, precision: str,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    (batch, height, width, _), channels_out = base.shape, weight.shape[3]
    return base.new_empty(batch, height // size, width // size, channels_out), base.new_empty(
        batch, entries, channels_out
    )


@torch.library.custom_op("glance_fast::pixel_conv", mutates_args=())
def pixel_conv(
    images: Tensor, pixels: Tensor, weight: Tensor, bias: Tensor, stride: int, padding: int, maximum: float
) -> Tensor:
    """`pixel_conv.pixel_conv`; the last three are those of `PixelConvGeometry`."""
    return pixel_conv_kernels.pixel_conv(images, pixels, weight, bias, PixelConvGeometry(stride, padding, maximum))


@pixel_conv.register_fake
def _(
    images: Tensor, pixels: Tensor, weight: Tensor, bias: Tensor, stride: int, padding: int, maximum: float
) -> Tensor:
    batch, *size, _ = images.shape
    height, width = (conv_size(side, weight.shape[0], PixelConvGeometry(stride, padding, maximum)) for side in size)
    return weight.new_empty(batch, height, width, weight.shape[3])


@torch.library.custom_op("glance_fast::pixel_level", mutates_args=())
def pixel_level(
    images: Tensor, pixels: Tensor, weight: Tensor, bias: Tensor, tables: list[Tensor],
    entries: int, tile_size: int, as_changes: bool, precision: str,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """`pixel_level.pixel_level`; `tables` as in `partial_conv`."""
    level = LevelTables(entries, tile_size, *tables)
    return pixel_level_kernels.pixel_level(images, pixels, weight, bias, level, as_changes, precision)


@pixel_level.register_fake
def _(
    images: Tensor, pixels: Tensor, weight: Tensor, bias: Tensor, tables: list[Tensor],
    entries: int, tile_size: int, as_changes: bool, precision: str,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    channels_out = weight.shape[3]
    return weight.new_empty(*images.shape[:3], channels_out), weight.new_empty(images.shape[0], entries, channels_out)


@torch.library.custom_op("glance_fast::score", mutates_args=())
def score(z_local: Tensor, z_global: Tensor, heads: list[Tensor], precision: str) -> Tensor:
    """`score.score`; `heads` are the tensors of `HeadWeights`, in its order."""
    return score_kernels.score(z_local, z_global, HeadWeights(*heads), precision)


@score.register_fake
def _(z_local: Tensor, z_global: Tensor, heads: list[Tensor], precision: str) -> Tensor:
    return z_local.new_empty(z_local.shape[:2])
