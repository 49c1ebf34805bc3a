"""Images in memory of their own, for whoever reads ahead: a camera may fill its buffer anew for the next frame."""

from __future__ import annotations

from typing import Any

import numpy as np

from glance_fast.data.images import is_tensor


def owned(image: Any) -> Any:
    """A copy of an array or a tensor, which later changes of the original do not reach; all else as it is."""
    if isinstance(image, np.ndarray):
        return image.copy()
    if not is_tensor(image):
        return image
    copy = image.detach().clone()
    settle(copy)
    return copy


def settle(image: Any) -> None:
    """Wait until the GPU has computed a tensor, before it goes to a thread whose work may be in another CUDA stream."""
    if is_tensor(image) and image.is_cuda:
        import torch

        torch.cuda.current_stream(image.device).synchronize()
