"""Images in memory of their own, for whoever reads ahead: a camera may fill its buffer anew for the next frame."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from glance_fast.data.images import ImageFile, is_tensor


def owned(image: Any) -> Any:
    """A copy of an array or a tensor and the bytes of a file, which later changes do not reach; all else as it is.

    Raises ImageError for a file that cannot be read.
    """
    if isinstance(image, (str, os.PathLike)):
        return ImageFile.read(Path(image))
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
