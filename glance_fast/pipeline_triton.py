"""From uint8 pixels to the scores of all locations, on the Triton kernels: what the CUDA engine captures."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from glance_fast.dense_triton import TritonPass, packed
from glance_fast.heads_triton import TritonHeads
from glance_fast.kernels import ops
from glance_fast.nets.model import GlanceModel
from glance_fast.nets.trunk import STEM_STRIDE, TrunkNet


class TritonPipeline:
    """A model's weights, packed once for a device and a dtype (float32, float16 or bfloat16).

    Both networks compute in `dtype`; sums, whitening and heads in float32, with tf32 products beside a lower `dtype`.
    """

    def __init__(self, model: GlanceModel, device: torch.device | str, dtype: torch.dtype = torch.float32) -> None:
        self._dtype = dtype
        self._local = copy.deepcopy(model.local_net).to(device, dtype).eval()
        self._dense = TritonPass(model.plan(), copy.deepcopy(model.global_net), device, dtype)
        self._heads = TritonHeads(model, device, "ieee" if dtype == torch.float32 else "tf32")
        self._pixels = torch.stack([1 / (255 * model.std), model.mean / model.std]).flatten(1).to(device)
        if isinstance(self._local, TrunkNet):
            self._stem = packed(self._local.stem, device, dtype)
        self._overhang, self._stride = model.config.overhang, model.config.stride
        self._rows, self._cols = (slice(cells.start, cells.stop) for cells in model.cells)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Images uint8 [B, H, W, 3] at the model's size -> scores float32 [B, gy, gx]."""
        if isinstance(self._local, TrunkNet):
            # uint8 pixels are all that is read of an image: the first convolution normalises them.
            stem = ops.pixel_conv(images, self._pixels, *self._stem, STEM_STRIDE, self._overhang, 6.0)
            z_local, read = self._local.see_behind(stem.permute(0, 3, 1, 2), self._stride)
        else:
            pixels = ops.normalise(images, *self._pixels, self._overhang, self._dtype)
            z_local, read = self._local.see(pixels.permute(0, 3, 1, 2), self._stride)
        z_global = self._dense(read[:, :, self._rows, self._cols])
        return self._heads(z_local.flatten(2).mT.float().contiguous(), z_global)
