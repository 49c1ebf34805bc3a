"""From uint8 pixels to the scores of all locations, on the Triton kernels: what the CUDA engine captures."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from glance_fast.dense.triton_heads import TritonHeads
from glance_fast.dense.triton_pass import TritonPass, pack_conv
from glance_fast.kernels.gpu import ops
from glance_fast.kernels.gpu.pixel_conv import PixelConvGeometry
from glance_fast.models.model import GlanceModel


class TritonPipeline:
    """A model's weights, packed once for a device and a dtype (float32, float16 or bfloat16).

    Both networks compute in `dtype`; sums, whitening and heads in float32, with tf32 products where `dtype` is lower.
    """

    def __init__(self, model: GlanceModel, device: torch.device | str, dtype: torch.dtype = torch.float32) -> None:
        self._local = copy.deepcopy(model.local_net).to(device, dtype).eval()
        self._dense = TritonPass(model.compile_plan(), copy.deepcopy(model.global_net), device, dtype)
        self._heads = TritonHeads(model, device, "ieee" if dtype == torch.float32 else "tf32")
        self._pixels = torch.stack([1 / (255 * model.std), model.mean / model.std]).flatten(1).to(device)
        first, self._geometry = first_convolution(model)
        self._stem = pack_conv(first, device, dtype)
        self._stride = model.config.stride
        self._rows, self._cols = (slice(cells.start, cells.stop) for cells in model.cells)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Images uint8 [B, H, W, 3] at the model's size -> scores float32 [B, gy, gx]."""
        shape = self._geometry
        stem = ops.pixel_conv(images, self._pixels, *self._stem, shape.stride, shape.padding, shape.maximum)
        taps = self._local.taps_from_stem(stem.permute(0, 3, 1, 2), self._stride)
        z_local = self._local.z_local(taps.features, self._stride)
        if taps.feature_map is None:
            z_global = self._dense.from_pixels(images, self._pixels)
        else:
            z_global = self._dense(taps.feature_map[:, :, self._rows, self._cols])
        return self._heads(z_local.flatten(2).mT.float().contiguous(), z_global)


def first_convolution(model: GlanceModel) -> tuple[nn.Conv2d, PixelConvGeometry]:
    """Local-Net's first convolution, and its geometry on the model's grid."""
    stem = model.local_net.stem_layer(model.config.stride)
    return stem.conv, PixelConvGeometry(stem.stride, model.config.border_padding, stem.max_value)
