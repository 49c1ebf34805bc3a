"""The reference of whole models: the per-patch loop in float64, once for each model and image."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from glance_fast.dense.loop import LoopPass
from glance_fast.models.model import GlanceModel

_cache: dict[str, tuple[Tensor, Tensor]] = {}
_conv2d = F.conv2d


def loop_of(model: GlanceModel, images: Tensor) -> tuple[Tensor, Tensor]:
    """`z_l` and `z_g` of normalised images [B, 3, H, W] by the loop, float64 [B, locations, n]; images are cast."""
    double = in_double(model)
    weights = digest(model.config.model_dump_json().encode(), *(part.numpy() for part in double.state_dict().values()))
    features = []
    for image in images.double():
        key = weights + digest(image.numpy())
        if key not in _cache:
            with torch.no_grad(), quick_depthwise():
                _cache[key] = LoopPass(double.compile_plan(), batch=2).features(double, image[None])
        features.append(_cache[key])
    z_local, z_global = zip(*features, strict=True)
    return torch.cat(z_local), torch.cat(z_global)


def loop_of_photos(model: GlanceModel, images: NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
    """The same of uint8 images [B, H, W, 3]."""
    return loop_of(model, in_double(model).from_uint8(torch.from_numpy(images)))


def loop_grids(model: GlanceModel, images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Scores of all locations of uint8 images [B, H, W, 3] by the loop, [B, gy, gx]."""
    with torch.no_grad():
        scores = in_double(model).score(*loop_of_photos(model, images))
    rows, cols = model.grid
    return scores.numpy().reshape(-1, len(rows), len(cols))


@contextmanager
def quick_depthwise() -> Iterator[None]:
    """Depthwise convolutions in float64 as sums of shifted maps: PyTorch's take three times as long."""
    with mock.patch.object(F, "conv2d", _shifted):
        yield


def in_double(model: GlanceModel) -> GlanceModel:
    """A copy of a model in float64."""
    double = GlanceModel(model.config).double()
    double.load_state_dict(model.state_dict())
    return double.eval()


def digest(*parts: Any) -> str:
    joined = hashlib.sha256()
    for part in parts:
        joined.update(np.ascontiguousarray(part).data if isinstance(part, np.ndarray) else part)
    return joined.hexdigest()


def _shifted(  # noqa: PLR0913 – PyTorch's own parameters
    x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
    groups: int = 1,
) -> Tensor:  # fmt: skip
    if not (groups == x.shape[1] == len(weight) and x.dtype == torch.float64):
        return _conv2d(x, weight, bias, stride, padding, dilation, groups)
    (down, right), (top, left), (low, wide) = (
        value if isinstance(value, tuple) else (value, value) for value in (stride, padding, dilation)
    )
    x = F.pad(x, (left, left, top, top))
    height = (x.shape[2] - low * (weight.shape[2] - 1) - 1) // down + 1
    width = (x.shape[3] - wide * (weight.shape[3] - 1) - 1) // right + 1
    sums = x.new_zeros(len(x), groups, height, width)
    for i, j in np.ndindex(*weight.shape[2:]):
        rows = slice(i * low, i * low + down * (height - 1) + 1, down)
        cols = slice(j * wide, j * wide + right * (width - 1) + 1, right)
        sums.addcmul_(x[:, :, rows, cols], weight[:, 0, i, j].view(-1, 1, 1))
    return sums if bias is None else sums.add_(bias.view(-1, 1, 1))
